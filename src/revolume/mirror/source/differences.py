"""What has changed in a volume since points at which its mirrors stand: ``storage_protocols.Differences``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position
from revolume.chain.point import Point
from revolume.errors import GaveWay, NotFound
from revolume.log.read.scan import SegmentReader
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.catch_up_plan import SMALL_LOG
from revolume.mirror.source.changed_reader import ChangedBlocks, difference_bytes, open_difference, open_regions
from revolume.mirror.storage_protocols import PointReader
from revolume.mirror.wire.begin_messages import BaseNeed, Common, Costs, NamedSnapshot
from revolume.mirror.wire.codec import PINS_MAX, Pin
from revolume.volume.members.base_start import point_of
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.dirty_log import DirtyLog
from revolume.volume.metadata.resync_order import Prefer, ResyncOrder
from revolume.volume.primary import Volume

OPENINGS: Final = 32
OTHERS: Final = 16


class Differences:
    """Of one open primary. ``point``: a point that is known here, by its number; None: it is not."""

    def __init__(self, volume: Volume, point: Callable[[int], Point | None]) -> None:
        self._volume = volume
        self._point = point

    def points(self) -> tuple[Pin, ...]:
        """Some of which it is known what has changed since: the newest ones before each opening began, pinned
        ones, those of dirty region logs, and the newest; newest first."""
        volume = self._volume
        isolated, retained = volume.isolated_points(), volume.points()
        known = [*isolated, point_of(volume.folder.horizon), *retained]
        dirty = [each.since for each in volume.dirty.all()]
        chosen = [*dirty, *isolated[-OTHERS:], *retained[-OTHERS:]]
        for opening in volume.manifest.state.epochs[-OPENINGS:]:
            chosen += [point for point in known if point.position <= opening.position][-1:]
        unique = {point.number: _pin(point) for point in chosen}
        return tuple(unique[number] for number in sorted(unique, reverse=True)[:PINS_MAX])

    async def common(
        self, mirror: Mirror, stands: Pin, end: Position, prefer: Prefer, partly: Pin | None = None
    ) -> Common | None:
        """The point at which a copy ``stands``, if what has changed since is known, or since an earlier point;
        with what it takes to bring a copy up to date whose log ends at ``end``, and that has a difference up to
        ``partly`` in part. What changed is counted where that may matter, and else taken to be all of the log
        since."""
        point = self.since(stands)
        dirty = self._regions_since(stands)
        if dirty is not None and (point is None or point.number < dirty.since.number):
            return await self._by_regions(dirty, end)
        if point is None:
            return None
        cut = await self._cut(mirror, stands, end)
        gone = end < self._volume.feed.oldest
        since, unacknowledged = (point, 0) if cut is None else (cut[0], self._log_between(end, cut[1]))
        log = 0 if gone else self._log_between(end, self._volume.position)
        changed = min(difference_bytes(self._volume, since), self._volume.size)
        if prefer == Prefer.BYTES or not log or (prefer == Prefer.EITHER and log > SMALL_LOG):
            way = self._way(stands)
            if (goes_on := self._partly_sent(mirror, partly)) is not None:
                way = [goes_on]
            changed = await self._counted(since, way[:1] if gone else way, changed)
        costs = Costs(log, unacknowledged + changed)
        pin = _pin(point)
        return Common(pin, Position(0) if cut is None else cut[1], costs)

    def _regions_since(self, stands: Pin) -> DirtyLog | None:
        """The dirty region log that names all that a copy lacks which ``stands`` there: its point is the copy's,
        or an earlier one (that of the same log, the planner proves). None: there is none."""
        found = [
            each
            for each in self._volume.dirty.all()
            if each.since.number <= stands.number and each.since.position <= stands.position
            if each.since.number != stands.number or _pin(each.since) == stands
        ]
        return max(found, key=lambda each: each.since.number, default=None)

    async def _by_regions(self, dirty: DirtyLog, end: Position) -> Common:
        log = 0 if end < self._volume.feed.oldest else self._log_between(end, self._volume.position)
        since, newest = dirty.since, self._volume.retained.newest
        at_most = min(dirty.blocks * BLOCK + difference_bytes(self._volume, since), self._volume.size)
        changed = await self._counted(since, [] if newest is None else [newest], at_most)
        return Common(_pin(since), Position(0), Costs(log, changed), regions=True)

    async def _opened(self, since: Point, upto: Point, stands_there: bool = True) -> ChangedBlocks:
        """What changed between the two. NotFound: it is not known any more."""
        if self.known(since.number) is None:
            for dirty in self._volume.dirty.all():
                if _pin(dirty.since) == _pin(since):
                    return await open_regions(self._volume, dirty, upto)
        return await open_difference(self._volume, since, upto, stands_there)

    def _way(self, stands: Pin) -> list[Point]:
        """The points by which a copy that ``stands`` there is brought up to date: of each snapshot that it lacks,
        oldest first, and the newest."""
        numbers = sorted({pin.point for pin in self._volume.manifest.state.snapshots if pin.point > stands.number})
        found = [point for number in numbers if (point := self.known(number)) is not None]
        newest = self._volume.retained.newest
        way = [point for point in found if point.position > stands.position]
        return way if newest is None or any(newest.number <= point.number for point in way) else [*way, newest]

    async def left(self, since: Pin) -> int:
        """Bytes of the differences by which a copy that stands there is brought up to date, one after the other;
        as far as they can be counted now."""
        dirty = [each.since for each in self._volume.dirty.all()]
        point = self.known(since.number) or next((each for each in dirty if _pin(each) == since), None)
        return 0 if point is None else await self._counted(point, self._way(since), 0)

    async def _counted(self, since: Point, way: Sequence[Point], at_most: int) -> int:
        """Bytes of the blocks that changed from point to point of ``way``; ``at_most``, where that can't be
        counted now."""
        if not way or way[-1].number <= since.number:
            return at_most
        blocks = 0
        try:
            for upto in way:
                reader = await self._opened(since, upto)
                try:
                    blocks += await reader.count()
                finally:
                    reader.close()
                since = upto
        except (NotFound, GaveWay):
            return at_most
        return BLOCK * blocks

    def known(self, number: int) -> Point | None:
        """A point since which it is known what has changed."""
        found = self._point(number)
        if found is not None:
            return found
        return next((point for point in self._volume.isolated_points() if point.number == number), None)

    def since(self, stands: Pin) -> Point | None:
        """The point since which it is known what has changed in a copy that ``stands`` there: that one, or where
        that is not known here the newest before it. (A copy may have come further than its source heard of before
        the link was lost. What changed since an earlier point of the same log is all that it lacks, and more; that
        it is the same log, the planner proves.) None: another point of that number is known, or none before it."""
        own = self.known(stands.number)
        if own is not None:
            return own if (own.position, own.chain) == (stands.position, stands.chain) else None
        known = (*self._volume.points(), *self._volume.isolated_points())
        before = [p for p in known if p.number < stands.number and p.position <= stands.position]
        return max(before, key=lambda point: point.number, default=None)

    async def _cut(self, mirror: Mirror, stands: Pin, end: Position) -> tuple[Point, Position] | None:
        """The cut made when the link was lost, and the position up to which the log belongs to it; None: there is
        none, or the copy has all of that, or the log up to it is gone."""
        cut = self._volume.mirrors.get(mirror.name).cut
        point = None if cut is None else self._point(cut.point)
        if point is None or point.number <= stands.number or not point.record:
            return None
        upto = await self._volume.log.work.call(self._record_position, point.record)
        return (point, upto) if upto is not None and end < upto else None

    def _record_position(self, record: Address) -> Position | None:
        segment = self._volume.log.pool.segment_at(record)
        found = SegmentReader(segment, self._volume.volume_id).at(record - segment.base)
        return None if found is None else found.transfer.position

    def _log_between(self, begin: Position, end: Position) -> int:
        """Bytes of this node's log between two positions of which it was looked up where they are; 0: they are not
        in it."""
        feed = self._volume.feed
        first = feed.address_behind(begin)
        last = feed.end_address if end >= feed.end else feed.address_behind(end)
        if first is None or last is None:
            return 0
        return max(0, last - first - self._volume.log.pool.gap_between(first, last)) * BLOCK

    async def begin(self, mirror: Mirror, since: Pin, partly: Pin | None, stands: Pin | None = None) -> BasePlan:
        """The point up to which a difference is sent, kept for the mirror from now on: the one that is ``partly``
        at the copy, if it is still kept; else that of the oldest snapshot that the copy lacks, which ``stands``
        there (None: at ``since``); else one that is made now, with the log behind it."""
        volume = self._volume
        point = self._partly_sent(mirror, partly) or await self._pinned(mirror, since, stands or since)
        snapshots, position = await volume.names.listed()
        return BasePlan(
            point=point,
            names=tuple(NamedSnapshot(s.name, s.write, s.point, s.time_ns, False) for s in snapshots),
            names_position=position,
            need=BaseNeed(0, 0),
            log=0,
            members=await volume.membership.listed(),
        )

    async def _pinned(self, mirror: Mirror, since: Pin, stands: Pin) -> Point:
        """The next point for a copy that ``stands`` there. A snapshot that is taken while a new point is made
        comes first after all."""
        known, pin_jump = self._volume.mirrors.get(mirror.name), self._volume.mirrors.kept.pin_jump
        if (by := self._named(stands)) is None:
            point = await pin_jump(known, self.known(since.number))
            if (by := self._named(stands)) is None or by.number >= point.number:
                return point
        return await pin_jump(known, self.known(since.number), by)

    def _named(self, stands: Pin) -> Point | None:
        """The point of the oldest snapshot that a copy lacks; None: it lacks none that is known."""
        named = {pin.point for pin in self._volume.manifest.state.snapshots}
        return next((point for point in self._way(stands) if point.number in named), None)

    def _partly_sent(self, mirror: Mirror, partly: Pin | None) -> Point | None:
        """The point to which the difference leads that is ``partly`` at the copy, if that is still kept."""
        jump = self._volume.mirrors.get(mirror.name).state.jump
        return None if jump is None or partly is None or jump.point != partly.number else self.known(jump.point)

    async def open(self, since: Pin, upto: Point, stands: Pin) -> PointReader:
        """The blocks that have changed between two points, as of ``upto``; zeroes have a digest of 0. For a copy
        that ``stands`` behind ``since`` those are among them that are zero at both. NotFound: one of the two is
        not retained."""
        known = (self.known(since.number), *(each.since for each in self._volume.dirty.all()))
        point = next((each for each in known if each is not None and _pin(each) == since), None)
        if point is None:
            raise NotFound("no-moment", f"Point cp{since.number} is not retained.", "It is decided anew.")
        return await self._opened(point, upto, since == stands)

    async def link_lost(self, mirror: Mirror) -> None:
        """The link of a mirror that has joined is lost: where it was cut is a point that is kept for it."""
        await self._volume.mirrors.kept.cut(self._volume.mirrors.get(mirror.name))

    async def ordered(self, mirror: Mirror, order: ResyncOrder) -> None:
        """This is what is ordered of how it is brought up to date, durably."""
        await self._volume.mirrors.ordered(self._volume.mirrors.get(mirror.name), order)


def _pin(point: Point) -> Pin:
    return Pin(point.number, point.position, point.chain)
