"""Write numbers that a crash left out: each means the last write before it; above the newest there is nothing."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.errors import NotFound
from revolume.history.exports import BITMAP, VolumeExports
from revolume.history.moments import AtWrite, Now
from revolume.history.offline_volume import open_offline
from revolume.history.open_history import OpenHistory
from revolume.history.resolver import MomentResolver
from revolume.host.network import Peer
from revolume.log.write.operations import OP_WRITE
from tests.volume.driver import BLOCK, Driver, abandon
from tests.volume.store import inline_host, payload

SIZE = 4 << 20
PEER = Peer("here", None, None)


@pytest.fixture
def driver() -> Iterator[Driver]:
    place = Path(tempfile.mkdtemp(prefix="revolume-gaps-", dir="/dev/shm"))
    yield Driver(inline_host(), place / "v", SIZE)
    shutil.rmtree(place)


async def write(driver: Driver, count: int) -> int:
    for at in range(count):
        await driver.change([(OP_WRITE, (driver.volume.write + at) % 50 * BLOCK, payload(at, 2 * BLOCK))])
    return driver.volume.write


def means(driver: Driver, number: int) -> int:
    return MomentResolver(OpenHistory(driver.volume)).resolve(AtWrite(number)).write


@pytest.mark.parametrize("points", ["none", "before", "after", "folded"])
def test_a_number_in_a_gap_means_the_last_write_before_it(driver: Driver, points: str) -> None:
    async def play() -> None:
        await driver.open()
        await write(driver, 20)
        if points in ("before", "folded"):
            await driver.volume.cut()
        if points == "folded":
            assert await driver.fold()
        last = await write(driver, 3) if points != "folded" else driver.volume.write
        await driver.crash()
        newest = driver.volume.log.appender.write
        assert newest > last + 1000
        assert (
            MomentResolver(OpenHistory(driver.volume)).resolve(Now()).write
            == driver.volume.write
            == means(driver, last)
            == last
        )
        for number in (last + 1, last + 999, newest, newest + 1):
            with pytest.raises(NotFound):
                means(driver, number)

        await write(driver, 5)
        if points == "after":
            await driver.volume.cut()
        await write(driver, 30)
        assert [means(driver, newest + n) for n in (0, 1, 2, 35)] == [last, newest + 1, newest + 2, newest + 35]
        assert means(driver, (last + newest) // 2) == last
        with pytest.raises(NotFound):
            means(driver, newest + 36)
        await driver.check_moment(newest + 7)
        await abandon(driver.volume)

        stopped = open_offline(driver.host, str(driver.path))
        for number in (last + 1, newest):
            assert stopped.resolve(AtWrite(number)).write == last
        assert stopped.resolve(AtWrite(newest + 1)).write == newest + 1
        assert stopped.resolve(Now()).write == newest + 35
        with pytest.raises(NotFound):
            stopped.resolve(AtWrite(newest + 36))

    asyncio.run(play())


def test_many_crashes_with_nothing_between_them(driver: Driver) -> None:
    async def play() -> None:
        await driver.open()
        last = await write(driver, 4)
        for _ in range(3):
            await driver.crash()
        assert driver.volume.write == means(driver, last) == last
        await driver.volume.close()
        assert open_offline(driver.host, str(driver.path)).resolve(Now()).write == last

    asyncio.run(play())


def test_one_number_is_told_after_a_crash(driver: Driver) -> None:
    """The last write that is there has a number; status, points, snapshots and exports tell no other."""

    async def play() -> None:
        await driver.open()
        last = await write(driver, 7)
        await driver.crash()
        volume = driver.volume
        named = await volume.snapshot("behind-it")
        assert (named.write, volume.points()[-1].write, volume.status().write) == (last, last, last)
        assert MomentResolver(OpenHistory(volume)).resolve(Now()).write == last
        await driver.check_moment(last)
        await driver.crash()
        assert driver.volume.status().write == last
        await driver.volume.close()
        stopped = open_offline(driver.host, str(driver.path))
        told = stopped.status()
        assert (told.write, stopped.points()[-1].write, told.snapshots[0].write) == (last, last, last)

    asyncio.run(play())


def test_a_snapshot_names_the_state_behind_a_grow(driver: Driver) -> None:
    """Although no block has changed; twice; also where nothing was ever written, and behind a fact."""

    async def play() -> None:
        await driver.open()
        await driver.grow(SIZE + 4096)
        await driver.volume.snapshot("one")
        await driver.grow(SIZE + 8192)
        await driver.grow(SIZE + 12288)
        await driver.volume.snapshot("two")
        await write(driver, 2)
        await driver.volume.cut()
        await driver.grow(SIZE + 65536)
        await driver.volume.snapshot("three")
        await driver.volume.snapshot("four")
        sizes = {s.name: driver.volume.sizes.at(s.write) - SIZE for s in driver.volume.snapshots()}
        assert sizes == {"one": 4096, "two": 12288, "three": 65536, "four": 65536}
        points = len(driver.volume.points())
        await driver.volume.cut()
        assert len(driver.volume.points()) == points, "nothing has changed"
        await driver.check_moments()
        await driver.reopen()
        assert {s.name: driver.volume.sizes.at(s.write) - SIZE for s in driver.volume.snapshots()} == sizes
        await driver.volume.close()

    asyncio.run(play())


def test_no_bitmap_of_a_later_moment(driver: Driver) -> None:
    """What changed since a moment is not "nothing" at an earlier one: the context is not there."""

    async def play() -> None:
        await driver.open()
        await write(driver, 1)
        await driver.volume.snapshot("early")
        await driver.change([(OP_WRITE, 100 * BLOCK, payload(1, BLOCK))])
        await driver.volume.snapshot("late")
        exports = VolumeExports(driver.volume, driver.volume)
        early = await exports.open("@early", PEER)
        late = await exports.open("@late", PEER)
        live = await exports.open("", PEER)
        assert await exports.contexts(early, BITMAP + "late") == []
        assert await exports.contexts(early, "qemu:") == [BITMAP + "early"]
        for export in (late, live):
            assert await exports.contexts(export, BITMAP + "early") == [BITMAP + "early"]
            changed = await export.extents(BITMAP + "early", 0, 200 * BLOCK)
            assert [size for size, flag in changed if flag] == [BLOCK]
        with pytest.raises(NotFound):
            await early.extents(BITMAP + "late", 0, BLOCK)
        for export in (early, late):
            export.close(True)
        exports.close()
        await driver.volume.close()

    asyncio.run(play())
