"""A volume that keeps points and names in memory: the plainest thing that control can be shown on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any, NoReturn

from revolume.errors import NotFound, Refused
from revolume.history.moments import AtPoint, AtSnapshot, AtTime, AtWrite, Moment
from revolume.history.resolved_moment import ResolvedMoment
from revolume.host import real_host
from revolume.jobs.jobs import Jobs
from revolume.volume.state.events import Event, EventKind, Level
from revolume.volume.state.status import Snapshot, VolumeStatus
from revolume.volume.suspect.periods import SuspectPeriods

START_NS = 1_800_000_000 * 10**9


@dataclass(frozen=True, slots=True)
class Point:
    number: int
    write: int
    time_ns: int
    epoch: int
    digest: int
    root: tuple[int, int]
    changed_blocks: int


@dataclass
class MemoryVolume:
    name: str = "vm1"
    size: int = 1 << 20
    writes: int = 0
    made: list[Point] = field(default_factory=list)
    named: dict[str, Snapshot] = field(default_factory=dict)
    jobs: Jobs = field(default_factory=lambda: Jobs(real_host()))

    def write(self, count: int = 1) -> None:
        self.writes += count

    def status(self) -> VolumeStatus:
        values = {field.name: 0 for field in fields(VolumeStatus)}
        words = {
            "name": self.name,
            "directory": "/srv/vm1",
            "volume_id": "00" * 16,
            "state": "ok",
            "reason": "",
        }
        opened = Event(EventKind.NOTE, Level.INFO, "opened", START_NS, START_NS)
        lists = {
            "holders": (), "snapshots": tuple(self.named.values()), "events": (opened,), "damaged": (),
            "branches": (), "suspect": (), "unhealed": (), "damaged_tables": (),
            "forecast": None, "scrub": None,
        }  # fmt: skip
        counts = {"size": self.size, "write": self.writes, "points": len(self.made), "time_ns": START_NS}
        return VolumeStatus(**{**values, **words, **lists, **counts})  # type: ignore[arg-type]

    async def cut(self) -> Point:
        if not self.made or self.made[-1].write != self.writes:
            number = len(self.made) + 1
            time_ns = START_NS + self.writes * 10**9
            self.made.append(Point(number, self.writes, time_ns, 1, number, (number, 2**64 - 1), 1))
        return self.made[-1]

    def kept(self) -> NoReturn:
        raise NotFound("no-policy", "What is in memory is kept by no policy.")

    async def snapshot_room(self) -> dict[str, int]:
        return {}

    async def hold_snapshot(self, name: str, held: bool) -> None:
        if name not in self.named:
            raise NotFound("no-such-snapshot", f"There is no snapshot {name}.")

    async def snapshot(self, name: str, expires_s: float = 0.0) -> Snapshot:
        if name in self.named:
            raise Refused("name-taken", f"There is a snapshot {name} already.", "Choose another name.")
        point = await self.cut()
        self.named[name] = Snapshot(name, point.write, point.number, point.time_ns)
        return self.named[name]

    async def drop_snapshot(self, name: str) -> None:
        if self.named.pop(name, None) is None:
            raise NotFound("no-such-snapshot", f"There is no snapshot {name}.")

    async def grow(self, size: int) -> None:
        if size < self.size:
            raise Refused("would-shrink", "A volume only grows.")
        self.size = size

    @property
    def suspect_periods(self) -> SuspectPeriods:
        return SuspectPeriods()

    elsewhere = ""

    def points(self) -> list[Point]:
        return list(self.made)

    def exports_now(self) -> Any:
        """Nothing is served, and no command has looked at any moment."""
        return SimpleNamespace(proofs=lambda: ())

    def snapshots(self) -> list[Snapshot]:
        return list(self.named.values())

    def resolve(self, moment: Moment) -> ResolvedMoment:
        match moment:
            case AtWrite(number) if number <= self.writes:
                return ResolvedMoment(number, START_NS + number * 10**9)
            case AtTime(time_ns) if time_ns >= START_NS:
                write = min((time_ns - START_NS) // 10**9, self.writes)
                return ResolvedMoment(write, START_NS + write * 10**9)
            case AtPoint(number) if 0 < number <= len(self.made):
                return ResolvedMoment(self.made[number - 1].write, self.made[number - 1].time_ns)
            case AtSnapshot(name) if name in self.named:
                return ResolvedMoment(self.named[name].write, self.named[name].time_ns)
        raise NotFound("not-retained", f"{moment} is not retained.", "The oldest retained moment is w0.")
