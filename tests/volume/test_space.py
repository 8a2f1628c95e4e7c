"""No room: a write is refused before it has a number, so that nothing of it is there; nothing that was answered is
lost; and when room returns, by whatever way, writes go on by themselves.

The budget is used up while a mirror keeps everything, or somebody else fills the disk (a small tmpfs).
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.errors import NoSpace
from revolume.host import Host, JobFailed, real_host
from revolume.host.real.work import RealWork
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.offline.check.check import check
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.open.options import OpenOptions
from revolume.volume.space.admission import ATTEMPTS, PATIENCE_S
from revolume.volume.space.holder import HolderKind
from tests.support.programs import kernel_lacks

from .driver import BLOCK, SEGMENT, SMALL, Driver, abandon
from .mirrored import Mirrored
from .store import Verdict, opened, payload, read_live, read_moment

MEMORY = Path("/dev/shm")
SIZE = 4 << 20
BUDGET = 24 * SEGMENT
SMALL_BUDGET = replace(SMALL, budget_bytes=BUDGET, spare_bytes=2 * SEGMENT, sync_interval_s=0.1)
MiB = 1 << 20


class Filling:
    """A volume being filled; what it refuses leaves no trace."""

    def __init__(self, host: Host, path: Path, options: OpenOptions) -> None:
        self.driver = Driver(host, path, SIZE, options)
        self.chance = random.Random(5)
        self.seed = 0

    def keep_all(self) -> Callable[[], None]:
        """Somebody keeps the whole log and never gives way, until what is returned is called."""
        return self.driver.volume.holders.lease(HolderKind.REQUIRED_MIRROR, "keep-all", WriteNumber(0))

    async def write(self, blocks: int = 6) -> None:
        self.seed += 1
        at = self.chance.randrange(SIZE // BLOCK - blocks)
        await self.driver.change([
            (OP_WRITE, at * BLOCK, payload(self.seed, blocks * BLOCK)),
            (OP_WRITE, at * BLOCK // 2 + 77, payload(self.seed, 700)),
        ])  # fmt: skip

    async def until_full(self) -> None:
        for _ in range(2000):
            before = self.driver.volume.write, self.driver.volume.position
            try:
                await self.write()
            except NoSpace as error:
                volume = self.driver.volume
                assert error.code == "no-space" and error.cause.endswith(".") and error.hint
                assert volume.write == before[0], "the refused write has a number"
                assert volume.status().state == "full"
                return
        pytest.fail("it never filled up")

    async def refuses(self) -> None:
        """Whatever kind of change it is, again and again; and what is not a change is answered."""
        volume = self.driver.volume
        big = memoryview(bytes(MiB))
        changes: list[list[Op]] = [
            [(OP_WRITE, 0, MiB, big)],
            [(OP_WRITE, 5, 100, big[:100]), (OP_WRITE, 9000, 2 * MiB // 4, big[: 2 * MiB // 4])],
        ]
        before = volume.write
        for ops in changes:
            with pytest.raises(WouldBlock):
                volume.append(ops)
            with pytest.raises(NoSpace):
                await volume.room(ops)
        assert volume.write == before
        await volume.durable(volume.position)
        await self.driver.check_live()

    async def everything_is_there(self) -> None:
        await self.driver.check_live()
        await self.driver.check_moments(6)

    async def ends_well(self) -> None:
        driver = self.driver
        await driver.check_live()
        await driver.volume.close()
        report = check(driver.host, str(driver.path))
        assert report.good, report.problems


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-space-", dir=MEMORY if MEMORY.is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    mounted = place / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=755", "tmpfs", str(mounted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        kernel_lacks(f"a tmpfs may not be mounted here: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def run(filling: Filling, play: object) -> None:
    async def whole() -> None:
        try:
            await play()  # type: ignore[operator]
        except BaseException:
            await abandon(filling.driver.volume)
            raise
        finally:
            await filling.driver.host.work.close()

    asyncio.run(whole())


def test_a_budget_used_up_under_a_holder(place: Path) -> None:
    filling = Filling(real_host(), place / "v", SMALL_BUDGET)

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        await driver.volume.snapshot("named")
        release, pinned = filling.keep_all(), driver.volume.write
        await filling.until_full()
        told = [h.name for h in driver.volume.status().holders]
        assert told == ["mirror keep-all", "snapshot named"], "who it is, is told"
        await filling.refuses()
        await filling.everything_is_there()
        await driver.check_moment(pinned)

        waiting = asyncio.ensure_future(filling.write())
        await asyncio.sleep(0)
        release()
        await asyncio.wait_for(waiting, 60)
        for _ in range(60):
            await filling.write()
        assert driver.volume.status().state == "online"
        assert driver.volume.folder.folds
        assert log_bytes(driver.path) <= BUDGET + 3 * SEGMENT
        await filling.everything_is_there()
        await filling.ends_well()

    run(filling, play)


def log_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path / "log").iterdir())


def test_a_full_volume_is_stopped_crashed_and_opened_again(place: Path) -> None:
    """A clean stop needs a last point, an opening an epoch: there is room for both."""
    filling = Filling(real_host(), place / "v", SMALL_BUDGET)

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        release = filling.keep_all()
        await filling.until_full()
        for _ in range(3):
            await driver.reopen()
            release = filling.keep_all()
            await filling.everything_is_there()
        for _ in range(3):
            await driver.crash()
            release = filling.keep_all()
            await driver.check_live()
        release()
        for _ in range(30):
            await filling.write()
        await filling.ends_well()

    run(filling, play)


def test_zeroes_and_trims_of_a_full_volume(place: Path) -> None:
    """They take little room, but room: they are refused in the same way, and done when it returns."""
    filling = Filling(real_host(), place / "v", SMALL_BUDGET)

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        release = filling.keep_all()
        await filling.until_full()
        done = 0
        for turn in range(400):
            try:
                await driver.change([((OP_ZERO, OP_TRIM)[turn % 2], turn * BLOCK, 2 * BLOCK + turn)])
                done += 1
            except NoSpace:
                break
        assert done < 400
        await filling.everything_is_there()
        release()
        await driver.change([(OP_TRIM, 0, SIZE)])
        await filling.ends_well()

    run(filling, play)


def test_one_write_larger_than_the_budget(place: Path) -> None:
    """Refused for good, and at once enough that nobody waits for ever; smaller ones go on."""
    filling = Filling(real_host(), place / "v", replace(SMALL_BUDGET, budget_bytes=12 * SEGMENT))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        huge: list[Op] = [(OP_WRITE, 0, 2 * MiB, memoryview(bytes(2 * MiB)))]
        with pytest.raises(WouldBlock):
            driver.volume.append(huge)
        with pytest.raises(NoSpace):
            await asyncio.wait_for(driver.volume.room(huge), 60)
        for _ in range(40):
            await filling.write()
        await filling.ends_well()

    run(filling, play)


def test_a_disk_that_somebody_else_fills(small_disk: Path) -> None:
    options = replace(SMALL, budget_bytes=64 * MiB, spare_bytes=4 * SEGMENT, sync_interval_s=0.1, keep_s=0.0)
    filling = Filling(real_host(), small_disk / "v", options)
    filler = small_disk / "filler"

    def fill(left: int) -> None:
        free = os.statvfs(small_disk)
        with open(filler, "ab") as file:
            file.write(bytes(max(0, free.f_bavail * free.f_frsize - left)))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        for _ in range(5):
            await filling.write()
        await driver.volume.cut()
        filling.keep_all()
        fill(left=256 << 10)
        await filling.until_full()
        await filling.refuses()
        fill(left=0)
        await filling.refuses()
        await driver.check_live()
        verdict = Verdict()  # a view needs a map, for which there may be no room: words, never wrong bytes
        await read_moment(driver.volume, driver.model, driver.volume.write, verdict)
        assert not verdict.wrong, verdict

        waiting = asyncio.ensure_future(filling.write())
        await asyncio.sleep(0.05)
        filler.unlink()
        await asyncio.wait_for(waiting, 60)
        for _ in range(10):
            await filling.write()
        await filling.everything_is_there()
        await filling.ends_well()

    run(filling, play)


def test_a_full_disk_is_stopped_crashed_and_opened_again(small_disk: Path) -> None:
    """Without a byte left the stop may fail and the opening be refused, in words; with room all is there."""
    options = replace(SMALL, budget_bytes=64 * MiB, spare_bytes=4 * SEGMENT, sync_interval_s=0.1)
    filling = Filling(real_host(), small_disk / "v", options)
    filler = small_disk / "filler"

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        for _ in range(5):
            await filling.write()
        await driver.volume.durable(driver.volume.position)
        for crash in (False, True):
            with open(filler, "wb") as file:
                free = os.statvfs(small_disk)
                file.write(bytes(free.f_bavail * free.f_frsize))
            await filling.until_full()
            verdict = Verdict()
            with verdict.watching("stop"):
                await (abandon(driver.volume) if crash else driver.volume.close())
            with verdict.watching("open"):
                driver.volume = await opened(driver.host, driver.path, options)
                await read_live(driver.volume, driver.model, verdict)
                await abandon(driver.volume)
            assert not verdict.wrong, verdict
            filler.unlink()
            driver.volume = await opened(driver.host, driver.path, options)
            await driver.check_live()
            driver.model.seal(driver.volume.write)
            await filling.write()
        await filling.ends_well()

    run(filling, play)


def test_a_lost_helper_is_no_reason_to_refuse(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds whose helper process is killed are done again while the client waits."""
    job, lost = RealWork.job, list(range(14))

    async def sometimes_lost(work: RealWork, fn: Any, *args: Any) -> Any:
        if fn.__name__ == "fold" and lost:
            lost.pop()
            raise JobFailed("job-failed", "The helper process ended during fold.", "Try it once more.")
        return await job(work, fn, *args)

    monkeypatch.setattr(RealWork, "job", sometimes_lost)

    async def scenario() -> None:
        host = real_host()
        filling = Filling(host, place / "v", replace(SMALL_BUDGET, keep_s=0.0))
        await filling.driver.open()
        for _ in range(400):  # several times the budget
            await filling.write()
        assert not lost
        assert filling.driver.volume.folder.folds
        await filling.driver.volume.close()
        await host.work.close()

    asyncio.run(scenario())


