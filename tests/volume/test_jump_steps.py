"""A jump that meets a disk which fails or is full, at every call that it makes: one sentence, nothing lost, and
once the disk is well it comes to the same end."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.chain.point import Point
from revolume.errors import Poisoned, RevolumeError
from revolume.host import real_host
from revolume.log.format.segment import SEGMENT_SUFFIX
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.sample_volume import SimProcess
from revolume.volume.open.open import open_secondary

from .driver import BLOCK, SMALL, abandon
from .faulty import Faults, io_error
from .jumping import Jumper
from .mirrored import THERE, abandon_secondary
from .store import payload
from .test_rescue_steps import faulty_host

MEMORY = Path("/dev/shm")
BLOCKS = 80
SKIPPED = {"preadv_nowait"}
"""A read that may not wait says so by failing."""
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-jump-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


async def prepared(driver: Jumper) -> tuple[int, int, Point]:
    """A snapshot, the common point, and a point far behind it."""
    await driver.volume.snapshot("kept")
    kept = driver.volume.write
    await driver.write(1, 2)
    await driver.cut()
    await driver.catch_up()
    old = driver.copy.agreed.write
    await driver.write(1, 20, 70)
    await driver.change([(OP_ZERO, 8 * BLOCK, 9 * BLOCK)])
    await driver.change([(OP_WRITE, 30 * BLOCK, payload(7, 30 * BLOCK))])
    return kept, old, await driver.cut()


async def carried(driver: Jumper, point: Point) -> None:
    """All of the jump, as a target does it that has lost nothing yet."""
    there = driver.copy
    await there.begin_jump(driver.target(point))
    await driver.send(point, stop_at=25)
    await there.settle_jump()
    await driver.send(point)
    await there.finish_jump()
    await there.close()
    await opened(driver)


async def opened(driver: Jumper) -> None:
    driver.secondary = await open_secondary(driver.host, str(driver.there), THERE)
    driver._set_up()


async def again(driver: Jumper, kept: int, old: int, point: Point) -> None:
    """Opened after whatever happened, it is the old point or the new one, and goes on to the new one."""
    await opened(driver)
    await driver.check_mirror_moment(kept)
    assert driver.copy.agreed.write in (old, point.write)
    await driver.check_copy(driver.copy.agreed.write)
    if driver.copy.agreed.number != point.number:
        await carried(driver, point)
    await driver.check_at(point)
    await driver.check_mirror_moment(kept)


class Nth:
    """The so-many-th call fails."""

    def __init__(self, faults: Faults, number: int, error: int) -> None:
        self._left = number
        self._error = error
        self.met = ""
        self.calls = 0
        faults.fail = self._fail

    def _fail(self, operation: str, name: str) -> OSError | None:
        if operation in SKIPPED:
            return None
        self.calls += 1
        self._left -= 1
        if self._left != 0:
            return None
        self.met = f"{operation} {name}"
        return io_error(self._error)


async def with_a_fault(place: Path, number: int, error: int) -> Nth:
    host, faults = real_host(), Faults()
    driver = Jumper(host, place / "v", BLOCKS * BLOCK)
    await driver.stand()
    kept, old, point = await prepared(driver)
    driver.host = faulty_host(faults)
    await driver.reopen_mirror()
    nth = Nth(faults, number, error)
    try:
        await carried(driver, point)
    except (RevolumeError, OSError) as failed:
        if isinstance(failed, RevolumeError):
            assert failed.cause.endswith(".") and failed.hint.endswith("."), failed
    finally:
        faults.never()
    there = driver.copy
    if not there._closing:
        await abandon_secondary(there)
    elif number:
        there.close_files()
    report = check(host, str(driver.there))
    assert not report.problems, f"{nth.met}: {report.problems}"
    try:
        await again(driver, kept, old, point)
    except BaseException as failed:
        failed.add_note(nth.met)
        raise
    await driver.copy.close()
    await abandon(driver.volume)
    await host.work.close()
    return nth


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_whatever_call_fails_nothing_is_lost(place: Path, error: int) -> None:
    total = asyncio.run(with_a_fault(place / "clean", 0, error)).calls
    assert total > 100
    met = set()
    for number in range(1 + error % 7, total, 7):
        met.add(asyncio.run(with_a_fault(place / str(number), number, error)).met.split()[0])
        shutil.rmtree(place / str(number))
    assert {"pwritev", "datasync", "open"} <= met


def test_on_a_disk_that_is_full_it_waits_for_room_at_every_step() -> None:
    """The disk has so much room and no more, until somebody gives it some."""
    codes: set[str] = set()
    for extra in range(8 << 10, 360 << 10, 24 << 10):
        with SimProcess(Platter(256 << 20), 1) as life:
            codes |= life.run(_full(life, extra))
    assert {"jump-no-space", "image-no-space", "done"} <= codes, codes


async def _full(life: SimProcess, extra: int) -> set[str]:
    driver = Jumper(life.host, Path("/v"), BLOCKS * BLOCK, replace(SMALL, spare_bytes=0))
    await driver.stand(replace(THERE, spare_bytes=0))
    kept, old, point = await prepared(driver)
    codes = set()
    roomy, life.platter.capacity = life.platter.capacity, life.platter.used_pages * 4096 + extra
    try:
        await carried(driver, point)
        codes.add("done")
    except RevolumeError as error:
        codes.add(error.code)
        assert error.code in ("jump-no-space", "no-space", "image-no-space", "manifest-not-written"), error
        assert error.cause.endswith(".") and "\n" not in error.cause
    life.platter.capacity = roomy
    there = driver.copy
    if not there._closing:
        if there.manifest.state.jumped is None:  # it was served all the time
            await driver.check_copy(point.write if "done" in codes else old)
            await driver.check_mirror_moment(kept)
        await there.close()
    await again(driver, kept, old, point)
    await driver.copy.close()
    assert not check(life.host, "/v-mirror").problems
    return codes


def test_a_flipped_jump_waits_for_room_at_the_opening() -> None:
    """The disk was filled by somebody else after the flip. The copy's own log is given up for it, and where that
    does not suffice the opening says so."""

    async def scenario(life: SimProcess) -> int:
        driver = Jumper(life.host, Path("/v"), BLOCKS * BLOCK, replace(SMALL, spare_bytes=0))
        await driver.stand(replace(THERE, spare_bytes=0))
        kept, _, _ = await prepared(driver)
        await driver.grow(500 * BLOCK)  # more than its log gives back
        for block in range(100, 500, 10):
            await driver.change([(OP_WRITE, block * BLOCK, payload(block, 10 * BLOCK))])
        point = await driver.cut()
        there = driver.copy
        await there.begin_jump(driver.target(point))
        await driver.send(point)
        await there.finish_jump()
        await there.close()
        refused, platter = 0, life.platter
        platter.capacity = platter.used_pages * 4096
        while True:
            try:
                await opened(driver)
                break
            except RevolumeError as error:
                assert error.code in ("jump-no-space", "no-space", "manifest-not-written"), error
                assert error.cause.endswith(".") and "nothing" in f"{error.cause} {error.hint}"
                if error.code == "jump-no-space":
                    names = life.host.disk.open("/v-mirror").child("log").names()
                    assert not [name for name in names if name.endswith(SEGMENT_SUFFIX)], "the old log goes first"
            report = check(life.host, "/v-mirror")
            assert not report.problems and "has jumped to" in report.incomplete
            refused += 1
            platter.capacity += 64 << 10
        await driver.check_at(point)
        await driver.check_mirror_moment(kept)
        await driver.copy.close()
        assert not check(life.host, "/v-mirror").problems
        return refused

    with SimProcess(Platter(256 << 20), 1) as life:
        assert life.run(scenario(life)) > 3


def test_once_a_sync_of_the_manifest_has_failed_no_table_is_written_that_it_may_name(place: Path) -> None:
    """The edit may be on the disk all the same, and names a table: what is under that name stays what it was."""

    async def run() -> None:
        host, faults = real_host(), Faults()
        driver = Jumper(host, place / "v", BLOCKS * BLOCK)
        await driver.stand()
        kept, old, point = await prepared(driver)
        driver.host = faulty_host(faults)
        await driver.reopen_mirror()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point, stop_at=25)
        faults.fail = lambda called, name: io_error() if (called, name[:8]) == ("datasync", "manifest") else None
        await driver.copy.settle_jump()
        faults.never()
        tables = {path.name: path.read_bytes() for path in (driver.there / "jump").glob("*.map")}
        assert tables
        with pytest.raises(Poisoned):
            await driver.send(point)
        await driver.copy.settle_jump()
        assert {path.name: path.read_bytes() for path in (driver.there / "jump").glob("*.map")} == tables
        await abandon_secondary(driver.copy)
        assert not check(host, str(driver.there)).problems
        await again(driver, kept, old, point)
        await driver.copy.close()
        await abandon(driver.volume)
        await host.work.close()

    asyncio.run(run())
