"""The prewriter: segments stand ready before they are wanted, and nobody who waits for one waits for its naps."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from revolume.blocks.geometry import BLOCK
from revolume.errors import RevolumeError
from revolume.host.real.disk import RealDisk
from revolume.log.format.segment import segment_name
from revolume.log.write import segment_pool as module
from revolume.log.write.pool_limits import PoolLimits
from revolume.log.write.prewriting import is_written
from revolume.log.write.segment_pool import SegmentPool
from revolume.volume.space import admission
from revolume.volume.space.admission import Admission

from .faulty import Faults, FaultyDisk
from .store import Inline

SEGMENT_BLOCKS = 16


async def nothing_recorded(uses: dict[int, int]) -> None:
    """Which file is in which use need not outlive these tests."""


async def until(pool: SegmentPool, ready: int) -> None:
    while len(pool.ready) < ready:
        await asyncio.sleep(0)


def test_a_burst_is_let_pass_until_somebody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BURST_S", 3600.0)

    async def scenario() -> None:
        limits = PoolLimits(ready=4, budget_bytes=1 << 20, reserve_bytes=0)
        pool = SegmentPool(RealDisk().open(str(tmp_path)), Inline(), SEGMENT_BLOCKS, limits, nothing_recorded)
        pool.start()
        pool.demand(4)
        await until(pool, 4)
        pool.take()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(pool.ready) == 3, "while enough stands ready the writer has the disk to itself"
        pool.demand(4)
        assert await pool.wait_ready(30)
        await asyncio.wait_for(until(pool, 4), 60)
        pool.take()
        await asyncio.sleep(0.01)
        await asyncio.wait_for(pool.stop(), 60)
        pool.close()

    asyncio.run(scenario())


def test_what_is_in_demand_is_only_allocated_and_written_at_leisure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BURST_S", 0.02)

    async def scenario() -> None:
        directory = RealDisk().open(str(tmp_path))
        limits = PoolLimits(ready=8, budget_bytes=1 << 22, reserve_bytes=0)
        pool = SegmentPool(directory, Inline(), SEGMENT_BLOCKS, limits, nothing_recorded)
        pool.demand(8)  # somebody waits already
        pool.start()
        await until(pool, 8)
        assert not any(segment.written for segment in pool.ready)
        assert pool.disk_files.written_bytes == 0
        taken = [pool.take(), pool.take()]
        assert pool.handed_out_unwritten == 2
        for segment in taken:
            assert segment.file.size() == SEGMENT_BLOCKS * BLOCK, "room is promised in either kind"
            segment.file.pwritev([b"x" * BLOCK], 0)
        while sum(segment.written for segment in pool.ready) < 4 or len(pool.ready) < 8:
            await asyncio.sleep(0.01)
        while not pool.ready[0].written:
            await asyncio.sleep(0.01)
        assert sum(segment.written for segment in pool.ready) == 4, "the rest stays allocated: bursts do not care"
        uses = [segment.use for segment in pool.ready]
        assert uses == sorted(uses), "in the order in which they are taken"
        assert min(uses) > max(segment.use for segment in taken)
        assert pool.files == 10
        for segment in taken:  # the prewriter never touches what is in use
            block = bytearray(BLOCK)
            segment.file.preadv([block], 0)
            assert block == b"x" * BLOCK
        await asyncio.wait_for(pool.stop(), 60)
        pool.close()

    asyncio.run(scenario())


def test_at_leisure_segments_are_written_before_they_stand_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = PoolLimits(ready=2, budget_bytes=1 << 20, reserve_bytes=0)
        pool = SegmentPool(RealDisk().open(str(tmp_path)), Inline(), SEGMENT_BLOCKS, limits, nothing_recorded)
        pool.start()
        await until(pool, 2)
        assert all(segment.written for segment in pool.ready)
        await pool.stop()
        assert all(is_written(segment.file, SEGMENT_BLOCKS * BLOCK) for segment in pool.ready)
        pool.close()

    asyncio.run(scenario())


def test_a_failed_upgrade_leaves_what_stands_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BURST_S", 0.01)

    async def scenario() -> None:
        faults = Faults()
        faults.always({"prewrite"}, ".seg", errno.EIO)
        directory = FaultyDisk(faults).open(str(tmp_path))
        limits = PoolLimits(ready=4, budget_bytes=1 << 20, reserve_bytes=0)
        pool = SegmentPool(directory, Inline(), SEGMENT_BLOCKS, limits, nothing_recorded)
        pool.demand(4)
        pool.start()
        await until(pool, 4)
        while not faults.count("prewrite", ".seg"):
            await asyncio.sleep(0.01)
        await until(pool, 4)
        assert not pool.stuck
        assert pool.files == 4
        await pool.stop()
        pool.close()

    asyncio.run(scenario())


def test_a_segment_that_cannot_be_opened_is_not_taken_and_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PATIENCE_S", 0.01)

    async def scenario() -> None:
        faults = Faults()
        limits = PoolLimits(ready=2, budget_bytes=1 << 20, reserve_bytes=0)
        directory = FaultyDisk(faults).open(str(tmp_path))
        pool = SegmentPool(directory, Inline(), SEGMENT_BLOCKS, limits, nothing_recorded)
        waiting = Admission(pool, lambda blocks, spare: bool(pool.ready) and pool.at_hand)
        pool.start()
        await until(pool, 2)
        faults.always({"open"}, ".seg", errno.EMFILE)
        pool.take()
        assert not pool.at_hand
        with pytest.raises(OSError, match="Too many open files"):
            pool.take()
        assert len(pool.ready) == 1, "nothing was taken"
        asyncio.get_running_loop().call_later(0.3, faults.never)
        await asyncio.wait_for(waiting.wait(1), 60)  # descriptors come back, and nobody was refused
        assert pool.take().use == 2
        await pool.stop()
        pool.close()

    asyncio.run(scenario())


def test_no_descriptor_is_waited_for_as_long_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PATIENCE_S", 0.02)
    monkeypatch.setattr(admission, "DESCRIPTOR_ATTEMPTS", 10)

    async def scenario() -> None:
        faults = Faults()
        faults.always({"open"}, ".seg", errno.EMFILE)
        limits = PoolLimits(ready=2, budget_bytes=1 << 20, reserve_bytes=0)
        directory = FaultyDisk(faults).open(str(tmp_path))
        pool = SegmentPool(directory, Inline(), SEGMENT_BLOCKS, limits, nothing_recorded)
        pool.start()
        began = asyncio.get_running_loop().time()
        with pytest.raises(RevolumeError, match="no descriptor left"):
            await Admission(pool, lambda blocks, spare: bool(pool.ready)).wait(1)
        assert asyncio.get_running_loop().time() - began > 0.15, "each attempt fails at once"
        await pool.stop()

    asyncio.run(scenario())


def test_a_file_that_the_manifest_may_call_used_stays(tmp_path: Path) -> None:
    """The edit failed, and may be on the disk all the same: only files that are free for certain are removed."""

    async def scenario() -> None:
        fails = [False]

        async def register(uses: dict[int, int]) -> None:
            if fails[0]:
                raise OSError(errno.EIO, "the manifest was written, and an error told")

        limits = PoolLimits(ready=1, budget_bytes=1 << 20, reserve_bytes=0)
        pool = SegmentPool(RealDisk().open(str(tmp_path)), Inline(), SEGMENT_BLOCKS, limits, register)
        for _ in range(3):
            pool.sealed((await pool.fresh()).use)
        pool.release(pool.give_back(list(pool.by_use)))
        fails[0] = True
        with pytest.raises(OSError, match="the manifest"):
            await pool.fresh()
        pool.limits = PoolLimits(ready=1, budget_bytes=0, reserve_bytes=0)
        await pool.shrink()
        assert len(pool.free) == 1 and [path.name for path in tmp_path.iterdir()] == [segment_name(pool.free[0])]
        fails[0] = False
        pool.release(pool.give_back([(await pool.fresh()).use]))
        await pool.shrink()
        assert not pool.free and not list(tmp_path.iterdir())
        pool.close()

    asyncio.run(scenario())
