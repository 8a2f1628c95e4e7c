"""Use numbers ascend along the log, whatever stands ready when a volume is opened and however full its end is."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.log.ops import OP_WRITE

from .driver import BLOCK, SEGMENT, SMALL, Driver
from .store import inline_host


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-order-", dir="/dev/shm"))
    yield made / "v"
    shutil.rmtree(made)


@pytest.mark.parametrize("ready", [1, 2, 3])
def test_what_an_opening_adds_comes_behind_what_stands_ready(place: Path, ready: int) -> None:
    async def play() -> None:
        driver = Driver(inline_host(), place, 4 << 20, replace(SMALL, spare_bytes=ready * SEGMENT))
        await driver.open()
        for blocks in range(1, 10):
            await driver.change([(OP_WRITE, 0, bytes([blocks]) * (blocks * BLOCK))])
            await driver.reopen()
            pool, appender = driver.volume.core.pool, driver.volume.core.appender
            assert appender.segment is not None
            uses = [appender.segment.use, *(segment.use for segment in pool.ready)]
            assert uses == sorted(uses), f"{blocks} blocks"
        await driver.check_moments(20)
        await driver.volume.close()

    asyncio.run(play())
