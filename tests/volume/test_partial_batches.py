"""Many writes of less than a block in one batch: what a batch costs, and what it leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path

from revolume.log.write.operations import OP_WRITE, OP_ZERO

from .driver import BLOCK, Driver
from .store import TINY, inline_host, payload

SIZE = 1 << 20
SECTOR = 512


def test_fragments_of_a_batch_are_asked_of_the_map_together(tmp_path: Path) -> None:
    async def go() -> None:
        driver = Driver(inline_host(), tmp_path / "v", SIZE, TINY)
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 64 * BLOCK))])
        partials = driver.volume.partials
        asked: list[list[int]] = []
        resolve = partials._resolve
        partials._resolve = lambda blocks: asked.append(blocks) or resolve(blocks)  # type: ignore[func-returns-value]
        sectors = [(OP_WRITE, block * BLOCK + 3 * SECTOR, payload(block, SECTOR)) for block in (*range(40), 7, 8)]
        await driver.change([*sectors])
        assert asked == [list(range(40))]
        assert all(partial.data is not None for partial in partials.blocks.values()), "bases are in the page cache"
        await driver.check_live()
        await driver.volume.close()

    asyncio.run(go())


def test_fragments_and_whole_overwrites_of_one_batch_stay_in_order(tmp_path: Path) -> None:
    async def go() -> None:
        driver = Driver(inline_host(), tmp_path / "v", SIZE, TINY)
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 16 * BLOCK))])
        await driver.change(
            [
                (OP_WRITE, SECTOR, payload(2, SECTOR)),
                (OP_WRITE, 5 * BLOCK + SECTOR, payload(3, SECTOR)),
                (OP_WRITE, 0, payload(4, BLOCK)),  # ends the first of the fragments, not the second
                (OP_WRITE, 2 * SECTOR, payload(5, SECTOR)),
                (OP_WRITE, 7 * BLOCK - SECTOR, payload(6, 2 * BLOCK)),  # in part, whole, in part
                (OP_ZERO, 8 * BLOCK, BLOCK),
                (OP_WRITE, 8 * BLOCK + SECTOR, payload(7, SECTOR)),
                (OP_ZERO, 5 * BLOCK, BLOCK),
            ]
        )
        assert sorted(driver.volume.partials.blocks) == [0, 6, 8]
        await driver.check_live()
        await driver.volume.cut()
        assert not driver.volume.partials.blocks
        await driver.check_live()
        await driver.check_moments()
        await driver.crash()
        await driver.check_live()
        await driver.volume.close()

    asyncio.run(go())


def test_a_fragment_behind_a_cut_is_not_in_its_point(tmp_path: Path) -> None:
    """The cut takes the blocks as they are; a copy of each is made when the next fragment comes."""

    async def go() -> None:
        driver = Driver(inline_host(), tmp_path / "v", SIZE, TINY)
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 8 * BLOCK)), (OP_WRITE, SECTOR, payload(2, SECTOR))])
        partials = driver.volume.partials
        taken = partials.copies()
        assert taken[0].data is partials.blocks[0].data
        before = bytes(taken[0].data or b"")
        await driver.change([(OP_WRITE, 3 * SECTOR, payload(3, SECTOR))])
        assert bytes(taken[0].data or b"") == before
        await driver.check_live()
        await driver.volume.close()

    asyncio.run(go())
