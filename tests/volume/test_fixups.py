"""Blocks that put a mirror's copy right: part of a point, from which on every way of reading the copy has them."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.host import real_host
from revolume.host.disk import Disk
from revolume.log.write.operations import OP_WRITE
from revolume.resync.cuts import PlainCut
from revolume.volume.points.point_maker import AnnouncedCut
from revolume.volume.points.staged_fixups import Fixups
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.suspect_rows import OPEN, ROW
from tests.volume.driver import BLOCK
from tests.volume.faulty import Faults, FaultyDisk
from tests.volume.mirrored import Mirrored

SIZE = 4 << 20


def content(seed: int, blocks: int = 1) -> bytes:
    return random.Random(seed).randbytes(blocks * BLOCK)


RIGHT = {5: content(50), 6: bytes(BLOCK), 300: content(51)}
"""What is stored of these blocks; the copy had something else."""


class Named(PlainCut):
    """Stages the batch for the point that is made."""

    def __init__(
        self, driver: Mirrored, chain: bytes | None = None, right: dict[int, bytes] | None = None
    ) -> None:
        super().__init__(driver.volume)
        self._driver, self._chain, self._right = driver, chain, right or RIGHT
        self.stored: asyncio.Future[int] | None = None

    def cut_made(self, cut: AnnouncedCut) -> None:
        assert self._driver.secondary is not None
        blocks = np.array(sorted(self._right), np.uint64)
        contents = memoryview(b"".join(self._right[block] for block in sorted(self._right)))
        chain = self._chain or cut.chain
        self.stored = self._driver.secondary.stage_fixups(
            Fixups(cut.number, cut.position, chain, blocks, contents, blocks[:0])
        )


def mirrored(folder: Path, scenario: Callable[[Mirrored], Awaitable[None]], disk: Disk | None = None) -> None:
    async def run() -> None:
        host = real_host() if disk is None else replace(real_host(), disk=disk)
        driver = Mirrored(host, folder / "v", SIZE)
        await driver.open()
        try:
            async with asyncio.timeout(60):
                await driver.change([(OP_WRITE, 0, content(1, 64))])
                await driver.begin()
                await driver.send_base()
                await driver.change([(OP_WRITE, 200 * BLOCK, content(2, 150))])
                await driver.volume.cut()
                await driver.ship()
                await driver.settle()
                await scenario(driver)
        finally:
            if driver.secondary is not None:
                await driver.secondary.close()
            await driver.volume.close()
            await driver.host.work.close()

    asyncio.run(run())


async def at(driver: Mirrored, write: int) -> dict[int, bytes]:
    """The blocks in question, as the mirror has them at a moment."""
    from revolume.history.resolved_moment import ResolvedMoment
    from revolume.history.views import open_view

    assert driver.secondary is not None
    view = await open_view(driver.secondary, ResolvedMoment(write, 0), "test")
    try:
        found = {}
        for block in RIGHT:
            buffer = bytearray(BLOCK)
            await view.reader.read(block * BLOCK, memoryview(buffer))
            found[block] = bytes(buffer)
        return found
    finally:
        view.close()


async def fixed(driver: Mirrored) -> int:
    """The write of the point at which the batch was stored."""
    named = Named(driver)
    point = await driver.volume.cut_anew(named)
    await driver.ship()
    await driver.settle()
    assert named.stored is not None and await named.stored == len(RIGHT)
    return int(point.write)


def test_b10_fixups_are_part_of_their_point_and_of_none_before(folder: Path) -> None:
    async def scenario(driver: Mirrored) -> None:
        assert driver.secondary is not None
        before = driver.secondary.agreed.write
        was = await at(driver, before)
        root = driver.secondary.agreed.root
        write = await fixed(driver)
        assert await at(driver, write) == RIGHT
        assert await at(driver, before) == was != RIGHT
        assert driver.secondary.agreed.root == root  # it counted already what is right
        await driver.change([(OP_WRITE, 210 * BLOCK, content(3, 8))])
        await driver.volume.cut()
        await driver.ship()
        await driver.settle()
        assert await at(driver, driver.secondary.agreed.write) == RIGHT

    mirrored(folder, scenario)


def test_b10_fixups_survive_a_kill_and_a_fold(folder: Path) -> None:
    async def scenario(driver: Mirrored) -> None:
        write = await fixed(driver)
        await driver.crash_mirror()
        assert await at(driver, write) == RIGHT
        secondary = driver.secondary
        assert secondary is not None
        await driver.change([(OP_WRITE, 100 * BLOCK, content(4, 8))])
        await driver.volume.cut()
        await driver.ship()
        await driver.settle()
        while await secondary.folder.step(True):
            pass
        assert secondary.folder.horizon.write >= write
        assert await at(driver, secondary.agreed.write) == RIGHT
        await driver.reopen_mirror()
        assert driver.secondary is not None
        assert await at(driver, driver.secondary.agreed.write) == RIGHT

    mirrored(folder, scenario)


def test_a_batch_is_part_of_no_other_cut(folder: Path) -> None:
    """The point of that number was cut elsewhere: the batch is dropped, and whoever waits is told."""

    async def scenario(driver: Mirrored) -> None:
        assert driver.secondary is not None
        was = await at(driver, driver.secondary.agreed.write)
        named = Named(driver, chain=b"x" * 16)
        await driver.volume.cut_anew(named)
        await driver.ship()
        await driver.settle()
        assert named.stored is not None
        with pytest.raises(ConnectionError):
            await named.stored
        assert await at(driver, driver.secondary.agreed.write) == was

    mirrored(folder, scenario)


def test_a_kill_between_storing_and_agreeing_leaves_map_and_views_the_same(folder: Path) -> None:
    """The blocks are in the log, and the point is sealed again by the next process, which was told of no batch."""

    async def scenario(driver: Mirrored) -> None:
        secondary = driver.secondary
        assert secondary is not None
        named = Named(driver)

        async def killed(*_: object) -> None:
            raise OSError("killed here")

        secondary.records._record_agreed = killed  # type: ignore[method-assign]
        point = await driver.volume.cut_anew(named)
        await driver.ship()
        with pytest.raises(Exception, match="killed here"):
            await driver.settle()
        await driver.crash_mirror()
        await driver.settle()
        assert driver.secondary is not None and driver.secondary.agreed.number == point.number
        assert await at(driver, point.write) == RIGHT
        live = driver.secondary.reader
        for block, right in RIGHT.items():
            buffer = bytearray(BLOCK)
            await live.read(block * BLOCK, memoryview(buffer))
            assert bytes(buffer) == right, block

    mirrored(folder, scenario)


def test_what_the_mirrors_disk_has_no_room_for_is_left_out(folder: Path) -> None:
    """The point is right without it, and the copy goes on: what is missing comes with a later batch."""
    right = {block: content(1000 + block) for block in range(400, 1000)}
    faults = Faults()

    async def stored(driver: Mirrored, blocks: list[int]) -> int:
        named = Named(driver, right={block: right[block] for block in blocks})
        await driver.volume.cut_anew(named)
        await driver.ship()
        await driver.settle()
        assert named.stored is not None
        return await named.stored

    async def scenario(driver: Mirrored) -> None:
        secondary, due = driver.secondary, sorted(right)
        assert secondary is not None
        faults.always({"allocate"}, "", errno.ENOSPC)
        count = await stored(driver, due)
        assert count < len(due) and secondary.failure is None
        assert any("are not put right" in event.message for event in secondary.events.all())
        faults.never()
        assert await stored(driver, due[count:]) == len(due) - count
        for block, what in right.items():
            buffer = bytearray(BLOCK)
            await secondary.reader.read(block * BLOCK, memoryview(buffer))
            assert bytes(buffer) == what, block

    mirrored(folder, scenario, disk=FaultyDisk(faults))


def test_that_blocks_are_right_again_need_not_be_noted(folder: Path) -> None:
    """The mirror's disk takes no file of marks: the point is agreed all the same, and the blocks stay suspect."""
    faults = Faults()

    async def scenario(driver: Mirrored) -> None:
        secondary = driver.secondary
        assert secondary is not None
        rows = np.array([(block, 1, 1, OPEN) for block in RIGHT], ROW)
        await secondary.add_marks(Marks(bytes(16), 1, 0, "it was compared", rows))
        faults.always({"pwritev"}, ".marks", errno.ENOSPC)
        write = await fixed(driver)
        faults.never()
        assert secondary.failure is None and await at(driver, write) == RIGHT
        assert any("called suspect still" in event.message for event in secondary.events.all())
        await secondary.proved_equal(secondary.agreed.number)
        assert all((each.rows["until"] < OPEN).all() for each in secondary.suspect.periods.marks)

    mirrored(folder, scenario, disk=FaultyDisk(faults))
