"""A pinned moment keeps what changed since it, not the log: folds go on, and it reads as ever."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.errors import RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.volume.metadata.layout import RESCUE
from revolume.volume.rescue.merge_job import merge_tables

from .driver import BLOCK, SEGMENT, SMALL, Driver, Model
from .store import inline_host, payload

MEMORY = Path("/dev/shm")  # nothing here is about how long a sync takes
BLOCKS = 96
TIGHT = replace(SMALL, budget_bytes=20 * SEGMENT, spare_bytes=2 * SEGMENT, keep_s=0.0)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-rescue-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


def driver_at(path: Path) -> Driver:
    return Driver(inline_host(), path / "v", BLOCKS * BLOCK, TIGHT)


async def overwrite(driver: Driver, times: float, seed: int = 1) -> None:
    """Changes of every kind, so many times the log's budget, with points and folds between them."""
    chance, written = random.Random(seed), 0
    while written < times * TIGHT.budget_bytes:
        kind = chance.choice((OP_WRITE, OP_WRITE, OP_WRITE, OP_ZERO, OP_TRIM))
        block, count = chance.randrange(BLOCKS - 8), chance.randrange(1, 8)
        at = block * BLOCK + chance.choice((0, 0, 512))
        length = count * BLOCK - chance.choice((0, 0, 512))
        await driver.change(
            [(kind, at, payload(chance.randrange(1 << 30), length) if kind == OP_WRITE else length)]
        )
        written += length if kind == OP_WRITE else 0
        if chance.random() < 0.05:
            await driver.volume.point_maker.cut()


async def check_named(driver: Driver) -> None:
    for named in driver.volume.snapshots():
        await driver.check_moment(named.write)


def horizon(driver: Driver) -> int:
    return driver.volume.folder.horizon.write


def test_what_nobody_pins_any_more_goes_with_the_next_fold(place: Path) -> None:
    """Else it would be a moment with what that fold has overwritten."""

    async def run() -> None:
        driver = driver_at(place)
        await driver.open()
        await driver.volume.snapshot("named")
        await overwrite(driver, 2)
        assert driver.volume.manifest.state.rescues
        await driver.volume.drop_snapshot("named")
        await driver.change([(OP_WRITE, 0, payload(1, 8 * BLOCK))])
        point = await driver.volume.cut()
        await driver.volume.folder.fold_to(point, lambda write: None)
        assert not driver.volume.manifest.state.rescues
        await driver.volume.close()
        assert not check(driver.host, str(place / "v")).problems

    asyncio.run(run())


def test_a_moment_for_which_nothing_was_overwritten_is_good(place: Path) -> None:
    """What is folded past it zeroes blocks that were zeroes: the moment is known, and no file is needed."""

    async def run() -> None:
        driver = driver_at(place)
        await driver.open()
        await driver.volume.snapshot("empty")
        for _ in range(400):
            await driver.change([(OP_ZERO, 0, 8 * BLOCK)])
            await driver.change([(OP_WRITE, 80 * BLOCK, payload(1, 8 * BLOCK)), (OP_ZERO, 80 * BLOCK, 8 * BLOCK)])
        await driver.volume.point_maker.cut()
        while await driver.fold():
            pass
        (rescue,) = driver.volume.manifest.state.rescues
        assert rescue.moment.write < horizon(driver) and not rescue.tables
        await check_named(driver)
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    asyncio.run(run())


def test_ten_times_the_budget_is_written_while_snapshots_are_held(place: Path) -> None:
    async def run() -> None:
        driver = driver_at(place)
        await driver.open()
        await overwrite(driver, 0.3)
        await driver.volume.snapshot("first")
        pinned = driver.volume.snapshots()[0].write
        await overwrite(driver, 3, 2)
        await driver.volume.snapshot("second")
        await overwrite(driver, 4, 3)
        await driver.volume.snapshot("third")
        await overwrite(driver, 4, 4)
        assert horizon(driver) > max(s.write for s in driver.volume.snapshots()) > pinned
        await check_named(driver)
        await driver.check_live()
        await driver.reopen()
        await check_named(driver)
        await overwrite(driver, 2, 5)
        await driver.crash()
        await overwrite(driver, 2, 6)
        await check_named(driver)
        await driver.check_live()
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    asyncio.run(run())


