"""Write numbers that a crash left out: each means the last write before it; above the newest there is nothing."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.errors import NotFound
from revolume.history.moments import AtWrite, Now
from revolume.history.stopped import look
from revolume.history.timeline import Timeline
from revolume.log.ops import OP_WRITE
from tests.volume.driver import BLOCK, Driver, abandon
from tests.volume.store import inline_host, payload

SIZE = 4 << 20


@pytest.fixture
def driver() -> Iterator[Driver]:
    place = Path(tempfile.mkdtemp(prefix="revolume-gaps-", dir="/dev/shm"))
    yield Driver(inline_host(), place / "v", SIZE)
    shutil.rmtree(place)


async def write(driver: Driver, count: int) -> int:
    for at in range(count):
        await driver.change([(OP_WRITE, (driver.volume.write + at) % 50 * BLOCK, payload(at, 2 * BLOCK))])
    return driver.volume.write


def means(driver: Driver, number: int) -> int:
    return Timeline(driver.volume).resolve(AtWrite(number)).write


@pytest.mark.parametrize("points", ["none", "before", "after", "folded"])
def test_a_number_in_a_gap_means_the_last_write_before_it(driver: Driver, points: str) -> None:
    async def play() -> None:
        await driver.open()
        await write(driver, 20)
        if points in ("before", "folded"):
            await driver.volume.cut()
        if points == "folded":
            assert await driver.fold()
        last = await write(driver, 3) if points != "folded" else driver.volume.write
        await driver.crash()
        newest = driver.volume.write
        assert newest > last + 1000
        for number in (last, last + 1, last + 999, newest):
            assert means(driver, number) == last
        assert Timeline(driver.volume).resolve(Now()).write == last
        with pytest.raises(NotFound):
            means(driver, newest + 1)

        await write(driver, 5)
        if points == "after":
            await driver.volume.cut()
        await write(driver, 30)
        assert [means(driver, newest + n) for n in (0, 1, 2, 35)] == [last, newest + 1, newest + 2, newest + 35]
        assert means(driver, (last + newest) // 2) == last
        with pytest.raises(NotFound):
            means(driver, newest + 36)
        await driver.check_moment(newest + 7)
        await abandon(driver.volume)

        stopped = look(driver.host, str(driver.path))
        for number in (last + 1, newest):
            assert stopped.resolve(AtWrite(number))[0] == last
        assert stopped.resolve(AtWrite(newest + 1))[0] == newest + 1
        assert stopped.resolve(Now())[0] == newest + 35
        with pytest.raises(NotFound):
            stopped.resolve(AtWrite(newest + 36))

    asyncio.run(play())


def test_many_crashes_with_nothing_between_them(driver: Driver) -> None:
    async def play() -> None:
        await driver.open()
        last = await write(driver, 4)
        for _ in range(3):
            await driver.crash()
        assert means(driver, driver.volume.write) == means(driver, last + 5) == last
        await driver.volume.close()
        assert look(driver.host, str(driver.path)).resolve(Now())[0] == last

    asyncio.run(play())
