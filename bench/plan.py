"""The rows of the table and the targets that they are held to.

A *row* is one load on every peer in turn, several times over: peer A, B, C, then A, B, C again, so that a
slow minute of the machine hits all alike. A *target* compares figures of the same run with one another,
never with a figure from another day.

`state` is what the export has been through before the measured load:
  written   every block written once, in order; caches warm, nothing in flight
  aged      then every block (on average) overwritten at random
  horizon   ours: a small budget, random writes until the log has been used up once and folding is going on
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.load import Fio, FuaWrites

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

STORES = ("revolume", "nbdkit file", "qemu-nbd")
ALL = (*STORES, "nbdkit memory", "fio on a file")
SERVERS = ALL[:-1]
MIRRORED = ("revolume sync", "revolume async", "revolume sync TLS", "revolume async TLS", "qemu mirror job")


@dataclass(frozen=True, slots=True)
class Scale:
    """How long and how large. A quick run is for a look, not for a claim; a fair one repeats as often as a full
    one, on exports and loads that are smaller."""

    name: str = "full"
    size: int = GiB
    seconds: float = 5.0
    repetitions: int = 5
    sustained_seconds: float = 60.0
    sustained_repetitions: int = 5
    budget: int = 3 * GiB
    memory_size: int = 1 << 40
    memory_touched: int = GiB
    full_size: int = 1 << 40
    full_touched: int = 128 * MiB
    tail: int = 4 * GiB
    new_mirror: int = 10 * GiB
    quiet_seconds: float = 1.0


QUICK = Scale(
    name="quick",
    size=128 * MiB,
    seconds=0.7,
    repetitions=1,
    sustained_seconds=5.0,
    sustained_repetitions=1,
    budget=512 * MiB,
    memory_touched=64 * MiB,
    full_size=1 << 36,
    full_touched=64 * MiB,
    tail=256 * MiB,
    new_mirror=512 * MiB,
    quiet_seconds=0.2,
)
FAIR = Scale(
    name="fair",
    size=512 * MiB,
    seconds=2.5,
    sustained_repetitions=1,
    budget=1536 * MiB,
    memory_touched=256 * MiB,
    new_mirror=4 * GiB,
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


def rows(scale: Scale) -> list[Row]:
    short, long = scale.seconds, scale.sustained_seconds
    return [
        Row(
            "randwrite-32",
            "4 KiB random write, depth 32, burst",
            Fio("randwrite", 4 * KiB, 32, short),
            "iops",
            (*ALL, *MIRRORED),
        ),
        Row(
            "randwrite-1",
            "4 KiB random write, depth 1",
            Fio("randwrite", 4 * KiB, 1, short),
            "iops",
            (*ALL, *MIRRORED),
        ),
        Row("randread-32", "4 KiB random read, depth 32, cached", Fio("randread", 4 * KiB, 32, short), "iops"),
        Row("randread-1", "4 KiB random read, depth 1, cached", Fio("randread", 4 * KiB, 1, short), "iops"),
        Row(
            "seqwrite",
            "256 KiB sequential write, depth 8, burst",
            Fio("write", 256 * KiB, 8, short),
            "MB/s",
            (*ALL, *MIRRORED),
        ),
        Row("seqread", "256 KiB sequential read, depth 8", Fio("read", 256 * KiB, 8, short), "MB/s"),
        Row(
            "agedread",
            "256 KiB sequential read after random overwrite",
            Fio("read", 256 * KiB, 8, short),
            "MB/s",
            state="aged",
        ),
        Row("fua-1", "4 KiB random write with FUA, depth 1", FuaWrites(1, short), "iops", SERVERS),
        Row("fua-32", "4 KiB random write with FUA, depth 32", FuaWrites(32, short), "iops", SERVERS),
        Row(
            "sustained",
            f"4 KiB random write, depth 32, {long:.0f} s past the horizon",
            Fio("randwrite", 4 * KiB, 32, long, time_based=True),
            "iops",
            STORES,
            state="horizon",
            options=("--keep", "1s", "--budget", str(scale.budget), "--cp-interval", "2s"),
        ),
    ]


@dataclass(frozen=True, slots=True)
class Target:
    """`left` over `right` is held to `bound`. A side is (row, peer, figure); no right: the figure itself."""

    title: str
    left: tuple[str, str, str]
    right: tuple[str, str, str] | None
    bound: float
    at_least: bool = True
    unit: str = "×"


def targets(scale: Scale, map_memory: int = 256 * MiB) -> list[Target]:
    def rate(row: str, peer: str = "revolume") -> tuple[str, str, str]:
        return (row, peer, "rate")

    ours, sync = "revolume", "revolume sync"
    return [
        Target(
            "random write burst / nbdkit memory",
            rate("randwrite-32"),
            rate("randwrite-32", "nbdkit memory"),
            0.8,
        ),
        Target("random write burst / nbdkit file", rate("randwrite-32"), rate("randwrite-32", "nbdkit file"), 1.4),
        Target("random write burst / qemu-nbd", rate("randwrite-32"), rate("randwrite-32", "qemu-nbd"), 3.0),
        Target("random write sustained / burst", rate("sustained"), rate("randwrite-32"), 0.5),
        Target("random read / nbdkit file", rate("randread-32"), rate("randread-32", "nbdkit file"), 1.2),
        Target("256 KiB write burst / nbdkit file", rate("seqwrite"), rate("seqwrite", "nbdkit file"), 1.2),
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
