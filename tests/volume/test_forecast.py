"""What a snapshot keeps is counted in segments that are there, also behind unclean stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from revolume.host import real_host
from revolume.log.ops import OP_WRITE
from revolume.volume.volume import Volume

from .driver import BLOCK, SEGMENT, SMALL, Driver, abandon
from .store import payload

OPTIONS = replace(SMALL, budget_bytes=64 * SEGMENT, spare_bytes=8 * SEGMENT)


def held(volume: Volume) -> int:
    volume.outlook.look()
    assert volume.outlook.now is not None and volume.outlook.now.holder == "snapshot keep"
    return volume.outlook.now.held_bytes


def test_segments_that_stood_ready_at_an_unclean_stop_are_not_kept(tmp_path: Path) -> None:
    """Each unclean stop leaves their use numbers behind; with those counted, a few stops would be a full log."""
    driver = Driver(real_host(), tmp_path / "v", 1 << 20, OPTIONS)

    async def play() -> None:
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        await driver.volume.snapshot("keep")
        for seed in range(6):
            await driver.crash()
            driver.volume.start()
            await driver.volume.core.pool.wait_ready(5.0)
            await driver.change([(OP_WRITE, BLOCK, payload(seed, BLOCK))])
        pool, status = driver.volume.core.pool, driver.volume.status()
        end = driver.volume.core.appender.address
        assert pool.gap_between(0, end) > 8 * pool.segment_blocks, "the stops left gaps"
        assert held(driver.volume) <= status.log_bytes < 16 * SEGMENT
        await abandon(driver.volume)

    asyncio.run(play())
