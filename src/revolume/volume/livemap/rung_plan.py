"""Which rungs the ladder has, lacks and could merge, and which of them lead to a moment. Pure.

The shortest rungs stand one behind the other, from the horizon on, each of so many versions or somewhat more: it
ends at a point. Two neighbours of one level are one of the next. All of them stay, because a moment may lie in the
middle of a long one: so from anywhere below it to a moment there are no more rungs than there are levels, twice.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.map_file import MapMeta
from revolume.chain.point import Point
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.metadata.rung import Rung

RANGES_MAX = 1 << 16
"""Zero ranges are all in memory where a map is open: what has more of them is not merged any more."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What the next of the shortest rungs is made of. ``after``: what is known before it, None: the image."""

    after: MapMeta | None
    upto: Point


def leading_to(rungs: Iterable[Rung], begin: int, write: WriteNumber) -> tuple[Rung, ...]:
    """The rungs, oldest first, that lead from the point ``begin`` towards a write, as far as there are any: each
    begins where the one before it ends, or before that, and goes as far as any does."""
    usable = [rung for rung in rungs if rung.write <= write]
    found: list[Rung] = []
    while True:
        best = max((rung for rung in usable if rung.after <= begin < rung.point), key=_reach, default=None)
        if best is None:
            return tuple(found)
        found.append(best)
        begin = best.point


def _reach(rung: Rung) -> tuple[int, int]:
    """Farther is better, then shorter."""
    return rung.point, rung.after


def next_stretch(
    rungs: Iterable[Rung], horizon: Horizon, points: Sequence[Point], versions: int
) -> Stretch | None:
    """The oldest stretch for which there is no shortest rung. None: there is none, or it has fewer than so many
    ``versions`` yet: what was written, counted by writes and by blocks."""
    begin, end = _first_hole(rungs, horizon.point)
    first = bisect.bisect_right(points, begin, key=lambda point: point.number)
    before = points[first - 1] if first and points[first - 1].number == begin else None
    if before is None and begin != horizon.point:
        return None
    write = before.write if before is not None else horizon.write
    address = before.address if before is not None else horizon.address
    after = MapMeta(write, address, begin) if before is not None else None
    for point in points[first:]:
        if end is not None and point.number > end:
            return None
        if point.number == end or (point.write - write) + (point.address - address) >= versions:
            return Stretch(after, point)
    return None


def _first_hole(rungs: Iterable[Rung], reached: int) -> tuple[int, int | None]:
    """The point behind which the first hole among the shortest rungs begins, and where it ends, None: nowhere."""
    for rung in rungs:
        if rung.level == 0:
            if rung.after > reached:
                return reached, rung.after
            reached = max(reached, rung.point)
    return reached, None


def next_merge(rungs: Iterable[Rung]) -> tuple[Rung, Rung] | None:
    """Two neighbours, the older first, that no longer rung has in it yet: of the lowest level that has such."""
    levels: dict[int, list[Rung]] = {}
    for rung in rungs:
        levels.setdefault(rung.level, []).append(rung)
    for level in sorted(levels):
        longer = levels.get(level + 1, [])
        single = [rung for rung in levels[level] if not any(_within(rung, each) for each in longer)]
        for older, newer in pairwise(single):
            if older.point == newer.after and older.ranges + newer.ranges <= RANGES_MAX:
                return older, newer
    return None


def _within(rung: Rung, longer: Rung) -> bool:
    return longer.after <= rung.after and rung.point <= longer.point


def meta_of(rung: Rung) -> MapMeta:
    """What its file says of itself."""
    return MapMeta(rung.write, Address(rung.address), rung.point, rung.after_write)


def as_ground(rung: Rung) -> MapMeta:
    """What is known where a map has been read up to the end of the rung."""
    return MapMeta(rung.write, Address(rung.address), rung.point)
