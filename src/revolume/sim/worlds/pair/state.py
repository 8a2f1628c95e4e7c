"""Two machines, what runs on them, and who answers for a write: what every group of operations works on.

What is promised depends on the mirror's mode, and on whose memory is lost. In ``sync`` mode an answered write
lies in the log files of both, so it is there as long as one of the two that had it has not lost its power since;
a flushed one is on both disks, and survives both. In ``async`` mode the primary alone answers for it, and a
mirror that is promoted holds some prefix.
"""

from __future__ import annotations

from collections.abc import Callable

from revolume.blocks.numbers import Position
from revolume.node.service_options import ServiceOptions
from revolume.sim.actors.service import PATH, MirrorService, PrimaryService
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.sector_history import NEVER, Written
from revolume.sim.worlds.world import MiB, World
from revolume.volume.metadata.base_history import History
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary


def machine_options(world: World, *, uneven: bool) -> dict[str, ServiceOptions]:
    """How each machine serves. Machines differ; in the size of their segments only if ``uneven``: the volume is
    made with the smaller ones, and is mirrored either way."""
    chance, found = world.chance.stream("geometry"), {}
    segment = chance.choice(world.segments)
    for name in ("a", "b"):
        if name == "b" and uneven:
            segment *= 2
        found[name] = ServiceOptions(
            PATH, (), name="vm", size=world.size, cp_interval_s=chance.choice((0.3, 1.0, 5.0)),
            keep_s=chance.choice((0.5, 3.0, 3600.0)),
            budget_bytes=chance.choice(world.budgets(segment, small=name == "b")),
            map_memory_bytes=16 * MiB,
            segment_bytes=segment, spare_bytes=2 * segment,
            overlay_quota_bytes=world.overlay_quota, rung_versions=16,
        )  # fmt: skip
    return found


