"""A budget of four segments, the least that is taken: writes go on through it, whatever has been written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.log.write.operations import OP_WRITE
from revolume.volume.metadata.layout import default_segment_bytes

from .driver import BLOCK, SMALL, Driver
from .store import inline_host, payload

MiB = 1 << 20


@pytest.mark.parametrize("blocks", [1, 64, 200])
def test_writes_go_on_through_four_segments(tmp_path: Path, blocks: int) -> None:
    async def run() -> None:
        options = replace(SMALL, budget_bytes=4 * MiB, segment_bytes=MiB, spare_bytes=MiB, keep_s=1.0)
        driver = Driver(inline_host(), tmp_path / "v", 512 * BLOCK, options)
        await driver.open()
        for at in range(0, 3000, blocks):
            await driver.change([(OP_WRITE, at * 7 % (512 - blocks) * BLOCK, payload(at, blocks * BLOCK))])
        assert not driver.volume.admission.refused
        await driver.check_live()
        await driver.volume.close()

    asyncio.run(run())


def test_a_small_budget_has_small_segments() -> None:
    sizes = [(1 << 40, None), (1 << 40, 64 * MiB), (256 * MiB, None), (16 * MiB, 1 << 40), (1 << 40, MiB)]
    assert [default_segment_bytes(*each) // MiB for each in sizes] == [64, 4, 16, 1, 1]
