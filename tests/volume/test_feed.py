"""The log read back for a mirror, where crashes left segments unused between those in use."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.host import real_host
from revolume.log.format.segment import Segment
from revolume.log.read.scan import FoundTransfer, SegmentReader
from revolume.log.write.operations import OP_WRITE
from revolume.log.write.segment_pool import SegmentPool
from revolume.volume.members.feed import Feed

from .driver import BLOCK, SMALL, Driver
from .test_model import MEMORY, payload


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-feed-", dir=MEMORY if MEMORY.is_dir() else None))
    yield made
    shutil.rmtree(made)


async def ready(pool: SegmentPool, count: int) -> None:
    pool.demand(count)
    async with asyncio.timeout(60):
        while len(pool.ready) < count:
            await pool.wait_ready(0.1)


def test_every_transfer_is_found_and_no_segment_stays_behind_unused() -> None:
    async def run(folder: Path) -> None:
        host = real_host()
        driver = Driver(host, folder / "v", 4 << 20)
        await driver.open()
        written = 0
        for seed in range(4):
            for number in range(12):
                await driver.change([(OP_WRITE, number * 8 * BLOCK, payload(seed * 100 + number, 7 * BLOCK))])
                written += 1
            await ready(driver.volume.log.pool, 40)  # for somebody who then does not come
            await driver.crash()
        await driver.change([(OP_WRITE, 0, payload(9, BLOCK))])
        await driver.reopen()
        pool, feed = driver.volume.log.pool, driver.volume.feed
        found: list[int] = []
        while not found or found[-1] < feed.end:
            shipments = await feed.older(found[-1] if found else 0, 1 << 20)
            assert shipments, f"nothing behind {found[-1:]}"
            found += [shipment.position for shipment in shipments]
        assert found == list(range(1, feed.end + 1))
        for position in found:
            identity = await feed.identity_at(position)
            assert identity is not None and identity[0] <= driver.volume.epoch
        standing = {segment.use for segment in pool.ready}
        empty = [s.use for s in pool.segments() if s.use not in standing and feed._first_position(s) is None]
        assert empty == [], "segments are held in which nothing lies"
        await driver.check_live()
        await driver.volume.close()
        await host.work.close()

    folder = Path(tempfile.mkdtemp(prefix="revolume-feed-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        asyncio.run(run(folder))
    finally:
        shutil.rmtree(folder)


def test_a_segment_in_which_nothing_lies_is_passed_over() -> None:
    """Wherever it stands among the others, and however many of them there are."""

    async def run(folder: Path) -> None:
        host = real_host()
        driver = Driver(host, folder / "v", 4 << 20)
        await driver.open()
        for number in range(60):
            await driver.change([(OP_WRITE, number * 8 * BLOCK, payload(number, 7 * BLOCK))])
        pool, feed = driver.volume.log.pool, driver.volume.feed
        await driver.volume.log.footers.written()
        standing = {segment.use for segment in pool.ready}
        used = [segment for segment in pool.segments() if segment.use not in standing]
        firsts = [feed._first_position(segment) for segment in used]
        assert len(used) > 20 and None not in firsts
        for blank in ([3], [4, 5, 6], list(range(8, 19))):
            heads = {index: bytearray(BLOCK) for index in blank}
            for index, head in heads.items():
                used[index].file.preadv([head], 0)
                used[index].file.pwritev([bytes(BLOCK)], 0)
            for index in set(range(len(used))) - set(blank):
                position = firsts[index]
                assert position is not None and feed._find(used, position) is used[index], (index, blank)
            for index, head in heads.items():
                used[index].file.pwritev([head], 0)
        await driver.volume.close()
        await host.work.close()

    folder = Path(tempfile.mkdtemp(prefix="revolume-feed-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        asyncio.run(run(folder))
    finally:
        shutil.rmtree(folder)


async def read_all(feed: Feed, max_bytes: int, after: int = 0) -> list[int]:
    """The positions of everything behind ``after``, asked for piece by piece."""
    found: list[int] = []
    while after < feed.end:
        shipments = await feed.older(after, max_bytes)
        assert shipments, f"nothing behind {after}"
        found += [shipment.position for shipment in shipments]
        after = found[-1]
    return found


def test_catching_up_reads_each_header_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by two readers at once, one of which stops at the end of an open segment and goes on when it grows."""
    headers = 0
    at = SegmentReader.at

    def counted(self: SegmentReader, block: int) -> FoundTransfer | None:
        nonlocal headers
        headers += 1
        return at(self, block)

    async def run() -> None:
        nonlocal headers
        host = real_host()
        driver = Driver(host, folder / "v", 4 << 20, replace(SMALL, segment_bytes=1 << 20))
        await driver.open()
        feed = driver.volume.feed
        for number in range(400):
            await driver.change([(OP_WRITE, number % 64 * BLOCK, payload(number, BLOCK))])
        monkeypatch.setattr(SegmentReader, "at", counted)
        first, second = await asyncio.gather(read_all(feed, 5 * BLOCK), read_all(feed, 7 * BLOCK))
        assert first == second == list(range(1, feed.end + 1))
        assert headers < 1.5 * len(first + second)
        end = feed.end
        for number in range(300):  # the rest of that segment, and more of them
            await driver.change([(OP_WRITE, number % 64 * BLOCK, payload(number, BLOCK))])
        headers = 0
        assert await read_all(feed, 5 * BLOCK, end) == list(range(end + 1, feed.end + 1))
        assert headers < 1.5 * (feed.end - end)
        await driver.volume.close()
        await host.work.close()

    asyncio.run(run())


def test_the_pool_is_not_looked_at_beside_the_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes in the loop: a thread would meet a queue that changes under it, or a segment that is gone."""
    asked: list[threading.Thread] = []
    segments = SegmentPool.segments

    def noted(pool: SegmentPool) -> list[Segment]:
        asked.append(threading.current_thread())
        return segments(pool)

    async def run() -> None:
        host = real_host()
        driver = Driver(host, folder / "v", 4 << 20)
        await driver.open()
        for number in range(12):
            await driver.change([(OP_WRITE, number * 8 * BLOCK, payload(number, 7 * BLOCK))])
        monkeypatch.setattr(SegmentPool, "segments", noted)
        assert await driver.volume.feed.older(0, 1 << 20)
        assert set(asked) == {threading.main_thread()}
        await driver.volume.close()
        await host.work.close()

    asyncio.run(run())
