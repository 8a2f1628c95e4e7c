"""Write numbers are given out once: those that a crash may have taken with the end of the log, too. The manifest
reserves some ahead, and more before they are used up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import NoSpace
from revolume.log.write.operations import OP_WRITE, WouldBlock
from revolume.volume.metadata.manifest_edits import EditKind

from .driver import BLOCK, Driver, abandon
from .store import TINY, inline_host, payload

STEP = 64
pytestmark = pytest.mark.timeout(60)


def play(scenario: Callable[[Driver], Awaitable[None]], path: Path) -> None:
    async def run() -> None:
        options = replace(TINY, reserve_writes=STEP, sync_interval_s=3600, spare_bytes=4 << 20)
        driver = Driver(inline_host(), path / "v", 1 << 20, options)
        await driver.open()
        try:
            await scenario(driver)
        finally:
            if not driver.volume._closing:
                await abandon(driver.volume)

    asyncio.run(run())


async def write(driver: Driver, times: int) -> None:
    for seed in range(times):
        await driver.change([(OP_WRITE, seed % 50 * BLOCK, payload(seed, 512))])


def stays_ahead(driver: Driver) -> None:
    volume = driver.volume
    assert volume.write < volume.manifest.state.reserved <= volume.write + 2 * STEP


def test_numbers_are_reserved_anew_before_they_are_used_up(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        reserved = {driver.volume.manifest.state.reserved}
        for _ in range(20 * STEP // 8):
            await write(driver, 8)
            stays_ahead(driver)
            reserved.add(driver.volume.manifest.state.reserved)
        assert 20 <= len(reserved) <= 60, "each time for a step or so"
        await driver.check_live()

    play(scenario, tmp_path)


def test_a_crash_that_takes_the_end_of_the_log_gives_no_number_out_again(tmp_path: Path) -> None:
    """Everything that was written since the last sync is gone: the numbers are not."""

    async def scenario(driver: Driver) -> None:
        await write(driver, 10)
        volume = driver.volume
        await volume.durable(volume.position)
        syncs = volume.log.commit.syncs
        kept, log = volume.write, {path: path.read_bytes() for path in (driver.path / "log").iterdir()}
        await write(driver, 3 * STEP)
        given_out = volume.write
        assert given_out == kept + 3 * STEP and volume.log.commit.syncs == syncs, "nothing of it is durable"
        await abandon(volume)
        for path in (driver.path / "log").iterdir():
            path.write_bytes(log.get(path, bytes(path.stat().st_size)))
        driver.model.roll_back(kept)
        await driver.open()
        assert driver.volume.log.appender.write >= given_out, "the next write goes above it"
        await write(driver, 1)
        assert driver.volume.write > given_out + 1
        await driver.check_live()
        stays_ahead(driver)

    play(scenario, tmp_path)


def test_where_no_more_can_be_reserved_writes_are_refused_and_go_on_afterwards(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        volume = driver.volume
        recorder, reserved = volume.manifest, volume.manifest.state.reserved
        record = recorder.record

        async def failing(*edits: tuple[EditKind, bytes]) -> None:
            if edits[0][0] == EditKind.RESERVE:
                raise NoSpace("manifest-not-written", "There is no room.")
            await record(*edits)

        recorder.record = failing  # type: ignore[method-assign]
        with pytest.raises(NoSpace):
            await write(driver, 2 * STEP)
        assert volume.write == reserved - 1, "the last number below the reservation"
        with pytest.raises(WouldBlock):
            volume.append([(OP_WRITE, 0, 512, memoryview(bytes(512)))])
        await driver.check_live()
        recorder.record = record  # type: ignore[method-assign]
        await write(driver, 2 * STEP)
        stays_ahead(driver)
        await driver.check_live()

    play(scenario, tmp_path)
