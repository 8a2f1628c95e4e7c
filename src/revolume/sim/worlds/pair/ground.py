"""Two machines, what runs on them, and who answers for a write: the ground that everything in a pair stands on.

What is promised depends on the mirror's mode, and on whose memory is lost. In ``sync`` mode an answered write
lies in the log files of both, so it is there as long as one of the two that had it has not lost its power since;
a flushed one is on both disks, and survives both. In ``async`` mode the primary alone answers for it, and a
mirror that is promoted holds some prefix.
"""

from __future__ import annotations

from collections.abc import Callable

from revolume.cli.serving import Serving
from revolume.sim.machine import Machine
from revolume.sim.platter import Platter
from revolume.sim.register import NEVER, Written
from revolume.sim.service import PATH, MirrorService, PrimaryService
from revolume.sim.worlds.world import KiB, MiB, World
from revolume.volume.base_history import History
from revolume.volume.volume import Volume


class PairGround(World):
    """See the module's text. ``first`` has the primary, ``second`` the mirror, whichever machine that is now."""

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        chance = self.chance.stream("geometry")
        self.sync = chance.hit(0.65)
        self.first, self.second = self.machine("a"), self.machine("b")
        self.intruder = self.machine("z")
        self.primary: PrimaryService | None = None
        self.mirror: MirrorService | None = None
        self._uneven = chance.hit(0.3)
        self._asked = self._geometry()
        self._crashes: dict[str, str] = {}
        self.history = chance.choice((History.NAMED, History.NAMED, History.ALL, History.NONE))
        self.names: dict[str, int] = {}
        """Snapshots that were answered, and the write number of each."""
        self._detached_at: int | None = None
        """What had been told when the mirror was given up: nothing is kept for it since."""
        self._may_part: int | None = None
        """What had been told when the primary first lost its power while no answer rested on its mirror, which may
        have more of the log than the disk since."""
        self._member = False
        """Answers rest on the mirror: from when the primary said so until it is given up by order."""
        self._unheld_ns = -1
        """When the last answer was released that did not rest on the mirror."""
        self._retired: Platter | None = None
        """The disk of a copy that was the mirror, until it was replaced by order; and that copy's node."""
        self._retired_node = b""
        self._old: Platter | None = None
        """A primary's disk as it was when its mirror was promoted."""
        self._answering: tuple[PrimaryService, str, str]

    def _geometry(self) -> dict[str, Serving]:
        """Machines differ; in the size of their segments only where nothing has to be mirrored the other way."""
        chance, found = self.chance.stream("geometry"), {}
        segment = chance.choice((64 * KiB, 128 * KiB, 256 * KiB))
        for name in ("a", "b"):
            if name == "b" and self._uneven:
                segment *= 2
            found[name] = Serving(
                PATH, (), name="vm", size=self.size, cp_interval_s=chance.choice((0.3, 1.0, 5.0)),
                keep_s=chance.choice((0.5, 3.0, 3600.0)),
                budget_bytes=chance.choice((48 * segment, 16 * MiB, 64 * MiB)), map_memory_bytes=16 * MiB,
                segment_bytes=segment, spare_bytes=2 * segment,
                overlay_quota_bytes=self.overlay_quota,
            )  # fmt: skip
        return found

    # What is promised

    def holders(self, start_ns: int) -> tuple[str, ...]:
        """Who has a write whose answer has come now. It was asked for at ``start_ns``, so an answer that was
        released before the mirror joined may be its own: that it was on the way meanwhile promises nothing."""
        service, here, there = self._answering
        self._rests(service.volume)
        return (here, there) if self._member and start_ns > self._unheld_ns else (here,)

    def _rests(self, volume: Volume) -> bool:
        self._member = self._member or any(mirror.required for mirror in volume.mirrors)
        return self._member

    def _watch_releases(self, volume: Volume) -> None:
        """Know when an answer leaves that does not rest on the mirror."""
        released = volume.released

        def told(position: int) -> bool:
            done = released(position)
            if done and not self._rests(volume):
                self._unheld_ns = self.loop.now_ns
            return done

        volume.released = told  # type: ignore[method-assign]

    def _given_up(self) -> None:
        """By order: answers do not rest on the mirror any more."""
        self._member = False

    def promised_by(self, *sources: Machine) -> Callable[[Written], bool]:
        """What must be there when the volume is put together from what these machines have."""

        def promised(written: Written) -> bool:
            if written.end == NEVER:
                return False
            return any(
                machine.name in written.holders
                and (written.durable or machine.lost_power_ns is None or machine.lost_power_ns < written.start_ns)
                for machine in sources
            )

        return promised

    def _forget_holder(self, name: str) -> None:
        """What was on that machine's disk is nowhere on it any more."""
        self._detached_at = self._may_part = None
        for written in self.register.known():
            written.holders = tuple(holder for holder in written.holders if holder != name)

    # Where the two stand

    def _required(self) -> bool:
        return self.primary is not None and any(mirror.required for mirror in self.primary.volume.mirrors)

    def _agreed(self) -> int:
        assert self.mirror is not None
        assert self.mirror.secondary is not None
        return self.mirror.secondary.agreed.write

    async def _caught_up(self) -> bool:
        primary, there = self.primary, self.mirror.secondary if self.mirror is not None else None
        if primary is None or there is None or there.base is not None or not primary.volume.core.points:
            return primary is not None and there is not None and not primary.volume.core.points and not there.base
        return (there.agreed.number, there.received) == (
            primary.volume.core.points[-1].number, primary.volume.position
        )  # fmt: skip

    async def _heal(self) -> None:
        self.fabric.partition([["a", "b", "c"]])
        for source, target in (("a", "b"), ("b", "a")):
            path = self.fabric.path(source, target)
            path.latency_s, path.bytes_per_s, path.bent = 0.0002, 200e6, 0.0
