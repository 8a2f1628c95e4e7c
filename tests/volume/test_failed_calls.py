"""A single call to the disk that fails at a bad moment: behind what has been made durable, before memory knows."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.errors import Damaged
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check

from .driver import BLOCK, Driver
from .faulty import Faults, FaultyDisk
from .store import SIZE, TINY, inline_host, payload

MEMORY = Path("/dev/shm")


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-calls-", dir=MEMORY if MEMORY.is_dir() else None))
    yield made / "v"
    shutil.rmtree(made)


def driver_on(place: Path) -> tuple[Driver, Faults]:
    faults = Faults()
    return Driver(inline_host(FaultyDisk(faults)), place, SIZE, TINY), faults


async def written(driver: Driver) -> None:
    for at in range(4):
        await driver.change([(OP_WRITE, at * 7 * BLOCK, payload(at, 3 * BLOCK))])
        await driver.volume.point_maker.cut()


async def whole(driver: Driver) -> None:
    """Now, in the past, for the verifier, and after a kill."""
    await driver.check_live()
    await driver.check_moments()
    await driver.crash()
    await driver.check_live()
    await driver.check_moments()
    await driver.volume.close()
    assert check(driver.host, str(driver.path)).problems == ()


@pytest.mark.parametrize("call", [("open", "image.pages"), ("preadv", "image.pages")])
def test_a_fold_that_cannot_read_its_digests_back(place: Path, call: tuple[str, str]) -> None:
    """The manifest named the new horizon first; then memory stayed at the old one, and views read zeroes."""

    async def run() -> None:
        driver, faults = driver_on(place)
        await driver.open()
        await written(driver)
        faults.once(*call)
        assert not await driver.fold()
        faults.never()
        await driver.check_live()
        await driver.check_moments()
        await driver.change([(OP_WRITE, 90 * BLOCK, payload(9, BLOCK))])
        await driver.volume.point_maker.cut()
        assert await driver.fold()
        await whole(driver)

    asyncio.run(run())


def test_a_base_map_that_cannot_be_removed(place: Path) -> None:
    """It had ended a fold's flip half-way; it is only rubbish, and goes with the next opening."""

    async def run() -> None:
        driver, _ = driver_on(place)
        await driver.open()
        await written(driver)
        await driver.volume.base_maps.renew(force=True)
        maps = place / "maps"
        for name in maps.iterdir():
            name.unlink()
        for seed in range(9, 29):
            await driver.change([(OP_WRITE, 90 * BLOCK, payload(seed, 4 * BLOCK))])
            await driver.volume.point_maker.cut()
        while driver.volume.maps.base_name:  # until the horizon has passed the base
            assert await driver.fold()
        await whole(driver)

    asyncio.run(run())


@pytest.mark.parametrize("ending", [".map", "image.sums"])
def test_a_fragment_whose_base_cannot_be_looked_up_at_once(place: Path, ending: str) -> None:
    """It was in the log, its write was answered with an error, and the rest of its transfer was forgotten until
    a restart found it."""

    async def run() -> None:
        driver, faults = driver_on(place)
        await driver.open()
        await written(driver)
        if ending == ".map":
            await driver.volume.base_maps.renew(force=True)
        else:
            assert await driver.fold()
        await driver.reopen()
        faults.once("preadv_nowait", ending)
        await driver.change([(OP_WRITE, 7 * BLOCK + 9, payload(8, 3 * BLOCK))])
        assert faults.fail("preadv_nowait", ending) is None, "it has failed"
        faults.never()
        await driver.check_live()
        await driver.volume.point_maker.cut()
        await whole(driver)

    asyncio.run(run())


def test_a_base_map_with_a_flipped_bit_is_made_anew_from_the_log(place: Path) -> None:
    """It is only derived; but reads, points, newer maps and the clean stop failed until a fold passed it."""

    async def run() -> None:
        driver, _ = driver_on(place)
        await driver.open()
        await written(driver)
        await driver.volume.base_maps.renew(force=True)
        await driver.reopen()
        await driver.volume.close()
        (name,) = (place / "maps").glob("base-*.map")
        content = bytearray(name.read_bytes())
        content[BLOCK + 100] ^= 4
        name.write_bytes(content)
        assert check(driver.host, str(place)).problems
        await driver.open()
        with pytest.raises(Damaged):
            await driver.read_all()
        await asyncio.sleep(1.5)
        await driver.check_live()
        await driver.change([(OP_WRITE, 7 * BLOCK + 9, payload(8, 100))])
        await driver.volume.point_maker.cut()
        assert not name.exists()
        await whole(driver)

    asyncio.run(run())


def test_a_base_map_found_damaged_while_the_next_one_is_made(place: Path) -> None:
    """The helper meets it there, and nobody has read from it: the second attempt takes the log alone."""

    async def run() -> None:
        driver, _ = driver_on(place)
        await driver.open()
        await written(driver)
        await driver.volume.base_maps.renew(force=True)
        await driver.change([(OP_WRITE, 90 * BLOCK, payload(9, BLOCK))])
        await driver.volume.point_maker.cut()
        (name,) = (place / "maps").glob("base-*.map")
        content = bytearray(name.read_bytes())
        content[BLOCK + 100] ^= 4
        name.write_bytes(content)
        with pytest.raises(Damaged):
            await driver.volume.base_maps.renew(force=True)
        await driver.volume.base_maps.renew(force=True)
        assert not name.exists()
        await whole(driver)

    asyncio.run(run())
