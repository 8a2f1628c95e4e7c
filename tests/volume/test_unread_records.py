"""A point's record that can't be read: the volume opens, says so, and every write is there at every moment."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Damaged
from revolume.history.offline_volume import open_offline
from revolume.log.format.segment import segment_name
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check

from .driver import BLOCK, Driver, abandon
from .store import TINY, inline_host, payload

SIZE = 1 << 19
QUIET = replace(TINY, sync_interval_s=3600)  # nothing is synced between the last point and the end
pytestmark = pytest.mark.timeout(60)


async def history(driver: Driver, filled: int) -> list[int]:
    """Four points, each with blocks written in part, which only its record has whole, and that many whole writes
    behind it, which seal its segment. The addresses of their records."""
    await driver.open()
    for at in range(4):
        await driver.change([
            (OP_WRITE, at * BLOCK, payload(at, BLOCK)), (OP_WRITE, (20 + at) * BLOCK + 100, payload(50 + at, 99)),
            (OP_WRITE, 40 * BLOCK + 50 * at, payload(70 + at, 99)),
        ])  # fmt: skip
        await driver.volume.snapshot(f"s{at}")
        for k in range(filled):
            await driver.change([(OP_WRITE, (50 + 8 * k) * BLOCK, payload(90 + 10 * at + k, 8 * BLOCK))])
    await driver.volume.durable(driver.volume.position)
    return [point.record for point in driver.volume.points()]


async def spoil(driver: Driver, record: int, clean: bool) -> None:
    """The volume stops, and a byte of the record's header is another."""
    file, block = divmod(record, driver.volume.log.pool.segment_blocks)
    index = next(s.index for s in driver.volume.log.pool.segments() if s.use == file)
    await (driver.volume.close() if clean else abandon(driver.volume))
    with open(driver.path / "log" / segment_name(index), "r+b") as segment:
        segment.seek(block * BLOCK + 200)
        old = segment.read(1)[0]
        segment.seek(block * BLOCK + 200)
        segment.write(bytes([old ^ 1]))


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "unclean"])
@pytest.mark.parametrize(("which", "filled"), [(1, 6), (3, 6), (3, 0)])
def test_it_opens_and_says_so(tmp_path: Path, which: int, filled: int, clean: bool) -> None:
    async def run() -> None:
        driver = Driver(inline_host(), tmp_path / "v", SIZE, TINY if filled else QUIET)
        records = await history(driver, filled)
        based = which == 3 and filled and not clean
        if based:
            await driver.volume.base_maps.renew(force=True)  # stands on the point whose record goes
        await spoil(driver, records[which], clean)
        stopped = open_offline(driver.host, str(driver.path)) if filled else None
        assert stopped is None or "History is suspect" in stopped.status().reason
        found = check(driver.host, str(driver.path))
        assert found.problems or (not clean and not filled)
        await driver.open()
        driver.model.seal(driver.volume.write)
        status = driver.volume.status()
        told = [event.message for event in status.events if event.kind == "damage"]
        torn = (which, filled, clean) == (3, 0, False)  # nothing says that the last record ever was there
        assert torn or (len(told) == 1 and "every write is there" in told[0])
        numbers = [point.number for point in driver.volume.points()]
        if filled:
            assert status.state == "degraded" and status.reason.startswith("History is suspect")
            assert which + 1 not in numbers or which == 3, "only the last number is given again"
        await driver.check_live()
        await driver.check_moments(6)
        for at in range(4):
            await driver.change([(OP_WRITE, (20 + at) * BLOCK + 300, payload(150 + at, 300))])
        await driver.volume.point_maker.cut()
        await driver.check_moments(6)
        await driver.reopen()
        await driver.check_moments(6)
        for at in range(4):
            await driver.volume.drop_snapshot(f"s{at}")
        assert await driver.fold()
        await driver.check_live()
        assert driver.volume.status().state == "online", "what is suspect has been folded away"
        await driver.reopen()
        await driver.check_live()
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    asyncio.run(run())


def test_a_later_record_may_state_that_the_lost_one_was_durable(tmp_path: Path) -> None:
    """After a clean stop all of the log was durable: that a header behind the damage says so as well changes
    nothing."""

    async def run() -> None:
        driver = Driver(inline_host(), tmp_path / "v", SIZE, TINY)
        records = await history(driver, 0)
        await driver.volume.snapshot("again")
        await spoil(driver, records[3], True)
        await driver.open()
        driver.model.seal(driver.volume.write)
        assert any("every write is there" in event.message for event in driver.volume.status().events)
        await driver.check_live()
        await driver.change([(OP_WRITE, 0, payload(7, BLOCK))])
        await driver.crash()
        await driver.check_live()
        await driver.check_moments(6)
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    asyncio.run(run())


def test_a_write_that_is_missing_is_no_matter_of_history(tmp_path: Path) -> None:
    async def run() -> None:
        driver = Driver(inline_host(), tmp_path / "v", SIZE, replace(TINY))
        await history(driver, 0)
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        last = driver.volume.log.appender.segment
        assert last is not None
        address = last.base + driver.volume.log.appender.next_block - 2
        await spoil(driver, address, True)
        with pytest.raises(Damaged, match="log breaks off"):
            await driver.open()

    asyncio.run(run())
