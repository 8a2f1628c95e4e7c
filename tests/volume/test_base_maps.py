"""The live map's base: made when it is due, made anew when it is lost, told when it is wrong."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import UsageError
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.offline.check.check import check

from .driver import BLOCK, SMALL, Driver, abandon
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
        await driver.volume.base_maps.renew(force=True)
        assert await driver.fold()
        horizon, base = driver.volume.folder.horizon, driver.volume.live.base
        assert horizon.point == 1 and base is not None and base.meta.point == 2
        await driver.check_live()
        await driver.volume.close()
        report = check(driver.host, str(driver.path))
        assert report.good, report.problems

    run(driver, play)


# --- a map that does not fit in memory -----------------------------------------------------------------

WIDE = 255
"""Blocks zeroed by one write, each with an entry of its own: many entries, little log."""
ROUNDS = 2400
LARGE, LITTLE = replace(SMALL, map_memory_bytes=128 << 20), replace(SMALL, map_memory_bytes=13 << 20)
Sample = dict[int, bytes]


@pytest.fixture
def wide() -> Iterator[Driver]:
    place = Path(tempfile.mkdtemp(prefix="revolume-base-", dir="/dev/shm"))
    yield Driver(real_host(), place / "v", 2 * ROUNDS * WIDE * BLOCK, LARGE)
    shutil.rmtree(place)


async def spread(driver: Driver, first: int, rounds: int) -> Sample:
    """More entries than a little memory takes; here and there data, some under zeroes, some over them."""
    sample: Sample = {}
    for at in range(first, first + rounds):
        block = at * WIDE
        await driver.append([(OP_WRITE, (block + 1) * BLOCK, BLOCK, memoryview(payload(at, BLOCK)))])
        await driver.append([(OP_ZERO, block * BLOCK, WIDE * BLOCK, None)])
        sample[block + 1] = bytes(BLOCK)
        if at % 50 == 0:
            await driver.append([(OP_WRITE, (block + 2) * BLOCK + 9, 99, memoryview(payload(at, 99)))])
            await driver.append([(OP_WRITE, (block + 3) * BLOCK, BLOCK, memoryview(payload(at + 1, BLOCK)))])
            sample[block + 2] = bytes(9) + payload(at, 99) + bytes(BLOCK - 108)
            sample[block + 3] = payload(at + 1, BLOCK)
    return sample


async def holds(driver: Driver, sample: Sample) -> None:
    for block, want in sample.items():
        have = bytearray(BLOCK)
        await driver.volume.read(block * BLOCK, memoryview(have))
        assert have == want, block


@pytest.mark.parametrize("ending", ["stopped", "crashed"])
def test_less_memory_than_before(wide: Driver, ending: str) -> None:
    driver = wide

    async def play() -> None:
        await driver.open()
        sample = await spread(driver, 0, ROUNDS)
        await driver.volume.cut()
        sample |= await spread(driver, ROUNDS, 40)
        assert len(driver.volume.live.overlay) > ROUNDS * WIDE and driver.volume.live.base is None
        await (driver.volume.close() if ending == "stopped" else abandon(driver.volume))
        driver.options = LITTLE
        await driver.open()
        assert driver.volume.live.base is not None
        await holds(driver, sample)
        sample |= await spread(driver, 200, 900)  # and it works on in little memory
        await holds(driver, sample)
        await driver.volume.close()
        shutil.rmtree(driver.path / "maps")
        (driver.path / "maps").mkdir()
        await driver.open()
        await holds(driver, sample)
        await driver.volume.close()
        report = check(driver.host, str(driver.path))
        assert report.good, report.problems

    run(driver, play)


def test_a_tail_that_does_not_fit_is_refused_with_the_memory_it_needs(
    wide: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = wide
    monkeypatch.setattr("revolume.volume.primary.CUT_BLOCKS", 1 << 40)  # no point comes before the crash

    async def play() -> None:
        await driver.open()
        sample = await spread(driver, 0, 10)
        await driver.volume.cut()
        sample |= await spread(driver, 10, ROUNDS)
        await abandon(driver.volume)
        for _ in range(2):
            driver.options = LITTLE
            with pytest.raises(UsageError) as caught:
                await driver.open()
        driver.options = replace(SMALL, map_memory_bytes=needed(caught.value) << 20)
        await driver.open()
        await holds(driver, sample)
        await driver.volume.close()
        driver.options = LITTLE
        await driver.open()
        await holds(driver, sample)
        await driver.volume.close()

    run(driver, play)


def needed(error: UsageError) -> int:
    assert error.code == "map-memory-too-small" and "--map-memory" in error.hint
    return int(error.hint.split("--map-memory ")[1].split("MiB")[0])


def test_no_memory_at_all_is_refused_before_anything_is_made(driver: Driver) -> None:
    async def play() -> None:
        driver.options = replace(SMALL, map_memory_bytes=1 << 20)
        with pytest.raises(UsageError) as caught:
            await driver.open()
        assert not driver.path.exists()
        driver.options = replace(SMALL, map_memory_bytes=needed(caught.value) << 20)
        await driver.open()
        await driver.volume.close()

    run(driver, play)


def test_many_large_trims_make_a_point_due(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a range in memory, copied whole at the next: they are not let grow for the whole interval."""
    monkeypatch.setattr("revolume.volume.primary.CUT_RANGES", 20)

    async def play() -> None:
        await driver.open()
        for at in range(60):
            block = at % 12 * 300
            await driver.change([(OP_ZERO, block * BLOCK, 299 * BLOCK)])
            await asyncio.sleep(0.01)
        assert len(driver.volume.points()) >= 2
        assert len(driver.volume.live.ranges) <= 12, "what is covered is gone"
        await driver.volume.close()

    run(driver, play)
