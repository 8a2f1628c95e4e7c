"""The prewriter: segments stand ready before they are wanted, and nobody who waits for one waits for its naps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from revolume.host.real_disk import RealDisk
from revolume.log import pool as module
from revolume.log.pool import PoolLimits, SegmentPool

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
        await asyncio.wait_for(until(pool, 4), 30)
        pool.take()
        await asyncio.sleep(0.01)
        await asyncio.wait_for(pool.stop(), 30)
        pool.close()

    asyncio.run(scenario())
