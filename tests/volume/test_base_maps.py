"""The live map's base: made when it is due, made anew when it is lost, told when it is wrong."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from revolume.host import real_host
from revolume.log.ops import OP_WRITE
from revolume.volume.check import check

from .driver import BLOCK, Driver, abandon
from .store import payload

SIZE = 16 << 20


@pytest.fixture
def driver() -> Iterator[Driver]:
    place = Path(tempfile.mkdtemp(prefix="revolume-base-", dir="/dev/shm"))
    yield Driver(real_host(), place / "v", SIZE)
    shutil.rmtree(place)


def run(driver: Driver, play: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        try:
            await play()
        except BaseException:
            await abandon(driver.volume)
            raise
        finally:
            await driver.host.work.close()

    asyncio.run(whole())


def test_a_base_that_names_the_record_of_the_horizons_point_is_right(driver: Driver) -> None:
    """The record lies behind the cut, so the fold leaves it in the log; the image holds the same."""

    async def play() -> None:
        await driver.open()
        for at in range(6):
            await driver.change([(OP_WRITE, at * 8 * BLOCK, payload(at, 8 * BLOCK))])
        await driver.change([
            (OP_WRITE, 70 * BLOCK + 9, payload(1, 100)), (OP_WRITE, 80 * BLOCK + 1, payload(2, 9)),
        ])  # fmt: skip
        await driver.volume.snapshot("first")
        await driver.change([(OP_WRITE, 90 * BLOCK, payload(3, 8 * BLOCK))])
        await driver.volume.cut()
        await driver.volume.folder.rebase(force=True)
        assert await driver.fold()
        horizon, base = driver.volume.folder.horizon, driver.volume.core.live.base
        assert horizon.point == 1 and base is not None and base.meta.point == 2
        await driver.check_live()
        await driver.volume.close()
        report = check(driver.host, str(driver.path))
        assert report.good, report.problems

    run(driver, play)
