"""The points that a copy keeps by its policy, outside the log: they are pinned as snapshots are, by a rule.

A fold that goes to such a point stops there, and writes down how old it is (LIVED) in the edit that moves the
horizon. From then on the rule alone says whether it is still kept (``policy_stops.py``). Once it says no, what was
rescued for it goes as a dropped snapshot's does. When history has no room, the oldest go before their time: how
far is durable (GIVEN_UP) before anything is let go of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.log.format.columns import LIVED_NS
from revolume.volume.clocks.lived_time import LivedTime
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata.keep_policy import DEFAULT_POLICY, KeepPolicy, WhenFull
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Role
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.retention_record import pack_given_up, pack_lived
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.policy_stops import POINT_PINS_MAX, Aged, Stop, StopKind, stops


class PolicyPins:
    """Of one open copy."""

    def __init__(
        self,
        *,
        override: KeepPolicy | None,
        manifest: ManifestWriter,
        image: VolumeImage,
        retained: RetainedPoints,
        lived: LivedTime,
    ) -> None:
        """``override``: kept instead of what is recorded, while it is open; None: there is nothing of the kind."""
        self._override = override
        self._manifest = manifest
        self._image = image
        self._retained = retained
        self._lived = lived

    @property
    def policy(self) -> KeepPolicy:
        """What is kept now."""
        return self._override or self.recorded

    @property
    def recorded(self) -> KeepPolicy:
        """What is kept whenever it is served."""
        return self._manifest.state.retention.policy or DEFAULT_POLICY

    @property
    def shrinks(self) -> bool:
        """Whether what was promised goes when there is no room."""
        return self.when_full == WhenFull.SHRINK

    @property
    def when_full(self) -> WhenFull:
        """What happens then. A mirror has no clients that could wait."""
        secondary = self._manifest.state.role == Role.SECONDARY
        return WhenFull.SHRINK if secondary else self.policy.when_full

    @property
    def now_ms(self) -> int:
        """This copy's lived time."""
        return self._lived.now_ns() // LIVED_NS

    # What is kept

    def behind(self, policy: KeepPolicy | None = None, at_ms: int | None = None) -> list[Stop]:
        """Those that the log does not know any more, and the one at which the image stands; oldest first.
        ``policy``, ``at_ms``: as they would be then."""
        return list(self._stops(self._aged(), policy, at_ms, None))

    def writes(self) -> list[WriteNumber]:
        """The moments of ``behind``."""
        return [stop.write for stop in self.behind()] if self.policy.pins else []

    def ahead(self, policy: KeepPolicy | None = None, at_ms: int | None = None) -> Iterator[Stop]:
        """Those that are in the log, oldest first."""
        horizon, known = self._image.horizon.write, self._aged()
        points = (Aged(each.write, each.lived_ms) for each in self._retained if each.write > horizon)
        return self._stops(points, policy, at_ms, known[-1].lived_ms if known else None)

    def next_stop(self) -> WriteNumber | None:
        """The first of them in the log: a fold stops there. None: there is none."""
        found = next(self.ahead(), None) if self.policy.pins else None
        return None if found is None else found.write

    @property
    def crowded(self) -> bool:
        """Whether the tier of every point has no place for another outside the log."""
        if not self.policy.every_point_ms:
            return False
        return sum(stop.kind == StopKind.POINT for stop in self.behind()) >= POINT_PINS_MAX

    @property
    def rescued_bytes(self) -> int:
        """What is rescued for those that nobody else has pinned."""
        state = self._manifest.state
        named, rescued = state.pinned_writes(), state.rescued_bytes()
        return sum(rescued.get(write, 0) for write in self.writes() if write not in named)

    def time_ns(self, write: WriteNumber) -> int | None:
        """The label of a point that is kept, in ns since 1970; None: it is not known any more."""
        state = self._manifest.state
        known = [state.horizon, *(each.moment for each in state.rescues), *self._retained]
        return next((each.time_ns for each in known if each.write == write), None)

    def _stops(
        self, points: Iterable[Aged], policy: KeepPolicy | None, at_ms: int | None, after_ms: int | None
    ) -> Iterator[Stop]:
        now_ms = self.now_ms if at_ms is None else at_ms
        given_up_ms = self._manifest.state.retention.given_up_ms
        return stops(policy or self.policy, points, now_ms, given_up_ms, after_ms)

    def _aged(self) -> list[Aged]:
        """What is known of points up to the horizon, oldest first."""
        known, horizon = dict(self._manifest.state.retention.lived), self._image.horizon
        here = self._retained.numbered(horizon.point)
        if here is not None and here.write == horizon.write:
            known.setdefault(horizon.write, here.lived_ms)
        return [Aged(write, lived_ms) for write, lived_ms in known.items() if write <= horizon.write]

    # What becomes durable

    def edits(self, target: Point) -> list[tuple[EditKind, bytes]]:
        """How old the kept ones are among the point at which the image stands and the one to which it moves."""
        if not self.policy.pins:
            return []
        recorded, horizon = self._manifest.state.retention.lived, self._image.horizon.write
        behind = [stop for stop in self.behind() if stop.write == horizon and horizon not in recorded]
        reached = [stop for stop in self.ahead() if stop.write == target.write][:1]
        rows = [(stop.write, stop.lived_ms) for stop in behind + reached]
        return [(EditKind.LIVED, pack_lived(rows))] if rows else []

    async def give_up(self, gone: Sequence[Stop]) -> None:
        """These, the oldest, are not kept any more."""
        if gone:
            lived_ms = max(stop.lived_ms for stop in gone)
            await self._manifest.record((EditKind.GIVEN_UP, pack_given_up(lived_ms)))
