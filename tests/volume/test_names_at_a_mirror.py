"""A mirror learns a name behind the moment that it names: what lies between must not be folded over meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.blocks.numbers import Position
from revolume.log.write.operations import OP_WRITE
from revolume.volume.metadata.manifest_edits import EditKind

from .driver import BLOCK, abandon
from .mirrored import Mirrored
from .store import inline_host, payload

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-names-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


async def fill(driver: Mirrored, seed: int) -> int:
    """Several segments of the mirror's, and a point: its write."""
    for at in range(60):
        await driver.change([(OP_WRITE, at * BLOCK, payload(seed * 100 + at, BLOCK))])
    return (await driver.volume.cut()).write


def test_no_fold_crosses_a_moment_whose_name_is_being_recorded(place: Path) -> None:
    """Two snapshots are taken at once: both points come before either name. Just then the mirror has to fold."""

    async def run() -> None:
        driver = Mirrored(inline_host(), place / "v", 64 * BLOCK)
        await driver.open()
        await fill(driver, 1)
        there = await driver.begin()
        await driver.send_base()
        append = driver.volume.names._append_fact

        async def behind_another_point(body: bytes) -> Position:
            await fill(driver, 3)
            return await append(body)

        driver.volume.names._append_fact = behind_another_point  # type: ignore[method-assign]
        await fill(driver, 2)
        await driver.volume.snapshot("named")
        (named,) = driver.volume.snapshots()
        record = there.manifest.record

        async def while_it_folds(*edits: tuple[EditKind, bytes]) -> None:
            if edits[0][0] == EditKind.SNAPSHOT:
                assert there.agreed.write > named.write
                await there.folder.step(True)
            await record(*edits)

        there.manifest.record = while_it_folds  # type: ignore[method-assign]
        await driver.ship()
        await driver.settle()
        assert [snapshot.name for snapshot in there.snapshots()] == ["named"]
        assert there.folder.retired_write <= named.write
        while await there.folder.step(True):
            pass
        assert there.folder.horizon.write > named.write and there.isolated(named.write)
        await driver.check_mirror_moment(named.write)
        await there.close()
        await abandon(driver.volume)

    asyncio.run(run())