def test_writes_wait_for_a_required_mirror_that_keeps_the_log(place: Path) -> None:
    """Room comes back when it has come on. As long as it has not, its answers are waited for anyway: a client that
    were told ENOSPC for it would take its file system down because a link is slow."""

    async def play() -> None:
        driver = Mirrored(real_host(), place / "v", SIZE, SMALL_BUDGET)
        filling = Filling(real_host(), place / "v", SMALL_BUDGET)
        filling.driver = driver
        try:
            await driver.open()
            await filling.write()
            await driver.volume.point_maker.cut()
            await driver.begin()
            await driver.send_base()
            await driver.volume.mirrors.register("m", MirrorMode.SYNC)
            await driver.ship()
            await driver.settle()
            await driver.acknowledge()
            assert driver.volume.mirrors.get("m").required
            writing = asyncio.create_task(many(filling, 400))
            await asyncio.wait([writing], timeout=2 * ATTEMPTS * PATIENCE_S + 2)
            status = driver.volume.status()
            assert not writing.done() and status.state == "full" and "mirror m has caught up" in status.reason
            while not writing.done():
                await driver.ship()
                await driver.settle()
                await driver.acknowledge()
                await asyncio.sleep(0.05)
            await writing
            status = driver.volume.status()  # nothing waits any more; the budget is small, and that is said
            assert status.state == "online" or status.reason.startswith("mirror m keeps"), status.reason
            assert driver.volume.admission.refused == 0
            await filling.driver.check_live()
            assert driver.secondary is not None
            await driver.secondary.close()
            await filling.ends_well()
        finally:
            await driver.host.work.close()

    asyncio.run(asyncio.wait_for(play(), 120))


async def many(filling: Filling, count: int) -> None:
    for _ in range(count):
        await filling.write()


def test_a_mirror_is_not_waited_for_where_somebody_else_keeps_the_log(place: Path) -> None:
    """A required mirror lacks points too, but what it would give back, another holder keeps."""

    async def play() -> None:
        driver = Mirrored(real_host(), place / "v", SIZE, SMALL_BUDGET)
        filling = Filling(real_host(), place / "v", SMALL_BUDGET)
        filling.driver = driver
        try:
            await driver.open()
            await filling.write()
            await driver.volume.point_maker.cut()
            await driver.begin()
            await driver.send_base()
            await driver.volume.mirrors.register("m", MirrorMode.SYNC)
            driver.volume.holders.lease(HolderKind.UNDER_WAY, "old", driver.volume.write)
            await driver.ship()
            await driver.settle()
            await driver.acknowledge()
            await filling.until_full()
            assert driver.secondary is not None
            await driver.secondary.close()
            await filling.ends_well()
        finally:
            await driver.host.work.close()

    asyncio.run(asyncio.wait_for(play(), 120))
