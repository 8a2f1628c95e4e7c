"""Damage that a job of the helper meets: a fold copies none of it, no view shows older blocks in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Damaged
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.log.format.segment import Segment, segment_name
from revolume.log.read.scan import SegmentReader
from revolume.log.write.operations import OP_WRITE

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
        await driver.volume.point_maker.cut()
    await driver.volume.log.footers.written()


def flip(driver: Driver, segment: Segment, offset: int) -> None:
    with open(driver.path / "log" / segment_name(segment.index), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def place_of(driver: Driver, content: bytes) -> tuple[Segment, int]:
    """Where a block's content lies in the log."""
    for segment in driver.volume.log.pool.segments():
        raw = (driver.path / "log" / segment_name(segment.index)).read_bytes()
        if (at := raw.find(content)) >= 0:
            return segment, at
    raise AssertionError("it is nowhere")


def test_a_fold_goes_on_past_a_damaged_block_that_nobody_has(tmp_path: Path) -> None:
    """The block comes into the image as it is, with the digest that it should have: it is an error, no other
    is."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        plan = volume.folder.plan(True)
        assert plan is not None
        content, horizon = driver.model.moments[plan.target.write][1][8], volume.folder.horizon
        segment, offset = place_of(driver, content)
        flip(driver, segment, offset + 77)
        assert await driver.fold()
        assert volume.folder.failure is None and volume.folder.horizon.point > horizon.point
        view = await open_view(volume, ResolvedMoment(volume.folder.horizon.write, 0), "after the fold")
        try:
            for block, data in driver.model.moments[volume.folder.horizon.write][1].items():
                found = memoryview(bytearray(BLOCK))
                if block != 8:
                    await view.reader.read(block * BLOCK, found)
                    assert bytes(found) == data
                    continue
                with pytest.raises(Damaged, match="Block 8 could not be read"):
                    await view.reader.read(block * BLOCK, found)
        finally:
            view.close()
        assert [(each.block, each.place) for each in volume.healer.unhealed.blocks()] == [(8, "image")]
        await driver.change([(OP_WRITE, 8 * BLOCK, payload(999, BLOCK))])
        await driver.check_live()

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
        used = [s for s in volume.log.pool.segments() if s not in volume.log.pool.ready]
        sealed = [s for s in used if s is not volume.log.appender.segment]
        segment = sealed[len(sealed) // 2] if which == "middle" else sealed[-1]
        without_a_footer(driver, segment)
        await driver.check_moment(write)  # the headers say the same
        header = headers(driver, segment)[1]
        flip(driver, segment, header + 200)
        with pytest.raises(Damaged) as damaged:
            await open_view(volume, ResolvedMoment(write, 0), "test")
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
        segment = volume.log.appender.segment
        assert segment is not None
        await driver.check_moment(volume.write)
        last = headers(driver, segment)[-1]
        flip(driver, segment, last + 200)
        with pytest.raises(Damaged):
            await open_view(volume, ResolvedMoment(volume.write, 0), "test")
        flip(driver, segment, last + 200)
        await driver.check_moment(volume.write)

    play(scenario, tmp_path)
