"""The end of the log after a crash: what was not yet durable may be there, in part or not at all; it is cut, and
everything durable stands. The same spoilt below the durable position is damage, and is told.

A small log is written up to a flush and on, over the ends of segments, and is then let go as by kill -9. Every
512 bytes of what lies behind the flush are lost in turn: alone, or with all that follows.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Damaged
from revolume.history.offline_volume import open_offline
from revolume.host import Host
from revolume.log.format.segment import segment_name
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.primary import Volume

from .driver import BLOCK, SEGMENT, Driver, Model, abandon
from .store import FAR, SIZE, TINY, Store, Verdict, inline_host, judged, opened, payload, read_live, read_moment

MEMORY = Path("/dev/shm")
SECTOR = 512
EVERY = 1 if os.environ.get("REVOLUME_SOAK") else 3
QUIET = replace(TINY, sync_interval_s=3600)


class Crashed:
    """A volume let go in the middle of its work. ``durable``: the last write that a flush covered."""

    def __init__(self, place: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.host: Host = inline_host()
        self.place = place
        self.path = place / "crashed"
        self.driver = Driver(self.host, self.path, SIZE, QUIET)
        self.loop.run_until_complete(self._make())

    async def _make(self) -> None:
        driver = self.driver
        await driver.open()
        volume = driver.volume
        await driver.change([(OP_WRITE, at * BLOCK, payload(at, BLOCK)) for at in range(5)])
        await driver.change([(OP_WRITE, 3 * BLOCK + 100, payload(6, 600)), (OP_TRIM, 20 * BLOCK, FAR * BLOCK)])
        await volume.point_maker.cut()
        await driver.change([(OP_WRITE, 8 * BLOCK, payload(7, 8192)), (OP_WRITE, 4 * BLOCK + 9, payload(8, 50))])
        await volume.durable(volume.position)
        self.begin = volume.log.appender.address
        self.durable = volume.write
        await volume.point_maker.cut()  # its record is not on the disk, what it covers is
        await driver.change([(OP_WRITE, 9 * BLOCK, payload(9, BLOCK))])
        await driver.change([(OP_WRITE, 4 * BLOCK + 20, payload(10, 5000)), (OP_ZERO, 100, 700)])
        await driver.change([(OP_WRITE, 30 * BLOCK, payload(11, 18 * BLOCK))])  # continued in the next segment
        await driver.change([(OP_ZERO, 25 * BLOCK, FAR * BLOCK)])
        await driver.change([(OP_WRITE, 31 * BLOCK + 1, payload(12, 2 * BLOCK))])
        assert volume.log.commit.durable < volume.position
        self.end = volume.log.appender.address
        self.segments = {s.use: segment_name(s.index) for s in volume.log.pool.segments()}
        self.blocks = volume.log.pool.segment_blocks
        await abandon(volume)

    def sectors(self, begin: int, end: int) -> list[tuple[Path, int]]:
        """File and offset of every sector between two addresses, in order."""
        found = []
        for address in range(begin, end):
            use, block = divmod(address, self.blocks)
            name = Path("log") / self.segments[use]
            found += [(name, block * BLOCK + at) for at in range(0, BLOCK, SECTOR)]
        return found

    def copied(self) -> Path:
        path = self.place / "case"
        shutil.copytree(self.path, path)
        return path

    async def stands(self, path: Path) -> list[str]:
        """Open what the crash left; what is wrong with it."""
        verdict = Verdict()
        with verdict.watching("open"):
            volume = await opened(self.host, path, QUIET)
            model = await self._model_of(volume)
            if model is None:
                verdict.wrong.append("the live volume is no state that it ever had since the flush")
            else:
                for number in (self.durable - 2, self.durable):
                    await read_moment(volume, model, number, verdict)
            await volume.close()
            verdict.wrong += [f"check: {p.where} {p.what}" for p in check(self.host, str(path)).problems]
            volume = await opened(self.host, path, QUIET)
            if model is not None:
                await read_live(volume, model, verdict)
            await abandon(volume)
        return verdict.wrong + verdict.told

    async def _model_of(self, volume: Volume) -> Model | None:
        """The model as of the write with which the volume came back; nothing older than the flush."""
        have = bytearray(volume.size)
        await volume.read(0, memoryview(have))
        moments = self.driver.model.moments
        for number in sorted(moments, reverse=True):
            size, blocks = moments[number]
            if number >= self.durable and have == Model.content(size, blocks):
                return Model(size, blocks, moments)
        return None


@pytest.fixture(scope="module")
def crashed() -> Iterator[Crashed]:
    place = Path(tempfile.mkdtemp(prefix="revolume-torn-", dir=MEMORY if MEMORY.is_dir() else None))
    made = Crashed(place)
    yield made
    made.loop.close()
    shutil.rmtree(place)


def write_at(path: Path, at: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def lose_alone(crashed: Crashed, path: Path, sectors: list[tuple[Path, int]], index: int) -> None:
    name, at = sectors[index]
    write_at(path / name, at, random.Random(index).randbytes(SECTOR))


def lose_the_rest(crashed: Crashed, path: Path, sectors: list[tuple[Path, int]], index: int) -> None:
    """Zeroes from here to the end of this segment and over all later ones: written, and never synced."""
    name, at = sectors[index]
    write_at(path / name, at, bytes(SEGMENT - at))
    for later in {name for name, _ in sectors[index:]} - {name}:
        write_at(path / later, 0, bytes(SEGMENT))


def lose_all_but(crashed: Crashed, path: Path, sectors: list[tuple[Path, int]], index: int) -> None:
    """Only what lies behind arrived: the disk chooses its order."""
    for name, at in sectors[: index + 1]:
        write_at(path / name, at, bytes(SECTOR))


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("lose", [lose_alone, lose_the_rest, lose_all_but])
def test_every_sector_behind_the_flush_may_be_lost(crashed: Crashed, lose: object) -> None:
    sectors = crashed.sectors(crashed.begin, crashed.end)
    assert len(sectors) > 300 and len({name for name, _ in sectors}) >= 2
    problems = []
    for index in range(0, len(sectors), EVERY):
        path = crashed.copied()
        lose(crashed, path, sectors, index)  # type: ignore[operator]
        name, at = sectors[index]
        problems += [f"{name} at {at}: {p}" for p in crashed.loop.run_until_complete(crashed.stands(path))]
        shutil.rmtree(path)
    assert not problems, "\n".join(problems[:20])


def test_nothing_lost_everything_there(crashed: Crashed) -> None:
    """A crash of the process alone: the page cache still has all that was answered."""
    path = crashed.copied()
    assert check(crashed.host, str(path)).good
    store = Store(path, crashed.driver.model, (crashed.durable,))
    assert crashed.loop.run_until_complete(judged(crashed.host, path, store)) == Verdict()
    shutil.rmtree(path)


@pytest.mark.slow
def test_a_sector_spoilt_below_the_flush_is_damage(crashed: Crashed) -> None:
    """Told, or without effect where it was padding: never taken for a torn tail."""
    problems = []
    codes = set()
    for name, at in crashed.sectors(crashed.blocks, crashed.begin):
        path = crashed.copied()
        write_at(path / name, at, random.Random(at).randbytes(SECTOR))
        store = Store(path, crashed.driver.model, (crashed.durable - 1, crashed.durable))
        verdict = crashed.loop.run_until_complete(judged(crashed.host, path, store))
        problems += [f"{name} at {at}: {wrong}" for wrong in verdict.wrong]
        codes |= {told.rsplit(": ")[-1] for told in verdict.told}
        shutil.rmtree(path)
    assert not problems, "\n".join(problems[:20])
    assert {"log-damaged", "read-mismatch"} <= codes


def test_a_manifest_that_lost_its_end_is_not_an_older_state(crashed: Crashed) -> None:
    """Half an edit behind the last one is a torn write; an edit that the log has seen and the manifest lost is
    damage."""
    newest = max(("manifest.a", "manifest.b"), key=lambda name: _generation(crashed.path / name))
    path = crashed.copied()
    with open(path / newest, "ab") as file:
        file.write(bytes(range(30)))
    assert not crashed.loop.run_until_complete(crashed.stands(path))
    shutil.rmtree(path)
    path = crashed.copied()
    os.truncate(path / newest, (path / newest).stat().st_size - 1)
    with pytest.raises(Damaged) as refused:
        crashed.loop.run_until_complete(opened(crashed.host, path))
    assert refused.value.code == "manifest-damaged"
    shutil.rmtree(path)


def test_a_manifest_damaged_in_its_middle_is_not_an_older_state(tmp_path: Path) -> None:
    """What comes behind a flipped bit of it is gone: also the segments' new uses, so the older state knows of none
    of them. The files themselves do."""

    async def scenario() -> None:
        host = inline_host()
        driver = Driver(host, tmp_path / "vol", 64 * BLOCK, QUIET)
        await driver.open()
        names = ("manifest.a", "manifest.b")
        newest = max((tmp_path / "vol" / name for name in names), key=_generation)
        begun = newest.stat().st_size
        for number in range(400):  # segments are used up, and folded away
            await driver.change([(OP_WRITE, number % 60 * BLOCK, bytes([number % 251]) * 4 * BLOCK)])
            if number % 40 == 39:
                await driver.volume.cut()
                await driver.volume.folder.step(True)
        await abandon(driver.volume)
        assert newest.stat().st_size > begun + 64, "nothing was recorded meanwhile"
        path = Path(shutil.copytree(tmp_path / "vol", tmp_path / "spoilt"))
        data = bytearray(newest.read_bytes())
        data[begun + 30] ^= 1
        (path / newest.name).write_bytes(data)
        with pytest.raises(Damaged) as refused:
            await opened(host, path)
        assert refused.value.code == "manifest-damaged"
        report = check(host, str(path))
        assert any("manifest" in problem.what for problem in report.problems), report
        with pytest.raises(Damaged):
            open_offline(host, str(path))

    asyncio.run(scenario())


def test_a_stop_cut_short_behind_a_torn_manifest(crashed: Crashed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest manifest says that all is closed, the older one still has its torn end: no damage. The same
    end of an older manifest is damage where what it lacks is what the newest goes on from."""
    names = ("manifest.a", "manifest.b")
    path = crashed.copied()
    torn = max((path / name for name in names), key=_generation)
    with open(torn, "ab") as file:
        file.write(bytes(range(30)))

    async def stopped() -> None:
        await (await opened(crashed.host, path)).close()

    with monkeypatch.context() as short:
        short.setattr(Manifest, "close_clean", Manifest.close)
        crashed.loop.run_until_complete(stopped())
    assert torn.read_bytes().endswith(bytes(range(30)))
    assert check(crashed.host, str(path)).problems == ()
    crashed.loop.run_until_complete(stopped())
    older = min((path / name for name in names), key=_generation)
    os.truncate(older, older.stat().st_size - 1)
    assert [problem.where for problem in check(crashed.host, str(path)).problems] == [older.name]
    shutil.rmtree(path)


def _generation(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[32:40], "little") if path.exists() else -1
