"""The rows of the table and the targets that they are held to.

A *row* is one load on every peer in turn, several times over, each time in another order: peer A, B, C, then
B, C, A, so that a slow minute of the machine hits all alike and nobody always follows the same one. Loads last by
time, except where copying a whole disk in is what is measured. A *target* compares figures of the same run with
one another, never with a figure from another day.

`state` is what the export has been through before the measured load:
  fresh     nothing: an empty volume, a sparse file
  written   every block written once, in order; caches warm, nothing in flight
  aged      then every block (on average) overwritten at random
  cold      written, and then the page cache forgets the files
  moment    written, a snapshot taken, and half of the blocks overwritten at random; the snapshot is what is read
  horizon   ours: a small budget, random writes until the log has been used up once and folding is going on
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.load import Fio, FuaWrites

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

OURS = ("revolume",)
STORES = ("revolume", "nbdkit file", "qemu-nbd")
ALL = (*STORES, "nbdkit memory", "fio on a file")
BESIDE = ("revolume sync", "qemu mirror job")
MIRRORED = ("revolume sync", "revolume async", "revolume sync TLS", "revolume async TLS", "qemu mirror job")


@dataclass(frozen=True, slots=True)
class Scale:
    """How long and how large. A quick run is for a look, not for a claim; a fair one repeats less often than a
    full one, on smaller exports. `mirrored`: the peers of the rows with a mirror."""

    name: str = "full"
    size: int = GiB
    seconds: float = 5.0
    repetitions: int = 5
    sustained_seconds: float = 60.0
    sustained_repetitions: int = 3
    ingest: int = 8 * GiB
    budget: int = 3 * GiB
    memory_size: int = 1 << 40
    memory_touched: int = GiB
    full_size: int = 1 << 40
    full_touched: int = 128 * MiB
    tail: int = 4 * GiB
    new_mirror: int = 10 * GiB
    many_snapshots: int = 100
    quiet_seconds: float = 1.0
    fill_seconds: float = 10.0
    mirrored: tuple[str, ...] = MIRRORED


QUICK = Scale(
    name="quick",
    size=128 * MiB,
    seconds=0.5,
    repetitions=1,
    sustained_seconds=3.0,
    sustained_repetitions=1,
    ingest=512 * MiB,
    budget=384 * MiB,
    memory_touched=64 * MiB,
    full_size=1 << 35,
    full_touched=64 * MiB,
    tail=256 * MiB,
    new_mirror=512 * MiB,
    many_snapshots=10,
    quiet_seconds=0.2,
    fill_seconds=0.2,
    mirrored=BESIDE,
)
FAIR = Scale(
    name="fair",
    size=512 * MiB,
    repetitions=2,
    sustained_seconds=15.0,
    sustained_repetitions=1,
    budget=1536 * MiB,
    memory_touched=256 * MiB,
    full_size=1 << 38,
    tail=2 * GiB,
    new_mirror=2 * GiB,
    quiet_seconds=0.5,
    fill_seconds=3.0,
    mirrored=BESIDE,
)
FULL = Scale()
SCALES = {scale.name: scale for scale in (QUICK, FAIR, FULL)}


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    title: str
    load: Fio | FuaWrites
    metric: str  # "iops" or "MB/s"
    peers: tuple[str, ...] = ALL
    state: str = "written"
    options: tuple[str, ...] = field(default=())  # of revolume serve
    size: int = 0  # of the export; 0: the scale's
    export: str = "vol"  # name of the export that is measured
    snapshots: int = 0  # taken just before, with writes between them


def rows(scale: Scale) -> list[Row]:
    """Every row, in the order in which they are measured."""
    return [*_small(scale), *_large(scale), *_synced(scale), *_long(scale)]


def _timed(rw: str, bs: int, depth: int, seconds: float, **more: int) -> Fio:
    return Fio(rw, bs, depth, seconds, time_based=True, **more)


def _small(scale: Scale) -> list[Row]:
    short, mirrored = scale.seconds, scale.mirrored
    write, mixed = "4 KiB random write", "4 KiB random, 70 % reads"
    return [
        Row("randwrite-32", f"{write}, depth 32", _timed("randwrite", 4 * KiB, 32, short), "iops",
            (*ALL, *mirrored)),
        Row("randwrite-1", f"{write}, depth 1", _timed("randwrite", 4 * KiB, 1, short), "iops",
            (*STORES, *mirrored)),
        Row("freshwrite-32", f"{write}, depth 32, fresh file", _timed("randwrite", 4 * KiB, 32, short), "iops",
            STORES, state="fresh"),
        Row("fourwrite-8", f"{write}, 4 connections of depth 8", _timed("randwrite", 4 * KiB, 8, short, jobs=4),
            "iops", STORES),
        Row("sectorwrite-32", "512 B random write, depth 32", _timed("randwrite", 512, 32, short), "iops", STORES),
        Row("unaligned-32", f"{write} at 512 B offsets, depth 32",
            _timed("randwrite", 4 * KiB, 32, short, align=512), "iops", STORES),
        Row("mixed-32", f"{mixed}, depth 32", _timed("randrw", 4 * KiB, 32, short, reads=70), "iops", STORES),
        Row("randread-32", "4 KiB random read, depth 32, cached", _timed("randread", 4 * KiB, 32, short), "iops",
            STORES),
        Row("randread-1", "4 KiB random read, depth 1, cached", _timed("randread", 4 * KiB, 1, short), "iops",
            STORES),
        Row("coldread-32", "4 KiB random read, depth 32, cold cache", _timed("randread", 4 * KiB, 32, short),
            "iops", STORES, state="cold"),
    ]  # fmt: skip


def _large(scale: Scale) -> list[Row]:
    short = scale.seconds
    read = _timed("read", 256 * KiB, 8, short)
    return [
        Row("ingest", f"256 KiB write of {scale.ingest / GiB:g} GiB to a fresh file",
            Fio("write", 256 * KiB, 8, 600, amount=scale.ingest), "MB/s", STORES, state="fresh",
            size=scale.ingest),
        Row("seqwrite", "256 KiB rewriting, depth 8", _timed("write", 256 * KiB, 8, short), "MB/s",
            (*ALL, *scale.mirrored)),
        Row("seqread", "256 KiB sequential read, depth 8", read, "MB/s", STORES),
        Row("agedread", "256 KiB sequential read after random overwrite", read, "MB/s", STORES, state="aged"),
        Row("coldseqread", "256 KiB sequential read, cold cache", read, "MB/s", STORES, state="cold"),
        Row("momentread", "256 KiB sequential read of a snapshot", read, "MB/s", OURS, state="moment",
            export="vol@before"),
    ]  # fmt: skip


def _synced(scale: Scale) -> list[Row]:
    return [
        Row(f"fua-{depth}", f"4 KiB random write with FUA, depth {depth}", FuaWrites(depth, scale.seconds), "iops",
            (*STORES, *scale.mirrored))
        for depth in (1, 32)
    ]  # fmt: skip


def _long(scale: Scale) -> list[Row]:
    long = scale.sustained_seconds
    past = ("--keep", "1s", "--budget", str(scale.budget), "--cp-interval", "2s")
    write, many = _timed("randwrite", 4 * KiB, 32, long), scale.many_snapshots
    return [
        Row("sustained", f"4 KiB random write, depth 32, {long:.0f} s past the horizon", write, "iops", STORES,
            state="horizon", options=past),
        Row("pinned-1", "the same while a snapshot is held", write, "iops", OURS, state="pinned", options=past,
            snapshots=1),
        Row("pinned-many", f"the same while {many} snapshots are held", write, "iops", OURS, state="pinned",
            options=past, snapshots=many),
        Row("recycled", f"256 KiB rewriting, {long:.0f} s past the horizon",
            _timed("write", 256 * KiB, 8, long), "MB/s", STORES, state="horizon", options=past),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """`left` over `right` is held to `bound`. A side is (row, peer, figure); no right: the figure itself. `times`:
    the ratio is multiplied by this figure."""

    title: str
    left: tuple[str, str, str]
    right: tuple[str, str, str] | None
    bound: float
    at_least: bool = True
    unit: str = "×"
    times: tuple[str, str, str] | None = None


def targets(scale: Scale, map_memory: int = 256 * MiB) -> list[Target]:
    def rate(row: str, peer: str = "revolume") -> tuple[str, str, str]:
        return (row, peer, "rate")

    ours, sync = "revolume", "revolume sync"
    return [
        Target(
            "random write / nbdkit memory",
            rate("randwrite-32"),
            rate("randwrite-32", "nbdkit memory"),
            0.8,
        ),
        Target("random write / nbdkit file", rate("randwrite-32"), rate("randwrite-32", "nbdkit file"), 1.4),
        Target("random write / qemu-nbd", rate("randwrite-32"), rate("randwrite-32", "qemu-nbd"), 3.0),
        Target("random write sustained / burst", rate("sustained"), rate("randwrite-32"), 0.5),
        Target("random write sustained / nbdkit file", rate("sustained"), rate("sustained", "nbdkit file"), 0.8),
        Target(
            "… × write amplification, where the device is the bound",
            rate("sustained"),
            rate("sustained", "nbdkit file"),
            0.8,
            times=("sustained", ours, "amplification"),
        ),
        Target("sustained with a snapshot / without", rate("pinned-1"), rate("sustained"), 0.8),
        Target(
            "its disk bytes with a snapshot / without",
            ("pinned-1", ours, "amplification"),
            ("sustained", ours, "amplification"),
            1.5,
            at_least=False,
        ),
        Target(
            f"its disk bytes with {scale.many_snapshots} snapshots / with one",
            ("pinned-many", ours, "amplification"),
            ("pinned-1", ours, "amplification"),
            1.3,
            at_least=False,
        ),
        Target("random read / nbdkit file", rate("randread-32"), rate("randread-32", "nbdkit file"), 1.2),
        Target("ingest on a fresh file / nbdkit file", rate("ingest"), rate("ingest", "nbdkit file"), 0.8),
        Target("ingest on a fresh file / qemu-nbd", rate("ingest"), rate("ingest", "qemu-nbd"), 1.2),
        Target(
            "disk bytes per client byte, ingest", ("ingest", ours, "amplification"), None, 1.15, at_least=False
        ),
        Target("256 KiB rewriting / nbdkit file", rate("seqwrite"), rate("seqwrite", "nbdkit file"), 0.8),
        Target("256 KiB sequential read / nbdkit file", rate("seqread"), rate("seqread", "nbdkit file"), 0.8),
        Target("FUA depth 1 / nbdkit file", rate("fua-1"), rate("fua-1", "nbdkit file"), 0.8),
        Target(
            "depth 1 write p50 / nbdkit file",
            ("randwrite-1", ours, "p50"),
            ("randwrite-1", "nbdkit file", "p50"),
            1.6,
            at_least=False,
        ),
        Target("FUA depth 32 / depth 1", rate("fua-32"), rate("fua-1"), 8.0),
        Target(
            "disk bytes per client byte, burst",
            ("randwrite-32", ours, "amplification"),
            None,
            2.2,
            at_least=False,
        ),
        Target(
            "disk bytes per client byte, sustained",
            ("sustained", ours, "amplification"),
            None,
            2.2,
            at_least=False,
        ),
        Target(
            f"peak memory, 1 TiB sparse, {scale.memory_touched // MiB} MiB touched",
            ("memory-sparse", ours, "rss"),
            None,
            220 * MiB,
            at_least=False,
            unit="MiB",
        ),
        Target(
            f"peak memory, every block of {scale.full_size // GiB} GiB mapped",
            ("memory-full", ours, "rss"),
            None,
            map_memory + 200 * MiB,
            at_least=False,
            unit="MiB",
        ),
        Target(
            f"open after a crash with {scale.tail // MiB} MiB of tail",
            ("crash-open", ours, "seconds"),
            None,
            10.0,
            at_least=False,
            unit="s",
        ),
        Target(
            "mirrored (sync) random write / nbdkit memory",
            rate("randwrite-32", sync),
            rate("randwrite-32", "nbdkit memory"),
            0.6,
        ),
        Target(
            "mirrored (sync) random write / nbdkit file",
            rate("randwrite-32", sync),
            rate("randwrite-32", "nbdkit file"),
            1.0,
        ),
        Target(
            "mirrored (sync) random write / qemu-nbd",
            rate("randwrite-32", sync),
            rate("randwrite-32", "qemu-nbd"),
            2.0,
        ),
        Target(
            "mirrored (sync) 256 KiB write / qemu-nbd", rate("seqwrite", sync), rate("seqwrite", "qemu-nbd"), 2.5
        ),
        Target(
            "mirrored (sync) depth 1 write p50 / alone",
            ("randwrite-1", sync, "p50"),
            ("randwrite-1", ours, "p50"),
            2.0,
            at_least=False,
        ),
        Target(
            f"share of a gigabit link while a new mirror of {scale.new_mirror / GiB:g} GiB comes up",
            ("new-mirror", ours, "link"),
            None,
            0.7,
        ),
        Target("scrub / dd of the same directory", ("scrub", ours, "rate"), ("scrub", ours, "cat"), 0.4),
        Target("clients' p99 meanwhile / before", ("new-mirror", ours, "p99"), None, 2.0, at_least=False),
        Target("link bytes per client byte, depth 1", ("randwrite-1", sync, "link"), None, 1.03, at_least=False),
        Target(
            "consistency points' share of the link, whole blocks",
            ("randwrite-32", sync, "points"),
            None,
            0.01,
            at_least=False,
        ),
    ]
