"""A block that is written in part over a version which can't be read any more: points, folds and maps go on
without it, every moment answers an error for it and never wrong bytes, and a whole overwrite ends it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.errors import Damaged
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host import real_host
from revolume.log.format.segment import segment_name
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.offline.check.check import check

from .driver import BLOCK, SMALL, Driver, Model, abandon, assert_equal
from .store import payload

SIZE = 200 * BLOCK
LOST = 5


@pytest.fixture
def driver() -> Iterator[Driver]:
    place = Path(tempfile.mkdtemp(prefix="revolume-lost-", dir="/dev/shm"))
    yield Driver(real_host(), place / "v", SIZE, replace(SMALL, sync_interval_s=0.05))
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


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


async def fill(driver: Driver) -> None:
    await driver.open()
    await driver.change([(OP_WRITE, at * 10 * BLOCK, payload(at, 10 * BLOCK)) for at in range(8)])
    await driver.volume.point_maker.cut()


async def in_the_image(driver: Driver) -> Callable[[], None]:
    """Block LOST lies in the image; returns what damages it, and called again repairs it."""
    await driver.change([(OP_WRITE, (100 + at) * BLOCK, payload(at, BLOCK)) for at in range(40)])
    await driver.volume.point_maker.cut()
    assert await driver.fold()
    return lambda: flip(driver.path / "image", LOST * BLOCK + 1000)


async def in_the_log(driver: Driver) -> Callable[[], None]:
    words, _ = driver.volume.live.lookup(np.array([LOST], np.uint64))
    address = int(words[0]) & (1 << 62) - 1
    segment = driver.volume.log.pool.segment_at(address)
    name = driver.path / "log" / segment_name(segment.index)
    return lambda: flip(name, (address - segment.base) * BLOCK + 1000)


async def others_are_right(driver: Driver, number: int | None = None) -> None:
    """Block LOST is an error, all others are what they were (at a moment, or now)."""
    volume, model = driver.volume, driver.model
    size, blocks = (model.size, model.blocks) if number is None else model.moments[number]
    view = None if number is None else await open_view(volume, ResolvedMoment(number, 0), "test")
    reader = volume.reader if view is None else view.reader
    try:
        want = Model.content(size, blocks)
        for start, end in ((0, LOST), (LOST + 1, size // BLOCK)):
            have = bytearray((end - start) * BLOCK)
            await reader.read(start * BLOCK, memoryview(have))
            assert_equal(have, want[start * BLOCK : end * BLOCK], f"{number}")
        one = bytearray(BLOCK)
        assert reader.read_now([(LOST * BLOCK, memoryview(one))]) == [0]
        with pytest.raises(Damaged):
            await reader.read(LOST * BLOCK, memoryview(one))
    finally:
        if view is not None:
            view.close()


async def change_around(driver: Driver, seed: int) -> int:
    """A write into the lost block, and others; a point; its write number."""
    await driver.change([
        (OP_WRITE, LOST * BLOCK + 100 + seed, payload(seed, 50)),
        (OP_WRITE, (20 + seed) * BLOCK, payload(seed, BLOCK)),
        (OP_WRITE, 60 * BLOCK + 10 * seed, payload(seed, 99)),
    ])  # fmt: skip
    before = driver.volume.retained.last.number
    point = await driver.volume.cut()
    assert point.number == before + 1 and point.write == driver.volume.write
    return point.write


@pytest.mark.parametrize("place", [in_the_image, in_the_log])
@pytest.mark.parametrize("ending", ["overwritten", "zeroed", "zeroed in a range", "grown over after a crash"])
def test_points_go_on(
    driver: Driver, place: Callable[[Driver], Awaitable[Callable[[], None]]], ending: str
) -> None:
    async def play() -> None:
        await fill(driver)
        damage = await place(driver)
        damage()
        number = await change_around(driver, 1)
        await others_are_right(driver)
        await others_are_right(driver, number)
        status = driver.volume.status()
        assert status.state == "degraded" and f"Block {LOST}" in status.reason
        assert any(f"Block {LOST}" in event.message for event in status.events)
        points = len(driver.volume.points())
        await driver.volume.cut()
        assert len(driver.volume.points()) == points, "nothing has changed: no point"

        later = await change_around(driver, 2)
        await driver.volume.base_maps.renew(force=True)
        await others_are_right(driver)
        await others_are_right(driver, later)
        await driver.reopen()
        assert driver.volume.status().state == "degraded"
        await others_are_right(driver, number)
        await change_around(driver, 3)
        await driver.crash()
        await others_are_right(driver)
        await others_are_right(driver, later)
        await change_around(driver, 4)

        await end(driver, ending)
        assert driver.volume.status().state == "online"
        await driver.check_live()
        await driver.volume.cut()
        healed = driver.volume.write
        await driver.change([(OP_WRITE, (100 + at) * BLOCK, payload(at, BLOCK)) for at in range(40)])
        await driver.reopen()
        assert driver.volume.status().state == "online"
        await driver.check_live()
        await driver.check_moment(healed)
        await driver.volume.cut()
        while await driver.fold():
            pass
        assert not driver.volume.folder.failure and driver.volume.folder.horizon.write > healed
        await driver.check_live()
        await driver.volume.close()
        report = check(driver.host, str(driver.path))
        assert report.good, "the volume root has followed it all"

    run(driver, play)


async def end(driver: Driver, how: str) -> None:
    match how:
        case "overwritten":
            await driver.change([(OP_WRITE, (LOST - 1) * BLOCK, payload(77, 3 * BLOCK))])
        case "zeroed":
            await driver.change([(OP_ZERO, LOST * BLOCK, BLOCK)])
        case "zeroed in a range":
            await driver.change([(OP_ZERO, 0, SIZE)])
        case _:
            await driver.change([(OP_WRITE, LOST * BLOCK, payload(78, BLOCK))])
            await driver.crash()
            await driver.change([(OP_WRITE, LOST * BLOCK + 7, payload(79, 70))])


@pytest.mark.parametrize("place", [in_the_image, in_the_log])
def test_folds_go_on_and_the_image_says_it_too(
    driver: Driver, place: Callable[[Driver], Awaitable[Callable[[], None]]]
) -> None:
    async def play() -> None:
        await fill(driver)
        (await place(driver))()
        await change_around(driver, 1)
        await driver.change([(OP_WRITE, (100 + at) * BLOCK, payload(at, BLOCK)) for at in range(40)])
        await driver.volume.cut()
        folds = driver.volume.folder.folds
        while await driver.fold():
            pass
        assert driver.volume.folder.folds > folds and driver.volume.folder.failure is None
        await others_are_right(driver)
        await others_are_right(driver, driver.volume.write)
        await change_around(driver, 2)
        await driver.reopen()
        await others_are_right(driver)
        await driver.volume.close()
        report = check(driver.host, str(driver.path))
        assert report.problems
        assert all(str(LOST) in f"{p.where} {p.what}" for p in report.problems), report.problems
        await driver.open()
        await end(driver, "overwritten")
        await driver.check_live()
        await driver.volume.close()

    run(driver, play)


def test_what_can_be_read_again_is_whole_at_the_next_point(driver: Driver) -> None:
    async def play() -> None:
        await fill(driver)
        damage = await in_the_log(driver)
        damage()
        await change_around(driver, 1)
        damage()  # the same bit again: the disk has thought better of it
        await driver.check_live()
        assert driver.volume.status().state == "online"
        await driver.volume.cut()
        healed = driver.volume.write
        assert driver.volume.points()[-1].changed_blocks == 1, "its pieces have been carried over"
        await driver.reopen()
        await driver.check_live()
        await change_around(driver, 2)
        await driver.check_moment(driver.volume.write)
        assert healed
        await driver.volume.close()

    run(driver, play)
