"""Snapshots that end by time, that are held, and what each alone keeps; on a volume whose clock a test moves."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import NotFound, Refused
from revolume.history.snapshot_room import snapshot_room
from revolume.log.write.operations import OP_WRITE
from revolume.volume.space.keep_order import Going

from .clocks import SetClock
from .driver import BLOCK, SMALL, Driver


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path / "v"
    shutil.rmtree(path)


def names(driver: Driver) -> list[str]:
    return [each.name for each in driver.volume.snapshots()]


async def write(driver: Driver, first: int, count: int, value: int) -> None:
    await driver.change([(OP_WRITE, first * BLOCK, bytes([value]) * (count * BLOCK))])


def test_a_snapshot_ends_by_lived_time_and_not_while_it_is_held(place: Path) -> None:
    """Neither a stop, nor a kill, nor a wall clock ends it."""
    clock = SetClock()

    async def scenario() -> None:
        driver = Driver(clock.host(), place, 4 << 20)
        await driver.open()
        await write(driver, 0, 4, 1)
        await driver.volume.snapshot("week", 100.0)
        await driver.volume.snapshot("kept", 100.0)
        await driver.volume.snapshot("for good")
        await driver.volume.names.hold("kept", True)
        clock.set_by(10**6)
        await driver.crash()
        clock.pass_by(60)
        await driver.reopen()
        await driver.volume.names.drop_expired()
        assert names(driver) == ["week", "kept", "for good"]
        left = {each.name: each.expires_in_s for each in driver.volume.snapshots()}
        assert left["week"] == pytest.approx(40, abs=2) and left["for good"] is None
        clock.pass_by(41)
        await driver.volume.names.drop_expired()
        assert names(driver) == ["kept", "for good"]
        assert any("snapshot week is dropped" in text for text in driver.volume.events.texts())
        with pytest.raises(Refused, match="is held"):
            await driver.volume.drop_snapshot("kept")
        await driver.crash()
        await driver.volume.names.hold("kept", False)
        await driver.volume.names.drop_expired()
        assert names(driver) == ["for good"]
        with pytest.raises(NotFound):
            await driver.volume.names.hold("kept", True)
        await driver.volume.snapshot("kept")
        assert driver.volume.snapshots()[-1].expires_in_s is None, "another of the name has terms of its own"
        await driver.volume.close()

    asyncio.run(scenario())


def test_what_a_snapshot_alone_keeps_is_what_its_end_gives_back(place: Path) -> None:
    async def scenario() -> None:
        driver = Driver(SetClock().host(), place, 4 << 20, replace(SMALL, keep_s=0.0))
        await driver.open()

        async def changed(name: str, first: int, count: int, value: int) -> None:
            if name:
                await driver.volume.snapshot(name)
            await write(driver, first, count, value)
            await driver.volume.cut()
            while await driver.fold():
                pass

        await changed("", 0, 64, 1)
        await changed("a", 0, 40, 2)  # of a: blocks 0 to 40
        await changed("b", 20, 40, 3)  # of b: 20 to 60, of which a has its own up to 40
        await changed("c", 0, 64, 4)
        volume = driver.volume
        rescued = volume.manifest.state.rescued_bytes()
        room = await snapshot_room(volume)
        assert room["a"] == 40 * BLOCK
        assert room["b"] == 20 * BLOCK and room["c"] == 40 * BLOCK
        before = sum(rescued.values())
        assert before == (40 + 40 + 64) * BLOCK
        await volume.drop_snapshot("a")
        while volume.folder._rescuer.due:
            await driver.fold()
        assert before - sum(volume.manifest.state.rescued_bytes().values()) == room["a"]
        room = await snapshot_room(volume)
        assert room["b"] == 40 * BLOCK, "nobody is older any more"
        await volume.snapshot("d")
        await volume.snapshot("e")
        assert (await snapshot_room(volume))["d"] == 0, "another name keeps the same moment"
        assert volume.retention.going(volume.policy.policy) == Going(0, 0, 0, 0, 0)
        await volume.close()

    asyncio.run(scenario())
