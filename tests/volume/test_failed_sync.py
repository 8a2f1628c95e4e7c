"""A disk that fails under a running volume: nothing is promised any more, nothing is tried twice, and what was
promised before is there when the volume is opened again.

After a failed fdatasync the kernel may call lost pages clean; a second one would succeed and prove nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Poisoned, RevolumeError
from revolume.host import Host
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check

from .driver import BLOCK, Driver, Model
from .faulty import Faults, FaultyDisk
from .store import SIZE, TINY, inline_host, opened, payload

MEMORY = Path("/dev/shm")
QUIET = replace(TINY, sync_interval_s=0.2)


class Failing:
    """A volume on a disk that fails when told to. ``promised``: the last write that a flush answered."""

    def __init__(self, path: Path) -> None:
        self.faults = Faults()
        self.host: Host = inline_host(FaultyDisk(self.faults))
        self.driver = Driver(self.host, path, SIZE, QUIET)

    async def begin(self) -> None:
        await self.driver.open()
        self.driver.volume.upkeep.tasks.pop(1).cancel()  # no sync but those that are asked for
        await self.write(1)
        await self.driver.volume.durable(self.driver.volume.position)
        self.promised = self.driver.volume.write
        await self.write(2)
        await asyncio.sleep(0.02)  # segments are made ready

    async def write(self, seed: int) -> None:
        await self.driver.change([(OP_WRITE, seed * 3 * BLOCK, payload(seed, 2 * BLOCK))])
        await self.driver.change([(OP_WRITE, 100 + seed * 5000, payload(seed, 600))])

    async def refuses_everything(self) -> None:
        volume = self.driver.volume
        with pytest.raises(Poisoned):
            await volume.durable(volume.position)
        with pytest.raises(Poisoned):
            await self.write(7)
        for change in (lambda: volume.snapshot("no"), lambda: volume.grow(volume.size + 4096)):
            with pytest.raises(Poisoned):
                await change()
        if not volume.live.interval.empty:
            with pytest.raises(Poisoned):
                await volume.cut()
        assert volume.status().state == "poisoned"
        assert volume.status().reason.endswith("Input/output error.")

    async def comes_back(self) -> None:
        """Opened again on a disk that works: everything promised, and a state that the volume once had."""
        self.faults.never()
        await self.driver.volume.close()
        volume = await opened(self.host, self.driver.path, QUIET)
        have = bytearray(volume.size)
        await volume.read(0, memoryview(have))
        moments = self.driver.model.moments
        kept = [n for n, state in moments.items() if n >= self.promised and have == Model.content(*state)]
        assert kept, "what was flushed is missing"
        await volume.durable(volume.position)
        await volume.close()
        report = check(self.host, str(self.driver.path))
        assert report.good, report.problems


@pytest.fixture
def failing() -> Iterator[Failing]:
    place = Path(tempfile.mkdtemp(prefix="revolume-sync-", dir=MEMORY if MEMORY.is_dir() else None))
    yield Failing(place / "v")
    shutil.rmtree(place)


def run(coroutine: object) -> None:
    asyncio.run(coroutine)  # type: ignore[arg-type]


def test_a_failed_sync_of_the_log_poisons_and_is_never_repeated(failing: Failing) -> None:
    async def play() -> None:
        await failing.begin()
        volume, faults = failing.driver.volume, failing.faults
        position, durable = volume.position, volume.log.commit.durable
        faults.once("datasync", ".seg")
        waiting = [asyncio.ensure_future(volume.durable(position)) for _ in range(3)]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Poisoned] * 3, "all who waited for that sync"
        assert volume.log.commit.durable == durable
        syncs = faults.count("datasync", ".seg")
        await failing.refuses_everything()
        await asyncio.sleep(0.05)
        assert faults.count("datasync", ".seg") == syncs, "the disk would say yes now, and it would mean nothing"
        await failing.comes_back()

    run(play())


def test_a_failed_write_of_the_log_poisons(failing: Failing) -> None:
    async def play() -> None:
        await failing.begin()
        failing.faults.once("pwritev", ".seg")
        with pytest.raises(Poisoned):
            await failing.write(3)
        await failing.refuses_everything()
        await failing.comes_back()

    run(play())


@pytest.mark.parametrize("name", ["manifest.a", "manifest.b"])
def test_a_failed_sync_of_the_manifest_poisons(failing: Failing, name: str) -> None:
    async def play() -> None:
        await failing.begin()
        if failing.driver.volume.manifest.manifest._file.name != name:  # type: ignore[union-attr]
            failing.driver.volume.manifest.manifest.renew()
        failing.faults.once("datasync", name)
        with pytest.raises(RevolumeError):
            await failing.driver.volume.snapshot("not-promised")
        syncs = failing.faults.count("datasync", name)
        await failing.refuses_everything()
        assert failing.faults.count("datasync", name) == syncs
        await failing.comes_back()

    run(play())


@pytest.mark.parametrize("operation", ["datasync", "pwritev", "rename", "sync", "open"])
def test_a_manifest_that_cannot_be_renewed(
    failing: Failing, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file comes to nothing, or nobody can tell which of the two stands: either way nothing promised
    before is lost, and what is promised afterwards is kept."""

    async def play() -> None:
        await failing.begin()
        monkeypatch.setattr("revolume.volume.metadata.manifest.RENEW_BYTES", 0)
        failing.faults.once(operation, "v" if operation in ("rename", "sync") else ".new")
        promised = await failing.driver.volume.snapshot("first")
        if operation in ("rename", "sync"):
            await failing.refuses_everything()
        else:
            await failing.driver.volume.snapshot("second")
        monkeypatch.undo()
        await failing.comes_back()
        volume = await opened(failing.host, failing.driver.path, QUIET)
        assert promised in volume.snapshots()
        await volume.close()

    run(play())


def test_a_segment_that_cannot_be_prepared_is_no_loss(failing: Failing) -> None:
    """Nothing lies in it yet: it is tried again, and whoever needs it is told that there is no room."""

    async def play() -> None:
        await failing.begin()
        volume = failing.driver.volume
        failing.faults.always({"datasync", "pwritev", "allocate"}, "9.seg", 5)
        for seed in range(3, 40):
            await failing.write(seed)
        assert volume.status().state == "online"
        await volume.durable(volume.position)
        failing.promised = volume.write
        await failing.comes_back()

    run(play())


def test_a_failed_read_is_an_error_of_that_read_alone(failing: Failing) -> None:
    async def play() -> None:
        await failing.begin()
        volume = failing.driver.volume
        buffer = memoryview(bytearray(BLOCK))
        failing.faults.always({"preadv", "preadv_nowait"}, ".seg", 5)
        if volume.read_now([(3 * BLOCK, buffer)]):
            with pytest.raises(RevolumeError):
                await volume.read(3 * BLOCK, buffer)
        failing.faults.never()
        await volume.read(3 * BLOCK, buffer)
        assert bytes(buffer) == payload(1, 2 * BLOCK)[:BLOCK]
        await failing.comes_back()

    run(play())
