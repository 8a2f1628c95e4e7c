"""What comes while a volume is being closed, and what its clockwork can't do, is said; the stop stays clean."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.errors import Damaged, Refused, RevolumeError
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check
from revolume.volume.metadata.manifest import NAMES, Manifest, parse
from revolume.volume.metadata.manifest_state import Epoch, Horizon
from revolume.volume.open.create import Birth
from revolume.volume.open.open import open_secondary
from revolume.volume.open.options import OpenOptions

from .driver import BLOCK, Driver
from .store import inline_host, payload

SIZE = 4 << 20


@pytest.fixture
def driver() -> Iterator[Driver]:
    place = Path(tempfile.mkdtemp(prefix="revolume-closing-", dir="/dev/shm"))
    yield Driver(inline_host(), place / "v", SIZE)
    shutil.rmtree(place)


def test_snapshots_points_and_sizes_asked_for_while_closing(driver: Driver) -> None:
    """Each is made before the end of the log is written down, or refused; the end is where it says."""

    async def play() -> None:
        await driver.open()
        for turn in range(0, 12, 2):
            await driver.change([(OP_WRITE, turn * BLOCK, payload(turn, BLOCK)), (OP_WRITE, 99, payload(turn, 7))])
            volume = driver.volume
            closing = asyncio.ensure_future(volume.close())
            asked: list[asyncio.Task[object]] = []
            for step in range(6):
                for _ in range(turn):
                    await asyncio.sleep(0)
                if closing.done():
                    break
                asked.append(asyncio.ensure_future(volume.cut()))
                asked.append(asyncio.ensure_future(volume.snapshot(f"s{turn}-{step}")))
            await closing
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                assert not isinstance(answer, Exception) or isinstance(answer, RevolumeError | OSError)
            report = check(driver.host, str(driver.path))
            assert report.good, report.problems
            await driver.open()
            await driver.check_live()
        await driver.volume.close()
        with pytest.raises(Refused):
            await driver.volume.cut()

    asyncio.run(play())


def test_points_that_fail_are_told_in_the_status(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        await driver.open()
        volume = driver.volume
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])

        def broken(*_: object) -> None:
            raise Damaged("map-damaged", "A page is not what was written.", "Look at it.")

        with monkeypatch.context() as patched:
            patched.setattr("revolume.volume.points.point_maker.compose", broken)
            async with asyncio.timeout(60):
                while volume.status().state != "degraded":
                    volume.point_maker.request()
                    await asyncio.sleep(0.01)
            assert "A page is not" in volume.status().reason
        async with asyncio.timeout(60):
            while volume.status().state != "online":
                volume.point_maker.request()
                await asyncio.sleep(0.01)
        await volume.close()

    asyncio.run(play())


def test_a_mirror_that_is_stopped_while_segments_are_made_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their uses were recorded beside the renewing of the manifest, which was slow: one file had them, the other
    did not, or half of them."""
    renew = Manifest.renew

    def slow(self: Manifest, name: str | None = None) -> None:
        time.sleep(0.02)
        renew(self, name)
        time.sleep(0.02)

    async def begin() -> None:
        host = real_host()
        horizon = Horizon(point=3, write=9, position=7, size=64 * BLOCK, time_ns=1)
        born = Birth(b"v" * 16, "vm", b"m" * 16, horizon, (Epoch(1, b"r" * 16, 0, 0),))
        options = OpenOptions(segment_bytes=1 << 20, budget_bytes=64 << 20, spare_bytes=16 << 20)
        there = await open_secondary(host, str(tmp_path / "m"), options, born)
        monkeypatch.setattr(Manifest, "renew", slow)
        await there.close()
        await host.work.close()

    asyncio.run(begin())
    found = [parse(name, (tmp_path / "m" / name).read_bytes()) for name in NAMES]
    older, newer = sorted((each for each in found if each is not None), key=lambda each: each.generation)
    assert not older.torn and not newer.torn and older.number + 1 == newer.first
