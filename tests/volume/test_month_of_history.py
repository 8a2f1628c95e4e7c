"""A month of a volume that is written to all the time, with hourly points and daily snapshots: the room that
history takes, and the number of files, stay bounded, and what is promised is open at the end."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.log.write.operations import OP_WRITE
from revolume.volume.metadata.keep_policy import KeepPolicy, Tier
from tests.support.live_files import taken
from tests.support.tally import SOAK

from .clocks import SetClock
from .driver import BLOCK, SEGMENT, SMALL, Driver
from .restoring import Restorer

HOUR, DAY = 3600, 86400
POLICY = KeepPolicy(
    6 * HOUR * 1000, 12 * HOUR * 1000, (Tier(HOUR * 1000, 2 * DAY * 1000), Tier(DAY * 1000, 14 * DAY * 1000))
)
BLOCKS = 1000
POINTS_A_DAY = 48
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path / "v"
    shutil.rmtree(path)


def test_a_month_of_history_stays_within_its_room(place: Path) -> None:
    clock, chance = SetClock(), random.Random(7)
    options = replace(SMALL, keep_s=None, keep=POLICY, budget_bytes=800 * SEGMENT, spare_bytes=0)

    async def half_an_hour(driver: Driver) -> None:
        for _ in range(2):
            first = chance.randrange(BLOCKS - 8)
            await driver.change([(OP_WRITE, first * BLOCK, chance.randbytes(4) * (2 * BLOCK))])
        clock.pass_by(DAY / POINTS_A_DAY)
        await driver.volume.cut()
        while await driver.volume.folder.step():
            pass

    async def scenario() -> None:
        driver = Driver(clock.host(), place, BLOCKS * BLOCK, options)
        await driver.open()
        sizes = list[tuple[int, int]]()
        for day in range(30):
            await driver.volume.snapshot(f"day{day}", 7 * DAY)
            for _ in range(POINTS_A_DAY):
                await half_an_hour(driver)
            await driver.volume.names.drop_expired()
            sizes.append(taken(place))
            driver.model.moments = {
                write: state
                for write, state in driver.model.moments.items()
                if write >= driver.volume.oldest.write
            } | {p.write: driver.model.moments[p.write] for p in driver.volume.isolated_points()}
            if day % 10 == 5:
                await driver.crash()
        print(sizes)
        grown = [size for size, _ in sizes]
        assert max(grown[20:]) < 1.25 * max(grown[10:20]), "it goes on growing"
        assert max(files for _, files in sizes) < 500 and len(driver.volume.manifest.state.rescues) < 100
        kept = driver.volume.retention.kept()
        assert kept.log_bytes + kept.pinned_bytes < kept.budget_bytes
        assert kept.pinned_points >= 40 and not driver.volume.manifest.state.retention.given_up_ms
        assert len(driver.volume.snapshots()) == 6
        for point in driver.volume.open_points()[::5]:
            await driver.check_moment(point.write)
        await driver.volume.close()

    asyncio.run(scenario())


@pytest.mark.soak
def test_hourly_restores_to_one_snapshot_stay_within_their_room(place: Path) -> None:
    """A month, or some days, of a machine that is put back to the same state every hour. What was before each
    restore is kept for two days, the golden snapshot for good, the rest as the policy says: so the horizon moves,
    and room is bounded."""
    clock, chance = SetClock(), random.Random(11)
    options = replace(SMALL, keep_s=6 * HOUR, budget_bytes=800 * SEGMENT, spare_bytes=0)

    async def an_hour(driver: Restorer, golden: int) -> None:
        for _ in range(3):
            first = chance.randrange(BLOCKS - 8)
            await driver.change([(OP_WRITE, first * BLOCK, chance.randbytes(4) * (2 * BLOCK))])
        clock.pass_by(HOUR)
        await driver.volume.snapshot(f"before-restore-{driver.volume.write}", 2 * DAY)
        difference = await driver.restore(golden)
        assert len(difference.held) + difference.zeroes.block_count() <= 3 * 9
        await driver.volume.cut()
        await driver.volume.names.drop_expired()
        while await driver.volume.folder.step():
            pass

    async def scenario() -> None:
        driver = Restorer(clock.host(), place, BLOCKS * BLOCK, options)
        await driver.open()
        await driver.change([(OP_WRITE, 0, chance.randbytes(BLOCK) * 300)])
        await driver.volume.snapshot("golden")
        golden = driver.volume.write
        driver.model.seal(golden)
        state = dict(driver.model.blocks)
        taken_by_day, oldest_by_day = list[tuple[int, int]](), list[int]()
        for day in range(30 if SOAK else 9):
            for _ in range(24):
                await an_hour(driver, golden)
                assert driver.model.blocks == state
            taken_by_day.append(taken(place))
            oldest_by_day.append(driver.volume.oldest.write)
            driver.model.moments = {golden: driver.model.moments[golden]} | {
                write: then for write, then in driver.model.moments.items() if write >= driver.volume.oldest.write
            }
            if day % 10 == 5:
                await driver.crash()
        print(taken_by_day, oldest_by_day)
        grown = [size for size, _ in taken_by_day]
        assert max(grown[6:]) < 1.25 * max(grown[3:6]), "it goes on growing"
        assert max(files for _, files in taken_by_day) < 400
        assert oldest_by_day == sorted(set(oldest_by_day)), "the horizon stands still"
        assert len(driver.volume.snapshots()) in (48, 49, 50)
        await driver.check_live()
        await driver.check_moment(golden)
        await driver.volume.close()

    asyncio.run(scenario())
