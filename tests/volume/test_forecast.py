"""What a mirror keeps is counted in segments that are there, also behind unclean stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from revolume.blocks.numbers import WriteNumber
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind
from revolume.volume.state.status import Forecast

from .driver import BLOCK, SEGMENT, SMALL, Driver, abandon
from .store import payload

OPTIONS = replace(SMALL, budget_bytes=64 * SEGMENT, spare_bytes=8 * SEGMENT)


def held(volume: Volume) -> int:
    volume.outlook.look()
    assert volume.outlook.now is not None and volume.outlook.now.holder == "mirror keep"
    return volume.outlook.now.held_bytes


def test_segments_that_stood_ready_at_an_unclean_stop_are_not_kept(tmp_path: Path) -> None:
    """Each unclean stop leaves their use numbers behind; with those counted, a few stops would be a full log."""
    driver = Driver(real_host(), tmp_path / "v", 1 << 20, OPTIONS)

    async def play() -> None:
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        for seed in range(6):
            await driver.crash()
            driver.volume.holders.lease(HolderKind.REQUIRED_MIRROR, "keep", WriteNumber(1))
            driver.volume.start()
            await driver.volume.log.pool.wait_ready(5.0)
            await driver.change([(OP_WRITE, BLOCK, payload(seed, BLOCK))])
        pool, status = driver.volume.log.pool, driver.volume.status()
        end = driver.volume.log.appender.address
        assert pool.gap_between(0, end) > 8 * pool.segment_blocks, "the stops left gaps"
        assert held(driver.volume) <= status.log_bytes < 16 * SEGMENT
        await abandon(driver.volume)

    asyncio.run(play())


def test_what_lies_far_ahead_is_not_told() -> None:
    day = 86400.0
    foreseen = [
        Forecast("m", held, 100, s).matters for held, s in ((1, None), (60, None), (1, 40 * day), (1, day))
    ]
    assert foreseen == [False, True, False, True]
