"""Which moment is the oldest that can be opened."""

from __future__ import annotations

from collections.abc import Iterable

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.state.status import OldestMoment


def oldest_moment(horizon: Horizon, retired_write: WriteNumber, points: Iterable[Point]) -> OldestMoment:
    """The horizon, or from the begin of a fold on the point that it goes to: what lies before it is retired then,
    whether the fold has been done or was interrupted."""
    if retired_write > horizon.write:
        for point in points:
            if point.write == retired_write:
                return OldestMoment(point.position, point.write, point.time_ns)
    return OldestMoment(horizon.position, max(horizon.write, retired_write), horizon.time_ns)
