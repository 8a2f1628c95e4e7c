"""Which points a policy keeps beyond the window of every write: pure functions of plain values.

A tier keeps the first point of each of its periods, counted in this copy's lived time, for as long as its span
says; the tier of every point keeps each. That is a rule, not a list: whoever knows the ages of the points knows
which are kept, and a point that is too old is simply none of them any more.

What was given up for want of room, oldest first, stays given up: of the period in which that ended, and of those
before it, the tiers keep nothing any more. Points within the span of every point are newer than all that only a
period keeps, so those go last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from revolume.blocks.numbers import WriteNumber
from revolume.volume.metadata.keep_policy import KeepPolicy

POINT_PINS_MAX = 256
"""So many points of the tier of every point are kept outside the log. Those for which there is no place yet keep
the log instead."""
TIER_PINS_MAX = 1000
"""A tier has no more periods in its span."""


class StopKind(IntEnum):
    """By which tier a point is kept; one that both keep is one of every point until its time there is over."""

    PERIOD = 0
    POINT = 1


@dataclass(frozen=True, slots=True)
class Aged:
    """A point: its last write, and the lived time in ms when it was made."""

    write: WriteNumber
    lived_ms: int


@dataclass(frozen=True, slots=True)
class Stop:
    """A point that the policy keeps."""

    write: WriteNumber
    lived_ms: int
    kind: StopKind


def stops(
    policy: KeepPolicy, points: Iterable[Aged], now_ms: int, given_up_ms: int, after_ms: int | None = None
) -> Iterator[Stop]:
    """Of these points, oldest first, those that are kept at lived time ``now_ms``. ``given_up_ms``: points up to
    that lived time are given up, 0: none. ``after_ms``: the lived time of a point before these; of its periods
    none of these is the first."""
    seen = given_up_ms if after_ms is None else max(given_up_ms, after_ms)
    last = {tier.period_ms: seen // tier.period_ms if seen else -1 for tier in policy.tiers}
    for point in points:
        first, age_ms = False, now_ms - point.lived_ms
        for tier in policy.tiers:
            period = point.lived_ms // tier.period_ms
            if period > last[tier.period_ms]:
                last[tier.period_ms] = period
                first = first or age_ms <= tier.span_ms
        if policy.every_point_ms and age_ms <= policy.every_point_ms and point.lived_ms > given_up_ms:
            yield Stop(point.write, point.lived_ms, StopKind.POINT)
        elif first:
            yield Stop(point.write, point.lived_ms, StopKind.PERIOD)
