"""Damage that a job of the helper meets: a fold copies none of it, no view shows older blocks in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Damaged
from revolume.history.timeline import Spot
from revolume.history.views import open_view
from revolume.log.ops import OP_WRITE
from revolume.log.scan import SegmentReader
from revolume.log.segment import Segment, segment_name

from .driver import BLOCK, Driver, abandon
from .store import TINY, inline_host, payload

SIZE = 2 << 20
pytestmark = pytest.mark.timeout(60)


def play(scenario: Callable[[Driver], Awaitable[None]], path: Path) -> None:
    async def run() -> None:
        driver = Driver(inline_host(), path / "v", SIZE, replace(TINY, spare_bytes=1 << 20))
        await driver.open()
        try:
            await scenario(driver)
        finally:
            if not driver.volume._closing:
                await abandon(driver.volume)

    asyncio.run(run())


async def history(driver: Driver) -> None:
    """Points over some ten segments; each block is written once in every second of them."""
    for number in range(10):
        for at in range(4):
            block, seed = at * 8 + number % 2 * 4, number * 10 + at
            await driver.change([(OP_WRITE, block * BLOCK, payload(seed, 3 * BLOCK))])
        await driver.volume.cutter.cut()
    await driver.volume.core.footers_written()


def flip(driver: Driver, segment: Segment, offset: int) -> None:
    with open(driver.path / "log" / segment_name(segment.index), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def place_of(driver: Driver, content: bytes) -> tuple[Segment, int]:
    """Where a block's content lies in the log."""
    for segment in driver.volume.core.pool.segments():
        raw = (driver.path / "log" / segment_name(segment.index)).read_bytes()
        if (at := raw.find(content)) >= 0:
            return segment, at
    raise AssertionError("it is nowhere")


def test_a_fold_copies_no_damaged_block_of_the_log(tmp_path: Path) -> None:
    """It ends before the horizon moves, says which block it is, and is done once that is whole again."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        plan = volume.folder.plan(True)
        assert plan is not None
        content = driver.model.moments[plan.target.write][1][8]
        image, horizon = (driver.path / "image").read_bytes(), volume.folder.horizon
        segment, offset = place_of(driver, content)
        flip(driver, segment, offset + 77)
        assert not await driver.fold()
        assert volume.folder.failure is not None
        assert "Block 8 (1 in all) in the log is not what was written" in volume.folder.failure
        assert volume.folder.horizon == horizon and volume.status().state == "degraded"
        written = (driver.path / "image").read_bytes()
        damaged = bytearray(content)
        damaged[77] ^= 1
        assert bytes(damaged) not in written, "damage was copied"
        assert image == bytes(len(image))
        flip(driver, segment, offset + 77)
        assert await driver.fold()
        assert volume.folder.failure is None and volume.folder.horizon.point > horizon.point
        await driver.check_live()
        await driver.check_moments(20)

    play(scenario, tmp_path)


def without_a_footer(driver: Driver, segment: Segment) -> None:
    flip(driver, segment, segment.blocks * BLOCK - BLOCK + 9)


def headers(driver: Driver, segment: Segment) -> list[int]:
    """Where its transfers begin, in bytes."""
    return [found.block * BLOCK for found in SegmentReader(segment, driver.volume.volume_id).anywhere()]


@pytest.mark.parametrize("which", ["middle", "last"])
def test_a_segment_without_footer_and_with_a_bad_header_is_met_by_a_view(which: str, tmp_path: Path) -> None:
    """Its headers are read instead of the footer; where they break off transfers are missing, and a map without
    them would show older blocks as if they were the newest."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        write = volume.points()[-1].write
        used = [s for s in volume.core.pool.segments() if s not in volume.core.pool.ready]
        sealed = [s for s in used if s is not volume.core.appender.segment]
        segment = sealed[len(sealed) // 2] if which == "middle" else sealed[-1]
        without_a_footer(driver, segment)
        await driver.check_moment(write)  # the headers say the same
        header = headers(driver, segment)[1]
        flip(driver, segment, header + 200)
        with pytest.raises(Damaged) as damaged:
            await open_view(volume, Spot(write, 0), "test")
        assert damaged.value.code == "log-damaged" and "can't be found where it was written" in damaged.value.cause
        await driver.check_live()
        flip(driver, segment, header + 200)
        await driver.check_moment(write)

    play(scenario, tmp_path)


def test_a_view_of_the_logs_very_end_misses_no_transfer(tmp_path: Path) -> None:
    """The last segment's last transfer: no other one comes behind it that would show the gap."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        await driver.change([(OP_WRITE, 0, payload(99, BLOCK))])
        volume = driver.volume
        segment = volume.core.appender.segment
        assert segment is not None
        await driver.check_moment(volume.write)
        last = headers(driver, segment)[-1]
        flip(driver, segment, last + 200)
        with pytest.raises(Damaged):
            await open_view(volume, Spot(volume.write, 0), "test")
        flip(driver, segment, last + 200)
        await driver.check_moment(volume.write)

    play(scenario, tmp_path)