class PairState:
    """The two machines and their services. ``first`` has the primary, ``second`` the mirror, whichever machine
    that is now."""

    def __init__(self, world: World) -> None:
        self.world = world
        chance = world.chance.stream("geometry")
        self.sync = chance.hit(world.sync_share)
        self.first, self.second = world.machine("a"), world.machine("b")
        self.intruder = world.machine("z")
        self.primary: PrimaryService | None = None
        self.mirror: MirrorService | None = None
        self.uneven = chance.hit(0.3)
        self.options = machine_options(world, uneven=self.uneven)
        self.crashes: dict[str, str] = {}
        self.history = chance.choice((History.NAMED, History.NAMED, History.ALL, History.NONE))
        self.names: dict[str, int] = {}
        """Snapshots that were answered, and the write number of each."""
        self.dropping: set[str] = set()
        """Snapshots that were to be dropped, which was not answered."""
        self.detached_at: int | None = None
        """What had been told when the mirror was given up: nothing is kept for it since."""
        self.may_part: int | None = None
        """What had been told when the primary first lost its power while no answer rested on its mirror, which may
        have more of the log than the disk since."""
        self.old_disk: Platter | None = None
        """A primary's disk as it was when its mirror was promoted."""
        self.at_least = 0
        """A mirror that is promoted now holds the volume up to this write."""
        self.labelled: Volume | None = None
        """The primary that was opened last: its clock of labels."""
        self.wrong_now: Callable[[Machine], bool] = lambda machine: False
        """Whether what a machine's disk holds differs, on purpose, from what the volume was, and nobody knows."""
        self.wrong_once: Callable[[Machine], bool] = lambda machine: False
        """Whether some of the past that it keeps does, which its manifest may know."""
        self.answering: tuple[PrimaryService, str, str]
        self._member = False
        """Answers rest on the mirror: from when the primary said so until it is given up by order."""
        self._unheld_ns = -1
        """When the last answer was released that did not rest on the mirror."""

    @property
    def there(self) -> Secondary | None:
        """The mirror's copy; None: it does not run, or has none yet."""
        return self.mirror.secondary if self.mirror is not None else None

    @property
    def node_there(self) -> bytes:
        """Of the mirror's copy."""
        assert self.there is not None
        return self.there.manifest.state.node

    # What is promised

    def holders(self, start_ns: int) -> tuple[str, ...]:
        """Who has a write whose answer has come now. It was asked for at ``start_ns``, so an answer that was
        released before the mirror joined may be its own: that it was on the way meanwhile promises nothing."""
        service, here, there = self.answering
        self._rests(service.volume)
        return (here, there) if self._member and start_ns > self._unheld_ns else (here,)

    def _rests(self, volume: Volume) -> bool:
        self._member = self._member or any(mirror.required for mirror in volume.mirrors)
        return self._member

    def watch_releases(self, volume: Volume) -> None:
        """Know when an answer leaves that does not rest on the mirror."""
        released = volume.released

        def told(position: Position) -> bool:
            done = released(position)
            if done and not self._rests(volume):
                self._unheld_ns = self.world.loop.now_ns
            return done

        volume.released = told  # type: ignore[method-assign]

    def give_up_mirror(self) -> None:
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

    def forget_holder(self, name: str) -> None:
        """What was on that machine's disk is nowhere on it any more."""
        self.detached_at = self.may_part = None
        for written in self.world.register.known():
            written.holders = tuple(holder for holder in written.holders if holder != name)

    # Where the two stand

    def required(self) -> bool:
        return self.primary is not None and any(mirror.required for mirror in self.primary.volume.mirrors)

    def agreed_write(self) -> int:
        assert self.mirror is not None
        assert self.mirror.secondary is not None
        return self.mirror.secondary.agreed.write

    async def caught_up(self) -> bool:
        primary, there = self.primary, self.there
        if primary is None or there is None or there.base is not None or not primary.volume.retained:
            return primary is not None and there is not None and not primary.volume.retained and not there.base
        return (there.agreed.number, there.received) == (
            primary.volume.retained.points[-1].number, primary.volume.position
        )  # fmt: skip

    async def heal(self) -> None:
        self.world.fabric.partition([["a", "b", "c"]])
        for source, target in (("a", "b"), ("b", "a")):
            path = self.world.fabric.path(source, target)
            path.latency_s, path.bytes_per_s, path.bent = 0.0002, 200e6, 0.0

    def either(self) -> Machine:
        """One of the two."""
        return self.world.chance.choice((self.first, self.second))

    def is_broken(self, machine: Machine) -> bool:
        """What is open there does not go on by itself."""
        if machine is self.first:
            return self.primary is not None and self.primary.volume.log.commit.failure is not None
        there = self.there
        return there is not None and (there.failure is not None or there.log.commit.failure is not None)

    def is_member(self) -> bool:
        """The mirror is a whole copy, and the primary rests answers on it."""
        there = self.there
        return self.required() and there is not None and there.base is None and not self.is_broken(self.second)

    def is_known(self, there: Secondary) -> bool:
        """The copy's log is one that the model knows, to its end."""
        numbers = self.world.model.numbers
        return there.end.write in numbers or there.end.write <= numbers[0]

    # What the services have said

    def was_told(self, what: str, since: int) -> bool:
        """Whether a sentence behind the first ``since`` of them has ``what`` in it."""
        return any(what in told for told in self.world.told[since:])

    def was_refused(self, since: int) -> bool:
        """The mirror, because the two logs have parted."""
        parted = self.there is not None and not self.is_known(self.there)
        return (
            self.was_told("are not of the log", since)
            or self.was_told("log goes on to", since)
            or (parted and self.was_told("The target needs the log behind", since))
        )

    def lacks_room(self, since: int) -> bool:
        """A mirror keeps what snapshots hold as its source does, but may have less room for it."""
        return self.was_told("The log can't grow", since) or self.was_told("The mirror needs", since)
