"""Use numbers ascend along the log, whatever stands ready when a volume is opened and however full its end is."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.log.write.operations import OP_WRITE
from revolume.log.write.writer import Writer
from revolume.volume.metadata.manifest_edits import EditKind, pack_pairs

from .driver import BLOCK, SMALL, Driver
from .store import inline_host


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-order-", dir="/dev/shm"))
    yield made / "v"
    shutil.rmtree(made)


async def _leave_one_ready(driver: Driver) -> None:
    """The last segment is nearly full, and one more stands ready, as where the disk was full."""
    for number in range(1, 20):
        await driver.change([(OP_WRITE, 0, bytes([number]) * BLOCK)])
        await driver.volume.point_maker.cut()  # the stop adds nothing then
        if 0 < driver.volume.log.appender.blocks_left() < 8:
            break
    pool = driver.volume.log.pool
    await pool.stop()
    freed = pool.give_back([pool.ready.pop().use for _ in range(len(pool.ready) - 1)])
    await driver.volume.manifest.record((EditKind.USES, pack_pairs(freed)))
    assert len(pool.ready) == 1


def test_what_an_opening_adds_comes_behind_what_stands_ready(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holds = Writer.holds

    def wants_another(writer: Writer, blocks: int, spare: int) -> bool:
        """As if an opening took more than a segment: it makes another one behind the one that is ready."""
        return blocks != 4 and holds(writer, blocks, spare)

    async def play() -> None:
        driver = Driver(inline_host(), place, 4 << 20, SMALL)
        await driver.open()
        await _leave_one_ready(driver)
        monkeypatch.setattr(Writer, "holds", wants_another)
        await driver.reopen()
        monkeypatch.undo()
        pool, appender = driver.volume.log.pool, driver.volume.log.appender
        assert appender.segment is not None
        uses = [appender.segment.use, *(segment.use for segment in pool.ready)]
        assert len(uses) > 2
        assert uses == sorted(uses)
        for number in range(40, 44):  # into what stood ready, and behind
            await driver.change([(OP_WRITE, 0, bytes([number]) * (9 * BLOCK))])
        await driver.check_moments(20)
        await driver.volume.close()

    asyncio.run(play())
