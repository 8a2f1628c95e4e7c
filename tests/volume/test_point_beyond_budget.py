"""A promoted copy whose log fills its budget without a point: the record of the next one goes beyond the budget,
and where the disk has no room for it either, a stop does without.

The copy took its source's log beyond its own budget, since a mirror does not hold its source up; what the next
point's record takes, which is a block for each that was written in part, nobody has kept free there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import NoSpace
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions

from .driver import BLOCK, SEGMENT, Driver
from .mirrored import THERE, Mirrored
from .store import inline_host, payload

PARTIALS = 200
TIGHT = replace(THERE, segment_bytes=SEGMENT, budget_bytes=5 * SEGMENT, spare_bytes=SEGMENT)
FULL_DISK = replace(TIGHT, reserve_bytes=1 << 60)
"""No file may be made any more: all that the disk has is to be left on it."""


@asynccontextmanager
async def promoted(path: Path, options: OpenOptions) -> AsyncIterator[Driver]:
    """A copy that was promoted, beside the model of what it must hold."""
    source = Mirrored(inline_host(), path / "v", (PARTIALS + 8) * BLOCK)
    await source.open()
    await source.change([(OP_WRITE, 0, payload(1, 4 * BLOCK))])
    there = await source.begin(TIGHT)
    await source.send_base()
    for block in range(PARTIALS):
        await source.change([(OP_WRITE, block * BLOCK + 77, payload(block, 700))])
    await source.ship()
    await there.make_durable(there.received)
    await there.close()
    await source.volume.close()
    driver = Driver(source.host, source.there, source.model.size, options)
    driver.model = source.model
    driver.volume = await open_volume(driver.host, str(driver.path), replace(options, promote=True))
    yield driver


def messages(driver: Driver) -> str:
    return "\n".join(event.message for event in driver.volume.events.all())


async def within_budget(driver: Driver) -> None:
    pool = driver.volume.log.pool
    async with asyncio.timeout(20):
        while pool.bytes > pool.limits.budget_bytes or pool.loan.owed:
            await driver.fold()
            await asyncio.sleep(0.05)


def test_a_point_goes_beyond_the_budget_and_the_log_comes_back_to_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with promoted(tmp_path, TIGHT) as driver:
            pool = driver.volume.log.pool
            assert pool.bytes > pool.limits.budget_bytes and len(driver.volume.partials) == PARTIALS
            point = await driver.volume.cut()
            assert point.write == driver.volume.write and "for a point" in messages(driver)
            assert not pool.loan.segments
            await driver.change([(OP_WRITE, 5 * BLOCK, payload(9, BLOCK))])
            assert not driver.volume.admission.refused
            await driver.volume.cut()  # up to there the record itself is folded
            await within_budget(driver)
            assert not pool.loan.owed
            await driver.check_live()
            await driver.volume.close()
            assert check(driver.host, str(driver.path)).good

    asyncio.run(scenario())


def test_a_stop_without_room_for_a_point_is_clean_and_the_next_opening_reads_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with promoted(tmp_path, FULL_DISK) as driver:
            newest = driver.volume.retained.last.number
            with pytest.raises(NoSpace, match="the disk is used up"):
                await driver.volume.cut()
            await driver.volume.close()
            assert "stopped without a last point: The log can't grow by" in messages(driver)
            assert f"behind cp{newest}" in messages(driver)
            assert check(driver.host, str(driver.path)).good
            driver.options = TIGHT
            await driver.open()
            await driver.check_live()
            assert (await driver.volume.cut()).number == newest + 1
            await driver.check_moment(driver.volume.write)
            await driver.volume.close()

    asyncio.run(scenario())
