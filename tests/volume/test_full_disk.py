"""A disk that is full to the last byte: what makes room has room itself, so the log becomes image, a stretch at a
time, and writing goes on; when nothing can be folded any more it is refused in words, and nothing is lost."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from revolume.errors import NoSpace
from revolume.host import real_host
from revolume.host.disk import Disk
from revolume.log.write.operations import OP_TRIM, OP_WRITE
from revolume.volume.image.fold_job import Folded, FoldSpec, fold
from revolume.volume.members.kept_points import kept_word
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.space import folder
from revolume.volume.space.copy_on_write import Cover
from revolume.volume.space.reserve import reserve_size

from .driver import BLOCK, SEGMENT, SMALL, Driver, abandon
from .store import payload
from .test_space import Filling, MiB, place, run, small_disk

__all__ = ["place", "small_disk"]

SIZE = 4 << 20
OPTIONS = replace(
    SMALL, budget_bytes=64 * MiB, spare_bytes=4 * SEGMENT, sync_interval_s=0.1, keep_s=3600.0, reserve_bytes=None
)


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def fill(disk: Path) -> Path:
    """Somebody else takes every byte that is left."""
    filler = disk / "filler"
    with open(filler, "ab") as file:
        while left := free(disk):
            file.write(bytes(left))
            file.flush()
    return filler


async def rewrite(driver: Driver, seed: int) -> None:
    """Every block of the volume once, in no order."""
    for at in range(0, SIZE // BLOCK, 8):
        block = (at * 37 + seed * 8) % (SIZE // BLOCK)
        block -= block % 8
        await driver.append([(OP_WRITE, block * BLOCK, 8 * BLOCK, memoryview(payload(seed + at, 8 * BLOCK)))])
        driver.model.write(block * BLOCK, payload(seed + at, 8 * BLOCK))
    driver.model.moments.clear()
    driver.model.seal(driver.volume.write)


def test_the_log_would_outgrow_the_disk(small_disk: Path) -> None:
    """A budget of more than there is: history ends where the disk does, and writing goes on for ever."""
    filling = Filling(real_host(), small_disk / "v", OPTIONS)

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        for seed in range(12):  # four times the disk
            await rewrite(driver, seed)
        assert driver.volume.folder.folds and not driver.volume.folder.failure
        await driver.check_live()
        await driver.crash()
        await rewrite(driver, 50)
        await filling.ends_well()

    run(filling, play)


def test_somebody_else_takes_the_last_byte(small_disk: Path) -> None:
    """The image has hardly any blocks yet: each fold needs room for what it writes, and gives more back."""
    filling = Filling(real_host(), small_disk / "v", OPTIONS)

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await rewrite(driver, 1)
        await driver.volume.disk_room.tend_reserve()
        assert not driver.volume.reserve.missing and not driver.volume.folder.folds
        filler = fill(small_disk)
        for seed in range(2, 8):
            await rewrite(driver, seed)
            fill(small_disk)
        assert driver.volume.folder.folds and not driver.volume.folder.failure
        assert os.stat(small_disk / "v" / "image").st_blocks * 512 > SIZE // 2
        await driver.check_live()
        await driver.volume.snapshot("also-the-manifest")
        await driver.reopen()
        await driver.check_live()
        await driver.crash()
        await driver.check_live()
        await driver.volume.drop_snapshot("also-the-manifest")
        await rewrite(driver, 20)
        filler.unlink()
        await filling.ends_well()

    run(filling, play)


def test_a_volume_larger_than_the_disk(small_disk: Path) -> None:
    """In the end the image itself has no room. Writes are refused before they have a number; trims go on as long
    as there is room in the log, and what they free is written again."""
    options = replace(OPTIONS, cp_interval_s=0.2, segment_bytes=4 * SEGMENT)
    filling = Filling(real_host(), small_disk / "v", options)

    async def play() -> None:
        driver = filling.driver
        driver.model.size = 64 << 20
        await driver.open()
        done = 0
        with pytest.raises(NoSpace):
            for at in range(0, 64 << 20, 16 * BLOCK):
                before = driver.volume.write
                await driver.change([(OP_WRITE, at, payload(at, 16 * BLOCK))])
                done += 1
        assert driver.volume.write == before and driver.volume.status().state == "full"
        assert done * 16 * BLOCK > 6 * MiB, "most of the disk holds data"
        await driver.check_live()
        await driver.reopen()
        await driver.check_live()
        await driver.change([(OP_TRIM, 0, 4 * MiB)])
        for at in range(0, MiB, 16 * BLOCK):
            await driver.change([(OP_WRITE, 32 * MiB + at, payload(at, 16 * BLOCK))])
        await driver.check_live()
        await abandon(driver.volume)
        await driver.open()
        await filling.ends_well()

    run(filling, play)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["pwritev", "rename"])
def test_the_manifest_takes_of_the_reserve(place: Path, operation: str, number: int) -> None:
    from .faulty import Faults, FaultyDisk, io_error
    from .store import inline_host

    faults = Faults()
    filling = Filling(inline_host(FaultyDisk(faults)), place / "v", replace(OPTIONS, reserve_bytes=MiB))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        await driver.volume.disk_room.tend_reserve()
        reserve = driver.volume.reserve
        assert reserve.held == MiB

        def no_room(called: str, name: str) -> OSError | None:
            if called == operation and name.startswith("manifest") and reserve.held:
                return io_error(number)
            return None

        faults.fail = no_room
        await driver.volume.snapshot("kept")
        assert (reserve.held == 0) == (operation == "pwritev")
        await driver.volume.disk_room.tend_reserve()
        assert reserve.held == MiB
        faults.never()
        await filling.ends_well()

    run(filling, play)


def test_a_fold_that_meets_a_quota_takes_of_the_reserve(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk seems to have room, and what we may take of it is used up."""
    from .faulty import io_error
    from .store import inline_host

    filling = Filling(inline_host(), place / "v", replace(OPTIONS, reserve_bytes=MiB))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        volume = driver.volume
        await volume.point_maker.cut()
        await volume.disk_room.tend_reserve()

        def limited(disk: Disk, spec: FoldSpec) -> Folded:
            if volume.reserve.held:
                raise io_error(errno.EDQUOT)
            return fold(disk, spec)

        monkeypatch.setattr(folder, "fold", limited)
        assert await volume.folder.step(True) and volume.folder.folds == 1
        monkeypatch.undo()
        assert volume.reserve.held == MiB
        await filling.ends_well()

    run(filling, play)


