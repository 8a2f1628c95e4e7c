"""A copy that was found to differ, where clients have overwritten since what made it differ."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from revolume.chain.point import Point
from revolume.errors import Refused
from revolume.log.write.operations import OP_WRITE
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.source.point_reader import open_point
from revolume.mirror.target.comparison import region_sums
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.comparison_messages import Compared
from revolume.pace.pacer import Pacer
from revolume.resync.cuts import PlainCut
from revolume.resync.history_marks import CAUSE
from revolume.resync.overwritten_findings import UNKNOWN_CAUSE, OverwrittenFindings
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.suspect.marks import Marks
from tests.resync.test_parts import NONE, content, driven
from tests.volume.driver import BLOCK, Driver


class WrongCopy:
    """A copy that holds what the volume held at each of its points, but for ``wrong``: blocks by point."""

    def __init__(self, driver: Driver, wrong: dict[int, set[int]]) -> None:
        self.marks = list[Marks]()
        self.gone = set[int]()
        self.opened = list[int]()
        self._driver = driver
        self._wrong = wrong

    async def open(self, point: Pin, quick: bool) -> None:
        assert quick
        if point.number in self.gone:
            raise Refused("not-compared", "It is not there any more.")
        self.opened.append(point.number)

    async def sums(self, first: int, blocks: int) -> Compared:
        digests = await self._digests(first, blocks)
        return Compared(1, 0, region_sums(first, digests), NONE, NONE)

    async def digests(self, first: int, blocks: int) -> Compared:
        return Compared(1, 0, (), await self._digests(first, blocks), NONE)

    async def _digests(self, first: int, blocks: int) -> np.ndarray:
        volume = self._driver.volume
        (point,) = [each for each in volume.points() if each.number == self.opened[-1]]
        reader = await open_point(volume, point)
        digests = await reader.digests(block_numbers(first, blocks))
        reader.close()
        for block in self._wrong.get(point.number, set()):
            digests[block - first] ^= np.uint64(5)
        return digests

    def end(self, point: Pin) -> None:
        assert point.number == self.opened[-1]

    async def mark(self, marks: Marks) -> None:
        self.marks.append(marks)


async def three_points(driver: Driver) -> list[Point]:
    """Blocks 0 to 9, then block 3, then block 7."""
    points = list[Point]()
    for first, count in ((0, 10), (3, 1), (7, 1)):
        await driver.change([(OP_WRITE, first * BLOCK, content(len(points), count))])
        points.append(await driver.volume.cut())
    return points


def findings(driver: Driver, copy: WrongCopy, found: Point, start: Point) -> OverwrittenFindings:
    pacer = Pacer(driver.host.clock)
    return OverwrittenFindings(driver.volume, cast(Comparison, copy), pacer, found.number, start)


def rows(marks: Marks) -> list[tuple[int, int, int, int]]:
    return [tuple(int(each) for each in row) for row in marks.rows]  # type: ignore[misc]


@pytest.mark.parametrize("found_at", [0, 1])
def test_what_differed_and_was_overwritten_is_suspect_until_then(tmp_path: Path, found_at: int) -> None:
    """Block 5 differs still: the comparison itself finds it. The root differs first at the point up to which a
    wrong block is overwritten."""

    async def scenario(driver: Driver) -> None:
        first, second, third = await three_points(driver)
        copy = WrongCopy(driver, {first.number: {3, 5}, second.number: {5}})
        found = (first, second)[found_at]
        assert await findings(driver, copy, found, third).mark() == 1
        (marks,) = copy.marks
        assert marks.cause == CAUSE and marks.point == first.number
        assert rows(marks) == [(3, 1, 1, second.write)]
        assert copy.opened == [first.number, second.number]

    driven(tmp_path, scenario)


def test_where_nobody_can_tell_all_that_was_changed_is_suspect(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        first, second, third = await three_points(driver)
        copy = WrongCopy(driver, {first.number: {3}})
        copy.gone.add(first.number)
        assert await findings(driver, copy, first, third).mark() == 0
        (marks,) = copy.marks
        assert marks.cause == UNKNOWN_CAUSE and rows(marks) == [(3, 1, 1, second.write)]

    driven(tmp_path, scenario)


def test_nothing_is_asked_of_what_nobody_has_changed(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        _, second, third = await three_points(driver)
        copy = WrongCopy(driver, {third.number: {1}})
        start = await driver.volume.cut_anew(PlainCut(driver.volume))
        assert await findings(driver, copy, third, start).mark() == 0
        assert not copy.marks and copy.opened == [second.number]

    driven(tmp_path, scenario)
