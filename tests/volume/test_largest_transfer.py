"""The largest transfer belongs to the volume: a log whose segments are larger has none that a copy with segments
of that size could not hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Refused
from revolume.host import Host, real_host
from revolume.log.format.segment import footer_blocks
from revolume.log.format.transfer import Kind, Transfer
from revolume.log.write.appender import columns_bytes, fits_segment
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, Op
from revolume.log.write.pool_limits import need_blocks
from revolume.volume.metadata.manifest_edits import EditKind, pack_number

from .driver import BLOCK, SEGMENT, SMALL, Driver
from .mirrored import Mirrored

MiB = 1 << 20
SIZE = 32 * MiB
LEAST = SEGMENT // BLOCK
LARGE = replace(SMALL, segment_bytes=MiB, spare_bytes=8 * MiB)


def run(path: Path, scenario: Callable[[Host, Path], Awaitable[None]]) -> None:
    async def play() -> None:
        host = real_host()
        try:
            await scenario(host, path / "v")
        finally:
            await host.work.close()

    asyncio.run(play())


async def bounded(host: Host, path: Path) -> Driver:
    """A volume that was made with segments of 64 KiB, at a node with segments of 1 MiB."""
    driver = Driver(host, path, SIZE, LARGE)
    await driver.open()
    await driver.volume.manifest.record((EditKind.LARGEST, pack_number(LEAST)))
    await driver.reopen()
    return driver


def transfers(driver: Driver) -> list[Transfer]:
    volume = driver.volume
    return [found.transfer for s in volume.log.pool.segments() for found in volume.feed.transfers(s)]


def drawn(chance: random.Random) -> list[tuple[int, int, bytes | int]]:
    """A batch of writes of all sizes, aligned and not, and of zeroes."""
    changes: list[tuple[int, int, bytes | int]] = []
    for _ in range(chance.choice((1, 1, 2, 30))):
        length = chance.choice((1, 700, 4096, 12_288, 36_864, 40_960, 45_056, 49_152, 65_536, 333_333, 2 * MiB))
        offset = chance.randrange(SIZE - length) // chance.choice((1, 512, 4096)) * chance.choice((1, 512, 4096))
        offset = min(offset, SIZE - length)
        kind = chance.choice((OP_WRITE, OP_WRITE, OP_WRITE, OP_ZERO, OP_TRIM))
        changes.append((kind, offset, chance.randbytes(length) if kind == OP_WRITE else length))
    return changes


def operations(changes: list[tuple[int, int, bytes | int]]) -> list[Op]:
    return [(k, at, len(w), memoryview(w)) if isinstance(w, bytes) else (k, at, w, None) for k, at, w in changes]


@pytest.mark.parametrize("seed", range(6))
def test_no_transfer_is_larger_whatever_is_written(tmp_path: Path, seed: int) -> None:
    async def scenario(host: Host, path: Path) -> None:
        driver, chance = await bounded(host, path), random.Random(seed)
        known = len(transfers(driver))
        for _ in range(25):
            changes = drawn(chance)
            await driver.change(changes)
            made = transfers(driver)[known:]
            known += len(made)
            taken = sum(each.total_blocks for each in made) + footer_blocks(sum(map(columns_bytes, made)))
            assert taken <= need_blocks(operations(changes), LEAST), "more than was admitted"
        await driver.volume.point_maker.cut()
        assert all(fits_segment(each, LEAST) for each in transfers(driver))
        await driver.check_live()
        await driver.crash()
        await driver.check_live()
        await driver.volume.close()

    run(tmp_path, scenario)


def test_transfers_fill_what_they_may_and_follow_on_each_other_in_a_segment(tmp_path: Path) -> None:
    async def scenario(host: Host, path: Path) -> None:
        driver = await bounded(host, path)
        begin = driver.volume.log.appender.address
        await driver.change([(OP_WRITE, 0, random.Random(1).randbytes(8 * MiB))])
        blocks = driver.volume.log.appender.address - begin
        assert len(transfers(driver)) > 2048 // LEAST
        assert blocks < 2048 * 1.3, "most of it is content, and no segment is left half empty"
        await driver.volume.close()

    run(tmp_path, scenario)


def test_a_points_record_comes_in_parts_that_are_no_larger(tmp_path: Path) -> None:
    async def scenario(host: Host, path: Path) -> None:
        driver = await bounded(host, path)
        for at in range(0, 4000, 2):
            await driver.change([(OP_WRITE, at * BLOCK + (100 if at % 40 == 0 else 0), b"\x07" * 2048)])
        await driver.change([(OP_WRITE, at * BLOCK, b"\x07" * BLOCK) for at in range(4001, 8000, 2)])
        await driver.volume.point_maker.cut()
        record = [each for each in transfers(driver) if each.kind == Kind.POINT]
        assert len(record) > 4 and all(fits_segment(each, LEAST) for each in record)
        await driver.check_moment(driver.volume.write)
        await driver.volume.close()

    run(tmp_path, scenario)


def test_it_is_what_the_volumes_first_segments_hold_and_stays(tmp_path: Path) -> None:
    async def scenario(host: Host, path: Path) -> None:
        driver = Driver(host, path, SIZE, LARGE)
        await driver.open()
        assert driver.volume.manifest.state.largest_blocks == driver.volume.log.appender.largest_blocks == 256
        for _ in range(2):  # a clean stop writes all of the state anew
            await driver.reopen()
        assert driver.volume.manifest.state.largest_blocks == 256
        await driver.volume.manifest.record((EditKind.LARGEST, pack_number(0)))  # as made by an older release
        await driver.reopen()
        assert driver.volume.manifest.state.largest_blocks == 0
        assert driver.volume.log.appender.largest_blocks == 256, "what its own segments hold"
        await driver.volume.close()

    run(tmp_path, scenario)


def test_a_copy_takes_no_transfer_that_is_larger_than_its_volumes(tmp_path: Path) -> None:
    """It would hold it; once it is promoted, the copies that rely on what it says would not."""

    async def scenario(host: Host, path: Path) -> None:
        driver = Mirrored(host, path, SIZE, LARGE)
        await driver.open()
        await driver.change([(OP_WRITE, 0, b"\x05" * BLOCK)])
        await driver.volume.point_maker.cut()
        there = await driver.begin()
        await driver.send_base()
        await there.bound.bounded(LEAST)
        await driver.change([(OP_WRITE, 0, b"\x05" * 9 * BLOCK)])
        await driver.ship()
        await driver.change([(OP_WRITE, 0, b"\x06" * 20 * BLOCK)])
        with pytest.raises(Refused, match="takes 21 blocks, and the volume's largest 16"):
            await driver.ship()
        await there.close()
        await driver.volume.close()

    run(tmp_path, scenario)