def test_how_much_is_kept_back() -> None:
    mib, gib = 1 << 20, 1 << 30
    assert reserve_size(1000 * gib, 500 * gib, 64 * mib, 100 * gib) == gib
    assert reserve_size(2 * gib, 1 * gib, 64 * mib, gib) == 128 * mib
    assert reserve_size(200 * mib, 100 * mib, 64 * mib, gib) == 50 * mib, "never more than a quarter"
    assert reserve_size(1000 * gib, 500 * gib, mib, 16 * mib) == 17 * mib + 256 * 1024, "never more than is of use"


def test_how_large_segments_are() -> None:
    mib, gib = 1 << 20, 1 << 30
    sizes = (4096, 16 * mib, 64 * mib, gib - 4096, gib, 1000 * gib)
    assert [layout.default_segment_bytes(size) for size in sizes] == [
        mib, mib, 4 * mib, 32 * mib, 64 * mib, 64 * mib
    ]  # fmt: skip


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_segment_that_had_no_room_after_all(place: Path, number: int) -> None:
    """A file system that copies on write may break the promise of a ready segment: the reserve is emptied
    and the same bytes are written once more. Without a reserve it is the end, and then nothing is told to a mirror
    that is not in the log."""
    from .faulty import Faults, FaultyDisk, io_error
    from .store import inline_host

    faults = Faults()
    filling = Filling(inline_host(FaultyDisk(faults)), place / "v", replace(OPTIONS, reserve_bytes=MiB))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        await driver.volume.disk_room.tend_reserve()
        volume, told = driver.volume, []
        volume.feed.listen(lambda: None, lambda position, shared_header, buffers: told.append(position))

        def no_room(called: str, name: str) -> OSError | None:
            short = called == "pwritev" and name.endswith(".seg") and volume.reserve.held
            return io_error(number) if short else None

        faults.fail = no_room
        before = driver.volume.position
        await filling.write()
        assert volume.log.commit.failure is None and volume.reserve.held == 0
        assert told == [before + 1], "what a mirror is told is told once"
        await driver.volume.disk_room.tend_reserve()
        faults.never()
        await driver.reopen()
        await filling.everything_is_there()
        await filling.ends_well()

    run(filling, play)


@pytest.mark.parametrize("urgent", [False, True])
def test_what_is_looked_at_where_ready_segments_promise_nothing(urgent: bool) -> None:
    """The batch and everything unsynced must fit; what is urgent may take of the reserve."""
    directory, commit = SimpleNamespace(free_bytes=lambda: 10 * MiB), SimpleNamespace(unsynced_bytes=MiB)
    reserve = SimpleNamespace(held=3 * MiB, missing=MiB, slack=2 * MiB)
    cover = Cover(directory, reserve, commit, copies=True)  # type: ignore[arg-type]
    blocks = (12 if urgent else 6) * 256
    assert cover.covers(blocks, urgent) and not cover.covers(blocks + 1, urgent)
    assert Cover(directory, reserve, commit, copies=False).covers(1 << 40, urgent)  # type: ignore[arg-type]


def test_what_is_pinned_for_a_mirror_goes_before_a_write_is_refused(small_disk: Path) -> None:
    """Everything is overwritten: the image, what was rescued for the mirror, and the log do not fit the disk."""
    filling = Filling(real_host(), small_disk / "v", OPTIONS)

    async def play() -> None:
        driver = filling.driver
        (small_disk / "filler").write_bytes(bytes(3 * MiB))
        await driver.open()
        for seed in range(1, 6):
            await rewrite(driver, seed)
        mirrors = driver.volume.mirrors
        mirror = await mirrors.register("m", MirrorMode.ASYNC)
        await mirrors.pin_base(mirror)
        await mirrors.based(mirror)
        await mirrors.joined(mirror, b"n" * 16)
        told = set[str]()
        for seed in range(6, 12):
            fill(small_disk)
            await rewrite(driver, seed)
            told.add(kept_word(mirror.state))
        assert "nothing" in told and not driver.volume.admission.refused
        assert not driver.volume.manifest.state.rescues or driver.volume.rescued.users
        await driver.check_live()
        await driver.crash()
        assert driver.volume.mirrors.get("m").lost
        (small_disk / "filler").unlink()
        await filling.ends_well()

    run(filling, play)
