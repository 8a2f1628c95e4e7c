"""Runs rows on peers and collects what was measured; nothing here prints tables or judges."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.bringup import Source, available, bring_up
from bench.load import Fio, Measured
from bench.memory import Filler, forget
from bench.mirrored import MIRRORED, Mirrored, QemuMirror
from bench.peers import PEERS, BareFile, Peer, Revolume
from bench.plan import MiB, Row, Scale
from bench.populated import populate
from bench.process import PeakMemory, cost, device_busy_seconds, device_bytes, settle
from bench.scrubbed import cat_rate, scrub_rate

GiB = 1 << 30
Say = Callable[[str], None]
PAST = ("horizon", "pinned")
"""States that are past the horizon."""
KNOWN: tuple[type[Peer], ...] = (*PEERS, *MIRRORED, QemuMirror)


@dataclass(slots=True)
class Result:
    """All repetitions of one row on one peer: figure name to one value a repetition."""

    row: str
    peer: str
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **figures: float | None) -> None:
        for name, value in figures.items():
            if value is not None:
                self.values.setdefault(name, []).append(value)


class Bench:
    def __init__(self, root: Path, sockets: Path, scale: Scale, only: Sequence[str], say: Say) -> None:
        self.root, self.sockets, self.scale, self.say = root, sockets, scale, say
        self.peers = [kind for kind in KNOWN if not only or kind.name in only]
        self.results: dict[tuple[str, str], Result] = {}
        self.notes: list[str] = []
        self.filler = Filler(root / "filler")

    def result(self, row: str, peer: str) -> Result:
        return self.results.setdefault((row, peer), Result(row, peer))

    def make(self, kind: type[Peer], size: int | None = None) -> Peer:
        peer = kind(self.root, size or self.scale.size)
        peer.socket = self.sockets / peer.folder.name
        return peer

    # -- the table's rows

    def interleaved(self, row: Row) -> None:
        times = self.scale.sustained_repetitions if row.state in PAST else self.scale.repetitions
        kinds = [kind for kind in self.peers if kind.name in row.peers]
        for repetition in range(times):
            for kind in rotated(kinds, repetition):
                peer = self.make(kind, row.size or None)
                if not peer.available():
                    continue
                try:
                    measured = self._once(row, peer, repetition)
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    self.notes.append(f"{row.key} on {kind.name}: {error}")
                    self.say(f"  {kind.name}: {error}")
                    continue
                finally:
                    peer.stop()
                    if peer.fresh or row.state == "fresh":
                        peer.clear()
                figure = measured.iops if row.metric == "iops" else measured.bytes_per_second / 1e6
                self.say(f"  {kind.name:14} {figure:12,.0f} {row.metric}   p50 {measured.p50_us:7.0f} µs")

    def _once(self, row: Row, peer: Peer, repetition: int) -> Measured:
        if peer.fresh or row.state == "fresh":
            peer.clear()
        peer.sparse = row.state == "fresh"
        peer.start(row.options if isinstance(peer, Revolume) else ())
        bare = isinstance(peer, BareFile)
        with PeakMemory(peer.pid) as memory:
            self._bring_to(row.state, peer, repetition)
            self._name(peer, row.snapshots)
            before = cost(peer.pid) if bare else settle(peer.pid, self.scale.quiet_seconds)
            os.sync()
            if row.state == "cold":
                forget(peer.folder)
            else:
                self.filler.fill(self.scale.fill_seconds * (4 if row.size else 1))
            device, busy, began = device_bytes(self.root), device_busy_seconds(self.root), time.monotonic()
            linked = peer.told() if isinstance(peer, Mirrored) else None
            uri = peer.uri.replace("/vol?", f"/{row.export}?")
            measured = row.load.run(uri, peer.size, seed=repetition + 1)
            took, busy_behind = time.monotonic() - began, device_busy_seconds(self.root)
            spent = cost(peer.pid) - before if bare else settle(peer.pid, self.scale.quiet_seconds) - before
            os.sync()
            written = device_bytes(self.root)
        client = measured.written_bytes
        result = self.result(row.key, peer.name)
        result.add(
            rate=measured.iops if row.metric == "iops" else measured.bytes_per_second / 1e6,
            p50=measured.p50_us,
            p99=measured.p99_us,
            cpu_per_gib=None if bare else spent.cpu / (measured.client_bytes / GiB),
            accounted=spent.disk_bytes / client if client and not bare else None,
            amplification=(written - device) / client if client and written and device else None,
            device_busy=(busy_behind - busy) / took if busy_behind is not None and busy is not None else None,
            rss=None if bare else memory.server,
            rss_helper=None if bare or not memory.helper else memory.helper,
        )
        if linked is not None and isinstance(peer, Mirrored):
            result.add(**_link_figures(linked, peer.told(), measured.client_bytes))
        return measured

    def _bring_to(self, state: str, peer: Peer, repetition: int) -> None:
        if state == "fresh":
            return
        if isinstance(peer, Revolume) or peer.name == "nbdkit memory":  # the others' files are written already
            Fio("write", MiB, 8, 600, amount=peer.size).run(peer.uri, peer.size, 99)
        if state == "aged":
            Fio("randwrite", 4096, 32, 600, amount=peer.size).run(peer.uri, peer.size, 77 + repetition)
        if state == "moment":
            command = [peer.program, "snapshot", str(peer.folder / "vol"), "before"]
            subprocess.run(command, check=True, capture_output=True)
            Fio("randwrite", 4096, 32, 600, amount=peer.size // 2).run(peer.uri, peer.size, 77 + repetition)
        if state in PAST and isinstance(peer, Revolume):
            # Past the horizon: the whole budget of log has been written once and is being used again.
            Fio("randwrite", 4096, 32, 600, amount=self.scale.budget * 3 // 2).run(peer.uri, peer.size, 55)

    def _name(self, peer: Peer, snapshots: int) -> None:
        for number in range(snapshots):
            command = [peer.program, "snapshot", str(peer.folder / "vol"), f"s{number}"]
            subprocess.run(command, check=True, capture_output=True)
            Fio("randwrite", 4096, 32, 600, amount=MiB).run(peer.uri, peer.size, 200 + number)

    # -- rows of ours alone

    def memory_sparse(self) -> None:
        """A 1 TiB sparse volume of which a little is touched, at random 4 KiB blocks."""
        peer = self.make(Revolume, self.scale.memory_size)
        peer.clear()
        peer.start()
        try:
            with PeakMemory(peer.pid) as memory:
                Fio("randwrite", 4096, 32, 600, amount=self.scale.memory_touched).run(peer.uri, peer.size, 3)
                settle(peer.pid, self.scale.quiet_seconds)
        finally:
            peer.stop()
            peer.clear()
        self.result("memory-sparse", peer.name).add(rss=memory.server, rss_helper=memory.helper or None)

    def memory_full(self) -> None:
        """A volume whose every block has been written, read and written at random: its maps are far larger than
        what memory may hold of them."""
        peer = self.make(Revolume, self.scale.full_size)
        peer.clear()
        peer.folder.mkdir(parents=True)
        began = time.monotonic()
        try:
            entries = asyncio.run(populate(peer.folder / "vol", "vol", peer.size))
            self.say(f"  {entries:,} entries made in {time.monotonic() - began:.0f} s")
            self._touch_full(peer)
        finally:
            peer.stop()
            peer.clear()

    def _touch_full(self, peer: Peer) -> None:
        began = time.monotonic()
        peer.start(wait=300)
        result = self.result("memory-full", peer.name)
        result.add(open_seconds=time.monotonic() - began)
        with PeakMemory(peer.pid) as memory:
            for rw in ("randwrite", "randread", "randwrite"):
                load = Fio(rw, 4096, 32, 120, amount=self.scale.full_touched)
                result.add(**{rw: load.run(peer.uri, peer.size, 5).iops})
            settle(peer.pid, self.scale.quiet_seconds)
        result.add(rss=memory.server, rss_helper=memory.helper or None)

    def crash_open(self) -> None:
        """Killed with a long log tail in the page cache: how long until the export answers again."""
        peer = self.make(Revolume)
        peer.clear()
        options = ("--cp-interval", "1h")
        peer.start(options)
        try:
            Fio("randwrite", 4096, 32, 600, amount=self.scale.tail).run(peer.uri, peer.size, 4)
            peer.stop(signal.SIGKILL)
            began = time.monotonic()
            peer.start(options, wait=300)
            Fio("randread", 4096, 1, 5, amount=4096).run(peer.uri, peer.size, 4)
            took = time.monotonic() - began
        finally:
            peer.stop()
            peer.clear()
        self.result("crash-open", peer.name).add(seconds=took)

    def scrub(self) -> None:
        """A volume that has been written twice and folded once is scrubbed, and read with dd, in turn."""
        peer = self.make(Revolume)
        peer.clear()
        peer.start(("--keep", "1s", "--cp-interval", "1s", "--budget", str(max(128 * MiB, self.scale.size // 4))))
        try:
            for rw in ("write", "randwrite"):
                Fio(rw, 256 << 10, 4, 600, amount=self.scale.size).run(peer.uri, peer.size, 6)
            settle(peer.pid, self.scale.quiet_seconds)
            for _ in range(self.scale.repetitions):
                folder = peer.folder / "vol"
                self.result("scrub", peer.name).add(cat=cat_rate(folder) / 1e6, rate=scrub_rate(folder) / 1e6)
        finally:
            peer.stop()
            peer.clear()

    def new_mirror(self) -> None:
        """A mirror brought up over a gigabit while clients write."""
        if not available():
            raise RuntimeError("no network namespace with a limited link can be made here (root, ip, tc)")
        source = Source(self.root, self.scale.new_mirror)
        source.socket = self.sockets / source.folder.name
        source.clear()
        source.folder.mkdir(parents=True)
        try:
            found = bring_up(source, Fio("randwrite", 4096, 4, self.scale.seconds * 2, time_based=True), 600)
        finally:
            source.clear()
        self.result("new-mirror", "revolume").add(**found)


def rotated(kinds: Sequence[type[Peer]], repetition: int) -> list[type[Peer]]:
    """The order of one repetition: every peer comes first once."""
    first = repetition % len(kinds) if kinds else 0
    return [*kinds[first:], *kinds[:first]]


def _link_figures(before: dict[str, float], after: dict[str, float], client_bytes: float) -> dict[str, float]:
    """What the link carried for what the clients wrote; points' share of it."""
    log, points = (after[name] - before[name] for name in ("log_bytes", "point_bytes"))
    return {"link": log / client_bytes, "points": points / max(1, log)}
