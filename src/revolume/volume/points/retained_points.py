"""The consistency points that an open volume retains, and what the next one is computed from."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from revolume.blocks.numbers import Address
from revolume.blocks.root import Root
from revolume.chain.point import Point
from revolume.volume.unread import Unread

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class LastPoint:
    """The newest point as the next one needs it: number, volume root, and the blocks (uint64, ascending) that its
    record carries whole, with their digests (uint64, in the same order)."""

    number: int = 0
    root: Root = (0, 0)
    partial_blocks: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    partial_digests: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))


class RetainedPoints:
    """Points in the log's order, oldest first. ``last`` outlives the newest of them: the horizon may have passed
    it, and a mirror has moved its live map to it before the point is recorded as agreed. ``unread``: parts of the
    records of points that were left out when the volume was opened."""

    def __init__(
        self,
        points: Sequence[Point] = (),
        last: LastPoint | None = None,
        unread: Sequence[Unread] = (),
    ) -> None:
        self.points = list(points)
        self.unread = unread
        self.last = last or LastPoint()

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def newest(self) -> Point | None:
        """None: no point is retained."""
        return self.points[-1] if self.points else None

    def numbered(self, number: int) -> Point | None:
        """The retained point of this number."""
        at = bisect.bisect_left(self.points, number, key=lambda point: point.number)
        found = self.points[at] if at < len(self.points) else None
        return found if found is not None and found.number == number else None

    @property
    def newest_address(self) -> Address:
        """The newest point's cut; 0 without one."""
        return self.points[-1].address if self.points else Address(0)

    def append(self, point: Point) -> None:
        """A point is whole and can be opened from now on."""
        self.points.append(point)

    def forget_before(self, number: int) -> None:
        """The horizon stands at the point of this number: those before it are in the image alone."""
        self.points = [point for point in self.points if point.number >= number]