@pytest.mark.parametrize("order", ["first second third", "third second first", "second first third"])
def test_snapshots_are_dropped_in_any_order(place: Path, order: str) -> None:
    async def run() -> None:
        driver = driver_at(place)
        await driver.open()
        for at, name in enumerate(("first", "second", "third")):
            await overwrite(driver, 0.4, at)
            await driver.volume.snapshot(name)
        await overwrite(driver, 3, 9)
        for name in order.split():
            await driver.volume.drop_snapshot(name)
            await driver.fold()
            await check_named(driver)
            await overwrite(driver, 1, 11)
            await check_named(driver)
        await driver.fold()
        assert not any((driver.path / RESCUE).iterdir())
        await driver.check_live()
        await driver.volume.close()

    asyncio.run(run())


async def with_tables(path: Path) -> Driver:
    """A volume with three snapshots behind the horizon."""
    driver = driver_at(path)
    await driver.open()
    for at, name in enumerate(("first", "second", "third")):
        await overwrite(driver, 0.4, at)
        await driver.volume.snapshot(name)
    await overwrite(driver, 2, 9)
    return driver


async def check_right_or_refused(driver: Driver) -> int:
    """Every block of every snapshot is right or an error; how many are errors."""
    refused = 0
    for named in driver.volume.snapshots():
        view = await open_view(driver.volume, ResolvedMoment(named.write, 0), "test")
        want = Model.content(*driver.model.moments[named.write])
        for block in range(BLOCKS):
            buffer = bytearray(BLOCK)
            try:
                await view.reader.read(block * BLOCK, memoryview(buffer))
            except RevolumeError:
                refused += 1
            else:
                assert buffer == want[block * BLOCK : (block + 1) * BLOCK], (named, block)
        view.close()
    return refused


@pytest.mark.parametrize("ending", ["map", "blocks"])
@pytest.mark.parametrize("harm", ["removed", "cut", "emptied"])
def test_folds_go_on_whatever_becomes_of_rescued_files(tmp_path: Path, ending: str, harm: str) -> None:
    async def run() -> None:
        driver = await with_tables(tmp_path)
        await driver.volume.close()
        for path in sorted((driver.path / RESCUE).glob(f"*.{ending}"))[::2]:
            if harm == "removed":
                path.unlink()
            else:
                os.truncate(path, path.stat().st_size // 2 if harm == "cut" else 0)
        assert check(driver.host, str(driver.path)).problems
        await driver.open()
        before = horizon(driver)
        await overwrite(driver, 3, 10)
        assert horizon(driver) > before and driver.volume.folder.failure is None
        await driver.check_live()
        assert await check_right_or_refused(driver)
        for named in driver.volume.snapshots():
            await driver.volume.drop_snapshot(named.name)
        await driver.fold()
        assert not any((driver.path / RESCUE).iterdir())
        await driver.volume.close()

    asyncio.run(run())


def test_a_snapshot_dropped_while_its_tables_are_in_use_harms_no_older_one(tmp_path: Path) -> None:
    async def run() -> None:
        driver = await with_tables(tmp_path)
        with driver.volume.rescued.in_use():  # so nothing is given to the older one before the next fold
            await driver.volume.drop_snapshot("third")
            await driver.volume.drop_snapshot("second")
            await overwrite(driver, 1, 10)
            await check_named(driver)
        await overwrite(driver, 1, 11)
        await check_named(driver)
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    asyncio.run(run())


def test_tables_that_somebody_begins_to_read_are_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        driver = driver_at(tmp_path)
        await driver.open()
        await overwrite(driver, 0.4)
        await driver.volume.snapshot("first")
        rescued, work = driver.volume.rescued, driver.volume.log.work
        job, read = work.job, list[Iterator[npt.NDArray[np.uint64]]]()

        async def job_and_reader(function: Callable[..., object], *arguments: object) -> object:
            if function is merge_tables and not read:
                reader.enter_context(rescued.in_use())
                found = rescued.blocks_between(WriteNumber(0), WriteNumber(1 << 60), set())
                assert found is not None
                read.append(found)
            return await job(function, *arguments)

        monkeypatch.setattr(work, "job", job_and_reader)
        with ExitStack() as reader:
            await overwrite(driver, 3, 10)
            assert all(len(blocks) for blocks in read.pop())
        await driver.volume.close()

    asyncio.run(run())
