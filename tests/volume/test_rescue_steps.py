"""Each step of a rescue alone: in which order it is durable, what it copies, what is kept of it, and what it says
of blocks that are not what they should be."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revolume.chain.map_file import MapFile, write_map
from revolume.errors import Damaged, NotFound
from revolume.history.exports import VolumeExports
from revolume.history.moments import AtPoint, AtWrite
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import View, open_view
from revolume.host import Host, real_host
from revolume.host.real.disk import RealDisk
from revolume.log.format.columns import RANGE_BLOCKS
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.metadata.layout import IMAGE, RESCUE
from revolume.volume.metadata.manifest_edits import EditKind, pack_number
from revolume.volume.rescue.rescued_blocks import RescuedBlocks
from revolume.volume.space.disk_room import DiskRoom
from revolume.volume.space.rescuer import ATTEMPTS

from .driver import BLOCK, SMALL, Driver, abandon
from .faulty import Faults, FaultyDisk, io_error
from .store import Inline, payload

MEMORY = Path("/dev/shm")  # nothing here is about how long a sync takes
BLOCKS = 96
FILLER = BLOCKS - 1
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-rescue-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


class FaultyWork(Inline):
    """Jobs meet the faults too."""

    def __init__(self, disk: FaultyDisk) -> None:
        self._disk = disk

    async def job(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(self._disk, *args)


def faulty_host(faults: Faults) -> Host:
    real, disk = real_host(), FaultyDisk(faults)
    return Host(real.clock, real.entropy, disk, FaultyWork(disk), real.network)  # type: ignore[arg-type]


class Pinned(Driver):
    """A volume with content everywhere, and snapshots that the horizon leaves on demand."""

    def __init__(self, place: Path) -> None:
        self.faults = Faults()
        super().__init__(faulty_host(self.faults), place / "v", BLOCKS * BLOCK, SMALL)
        self.seed = 0

    async def open(self) -> None:
        """Nothing is folded, synced or merged beside the test."""
        await super().open()
        for task in self.volume.upkeep.tasks:
            task.cancel()

    async def write(self, *blocks: int) -> None:
        """Whole blocks, each with new content."""
        for block in blocks:
            self.seed += 1
            await self.change([(OP_WRITE, block * BLOCK, payload(self.seed, BLOCK))])

    async def fill(self) -> None:
        """Enough log for a fold to give a segment back; only one block changes."""
        await self.write(*[FILLER] * 20)
        await self.volume.point_maker.cut()

    async def begin(self) -> None:
        await self.open()
        await self.change([(OP_WRITE, block * BLOCK, payload(block, 8 * BLOCK)) for block in range(0, BLOCKS, 8)])
        await self.fill()
        await self.folded()

    async def snapshot(self, name: str) -> int:
        """Its write; the image is that moment's."""
        await self.volume.snapshot(name)
        pinned = self.volume.write
        await self.pass_by()
        return pinned

    async def pass_by(self, *blocks: int) -> None:
        """These blocks are overwritten, and all of the log is folded."""
        await self.write(*blocks)
        await self.fill()
        await self.folded()

    async def folded(self) -> None:
        while await self.fold():
            pass
        assert self.volume.folder.failure is None

    def entries(self) -> list[list[int]]:
        """Of each pinned moment, how many blocks its tables name."""
        return [[table.entries for table in each.tables] for each in self.volume.manifest.state.rescues]

    def copied(self) -> list[int]:
        """Of each pinned moment, how many blocks have been copied for it."""
        return [sum(file.blocks for file in each.files) for each in self.volume.manifest.state.rescues]

    def files(self, ending: str) -> list[Path]:
        return sorted((self.path / RESCUE).glob("*" + ending))

    async def content(self, write: int, block: int) -> bytes:
        view = await open_view(self.volume, ResolvedMoment(write, 0), "test")
        try:
            buffer = bytearray(BLOCK)
            await view.reader.read(block * BLOCK, memoryview(buffer))
            return bytes(buffer)
        finally:
            view.close()

    def spoil(self, file: Path, at: int) -> None:
        with open(file, "r+b") as opened:
            opened.seek(at)
            byte = opened.read(1)[0]
            opened.seek(at)
            opened.write(bytes([byte ^ 1]))


def play(scenario: Callable[[Pinned], Awaitable[None]], place: Path) -> None:
    async def run() -> None:
        driver = Pinned(place)
        await driver.begin()
        try:
            await scenario(driver)
        finally:
            driver.faults.never()
            if not driver.volume._closing:
                await abandon(driver.volume)

    asyncio.run(run())


# What is durable, and when


def test_blocks_table_and_names_are_durable_and_known_before_the_image_changes(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        await driver.snapshot("kept")
        await driver.write(1, 2)
        await driver.fill()
        driver.faults.calls.clear()
        await driver.folded()
        calls = driver.faults.calls
        calls = calls[: calls.index(("pwritev", IMAGE))]

        def last(operation: str, part: str) -> int:
            return max(at for at, (called, name) in enumerate(calls) if called == operation and part in name)

        edit = last("pwritev", "manifest")
        assert last("pwritev", ".blocks") < last("datasync", ".blocks") < edit
        assert last("pwritev", ".map") < last("datasync", ".map") < edit
        assert last("open", ".map") < last("sync", RESCUE) < edit < last("datasync", "manifest")

    play(scenario, place)


@pytest.mark.parametrize(
    ("operation", "ending"), [("sync", "rescue"), ("datasync", ".blocks"), ("datasync", ".map")]
)
def test_a_rescue_that_fails_is_done_again_and_no_fold_before_it(operation: str, ending: str, place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        await driver.pass_by(1)
        await driver.write(1, 2)
        await driver.fill()
        horizon = driver.volume.folder.horizon
        driver.faults.calls.clear()
        driver.faults.once(operation, ending)
        assert not await driver.fold()
        assert driver.volume.folder.horizon == horizon and driver.faults.count("pwritev", "image") == 0
        await driver.folded()
        await driver.check_moment(pinned)
        await driver.crash()
        await driver.check_moment(pinned)

    play(scenario, place)


def test_what_an_attempt_left_goes_when_the_volume_is_opened(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        await driver.pass_by(1)
        named = driver.files("")
        for name in ("00000099.map", "00000099.blocks"):
            (driver.path / RESCUE / name).write_bytes(b"left")
        await driver.crash()
        assert driver.files("") == named
        await driver.check_moment(pinned)

    play(scenario, place)


# What is copied


def test_a_block_is_copied_once_however_often_it_is_overwritten(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        for _ in range(3):
            await driver.pass_by(1, 2)
        assert driver.copied() == [3] and sum(driver.entries()[0]) == 3, "two, and the filler"
        await driver.check_moment(pinned)

    play(scenario, place)


def test_only_the_newest_moment_gets_what_is_overwritten(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        first = await driver.snapshot("first")
        await driver.pass_by(1)
        second = await driver.snapshot("second")
        await driver.pass_by(1, 2, 3)
        assert driver.copied() == [2, 4]
        await driver.check_moment(first)
        await driver.check_moment(second)

    play(scenario, place)


def test_zeroes_are_kept_without_room_and_what_they_take_is_rescued(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        await driver.change([(OP_ZERO, 8 * BLOCK, 8 * BLOCK)])
        pinned = await driver.snapshot("kept")
        before = driver.copied()[0]
        await driver.change([(OP_ZERO, 4 * BLOCK, 16 * BLOCK)])
        await driver.pass_by(9, 10)
        assert driver.copied()[0] - before == 8, "of the range, what was not zero yet"
        await driver.check_moment(pinned)
        assert not any(await driver.content(pinned, 9)) and any(await driver.content(pinned, 4))

    play(scenario, place)


def test_a_range_of_zeroes_that_stays_one_is_rescued_too(place: Path) -> None:
    """So many blocks at once that the log's columns name the range alone."""

    async def scenario(driver: Pinned) -> None:
        await driver.grow((RANGE_BLOCKS + 200) * BLOCK)
        await driver.write(RANGE_BLOCKS + 100)
        pinned = await driver.snapshot("kept")
        before = driver.copied()[0]
        await driver.change([(OP_ZERO, 40 * BLOCK, (RANGE_BLOCKS + 150) * BLOCK)])
        await driver.pass_by(41)
        assert driver.copied()[0] - before == BLOCKS - 41 + 1, "the filler was copied before"
        await driver.check_moment(pinned)
        await driver.check_live()

    play(scenario, place)


# Merging, and what nobody needs


def test_of_two_tables_the_older_is_right_and_the_room_of_the_other_is_given_back(place: Path) -> None:
    """The newer moment's goes to the older one: block 1 is in both, block 2 only in the newer."""

    async def scenario(driver: Pinned) -> None:
        first = await driver.snapshot("first")
        await driver.pass_by(1)
        await driver.snapshot("second")
        await driver.pass_by(1, 2)
        await driver.volume.drop_snapshot("second")
        await driver.folded()
        assert driver.entries() == [[3]], "merged: 1, 2, the filler"
        await driver.check_moment(first)
        room = sum(path.stat().st_blocks * 512 for path in driver.files(".blocks"))
        assert room == 3 * BLOCK
        await driver.crash()
        await driver.check_moment(first)
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    play(scenario, place)


def test_tables_that_are_not_merged_are_asked_oldest_first(place: Path) -> None:
    """The second is far smaller than the first, so both stay."""

    async def scenario(driver: Pinned) -> None:
        first = await driver.snapshot("first")
        await driver.pass_by(*range(20))
        await driver.snapshot("second")
        await driver.pass_by(1)
        await driver.volume.drop_snapshot("second")
        await driver.folded()
        assert driver.entries() == [[21, 2]]
        await driver.check_moment(first)
        await driver.reopen()
        await driver.check_moment(first)
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    play(scenario, place)


def test_no_table_is_merged_while_they_are_being_read(place: Path) -> None:
    """Who sends a moment to a mirror knows by its number which table it has read."""

    async def scenario(driver: Pinned) -> None:
        await driver.snapshot("kept")
        await driver.pass_by(1)
        with driver.volume.rescued.in_use():
            await driver.pass_by(2, 3)
            await driver.volume.drop_snapshot("kept")
            await driver.folded()
            assert driver.entries() == [[2, 2]]
        await driver.fold()
        assert driver.entries() == [] and not driver.files("")

    play(scenario, place)


# Damage


def test_a_damaged_block_of_the_image_is_never_another_content_of_a_snapshot(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        driver.spoil(driver.path / IMAGE, 1 * BLOCK + 77)
        await driver.pass_by(1, 2)
        with pytest.raises(Damaged):
            await driver.content(pinned, 1)
        assert await driver.content(pinned, 2) == driver.model.moments[pinned][1][2]
        await driver.check_live()
        await driver.volume.close()
        problems = check(driver.host, str(driver.path)).problems
        assert [problem.what for problem in problems] == ["is not what it was"]

    play(scenario, place)


def test_a_block_that_the_disk_does_not_give_is_lost_only_after_some_attempts(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        await driver.write(1, 2, 3)
        await driver.fill()
        horizon = driver.volume.folder.horizon
        driver.faults.fail = lambda called, name: io_error() if called == "preadv" and name == IMAGE else None
        for _ in range(ATTEMPTS):
            assert not await driver.fold()
            assert driver.volume.folder.horizon == horizon and driver.volume.folder.failure
        assert await driver.fold()
        driver.faults.never()
        assert driver.volume.folder.horizon.write > pinned
        assert any("are lost at" in text for text in driver.volume.events.texts())
        with pytest.raises(Damaged):
            await driver.content(pinned, 1)
        await driver.pass_by(4)
        assert await driver.content(pinned, 4) == driver.model.moments[pinned][1][4]

    play(scenario, place)


@pytest.mark.parametrize("at", [20, BLOCK + 20], ids=["header", "page"])
def test_a_damaged_table_stops_no_fold_and_gives_no_other_content(at: int, place: Path) -> None:
    """A read of what it names is an error, also when the newer moment's table would answer."""

    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        await driver.pass_by(1)
        await driver.volume.close()
        (table,) = driver.files(".map")
        driver.spoil(table, at)
        await driver.open()
        await driver.pass_by(1, 2)
        with pytest.raises(Damaged):
            await driver.content(pinned, 1)
        await driver.check_live()
        await driver.volume.close()
        assert check(driver.host, str(driver.path)).problems

    play(scenario, place)


# Reading


@pytest.mark.parametrize("before_it", [False, True], ids=["first it overwrites", "again"])
def test_a_fold_in_the_middle_of_a_lookup_shows_nothing_newer(before_it: bool, place: Path) -> None:
    """Whichever is asked first, the image's digests or what was rescued: a fold comes before the other."""

    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        if before_it:
            await driver.pass_by(3)
        view = await open_view(driver.volume, ResolvedMoment(pinned, 0), "test")
        await driver.write(1, 2)
        await driver.fill()
        asked, folded = threading.Event(), threading.Event()
        find, rescued = BlockDigests.get, RescuedBlocks.get

        def waits(call: Callable[..., Any]) -> Callable[..., Any]:
            def then(*arguments: Any) -> Any:
                found = call(*arguments)
                if threading.current_thread() is not threading.main_thread() and not asked.is_set():
                    asked.set()
                    assert folded.wait(60)
                return found

            return then

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BlockDigests, "get", waits(find))
            patch.setattr(RescuedBlocks, "get", waits(rescued))
            blocks = np.arange(8, dtype=np.uint64)
            words, digests = view.source.lookup(blocks)
            settling = asyncio.create_task(asyncio.to_thread(view.source.settle, blocks, words, digests, False))
            while not asked.is_set():
                await asyncio.sleep(0.001)
            await driver.folded()
            folded.set()
            assert await settling
        again = view.source.lookup(blocks)
        view.source.settle(blocks, *again, False)
        assert digests.tolist() == again[1].tolist()
        view.close()

    play(scenario, place)


def test_a_read_under_way_while_the_image_is_overwritten_is_read_again(place: Path) -> None:
    """It had found the block in the image, before that was rescued. The fold's flip is still to come."""

    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        view = await open_view(driver.volume, ResolvedMoment(pinned, 0), "test")
        await driver.write(1, 2)
        await driver.fill()
        buffer, asked, overwritten = bytearray(8 * BLOCK), threading.Event(), threading.Event()
        flip = driver.volume.folder._flip.to

        def stopped(operation: str, name: str) -> OSError | None:
            if operation.startswith("preadv") and name == IMAGE and threading.current_thread() is reader:
                asked.set()
                overwritten.wait(60)
            return None

        def read() -> None:
            asyncio.run(view.reader.read(0, memoryview(buffer)))

        async def flipped(*arguments: Any) -> None:
            overwritten.set()
            await asyncio.to_thread(reader.join)
            await flip(*arguments)

        driver.faults.fail = stopped
        driver.volume.folder._flip.to = flipped  # type: ignore[method-assign]
        reader = threading.Thread(target=read)
        reader.start()
        await asyncio.to_thread(asked.wait, 20)
        await driver.folded()
        assert asked.is_set() and buffer == driver.model.content(*driver.model.moments[pinned])[: 8 * BLOCK]
        view.close()

    play(scenario, place)


def test_a_moment_that_the_horizon_has_left_is_found_by_every_name_and_its_neighbours_are_not(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        await driver.pass_by(1)
        resolver = VolumeExports(driver.volume, driver.volume).resolver
        number = driver.volume.snapshots()[0].point
        assert resolver.resolve(AtWrite(pinned)).write == resolver.resolve(AtPoint(number)).write == pinned
        for moment in (AtWrite(pinned - 1), AtWrite(pinned + 1), AtPoint(number - 1)):
            with pytest.raises(NotFound):
                resolver.resolve(moment)
        for write in (pinned - 1, pinned + 1):
            with pytest.raises(NotFound):
                await open_view(driver.volume, ResolvedMoment(write, 0), "test")
        await driver.volume.drop_snapshot("kept")
        with pytest.raises(NotFound):
            await open_view(driver.volume, ResolvedMoment(pinned, 0), "test")

    play(scenario, place)


def test_a_snapshot_has_the_size_that_the_volume_had(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        first = await driver.snapshot("first")
        await driver.grow((BLOCKS + 8) * BLOCK)
        await driver.pass_by(BLOCKS + 1)
        second = await driver.snapshot("second")
        await driver.grow((BLOCKS + 16) * BLOCK)
        await driver.pass_by(1)
        await driver.check_moment(first)
        await driver.check_moment(second)
        await driver.reopen()
        await driver.check_moment(first)
        await driver.check_moment(second)

    play(scenario, place)


def test_a_view_of_a_snapshot_outlives_its_name(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        view: View = await open_view(driver.volume, ResolvedMoment(pinned, 0), "test")
        await driver.volume.drop_snapshot("kept")
        await driver.pass_by(1, 2)
        buffer = bytearray(view.size)
        await view.reader.read(0, memoryview(buffer))
        assert buffer == driver.model.content(*driver.model.moments[pinned])
        view.close()
        await driver.folded()
        assert not driver.files("")

    play(scenario, place)


# Room


def test_a_fold_waits_until_there_is_room_for_what_it_rescues(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image does not grow; what is rescued needs room all the same."""

    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        await driver.write(*range(20))
        await driver.fill()
        horizon = driver.volume.folder.horizon
        needs, room = 20 * BLOCK + 20 * 25 + 4 * BLOCK, [0]
        monkeypatch.setattr(DiskRoom, "for_image", property(lambda self: room[0]))
        room[0] = needs - 1
        assert not await driver.fold()
        assert driver.volume.folder.starved and f"would take {needs} bytes" in str(driver.volume.folder.failure)
        assert driver.volume.folder.horizon == horizon and driver.copied() == [1]
        room[0] = needs
        assert await driver.fold()
        assert driver.copied() == [21]
        await driver.check_moment(pinned)

    play(scenario, place)


# The verifier


def unnamed(driver: Pinned) -> None:
    """The table as if one block less had been rescued; every page of it is whole."""
    (path,) = driver.files(".map")
    state = driver.volume.manifest.state
    with closing(RealDisk().open(str(driver.path / RESCUE))) as directory:
        with closing(MapFile.open(directory.open(path.name), state.volume)) as table:
            pieces, meta = [piece.entries(slice(1, None)) for piece in table.pieces()], table.meta
        directory.remove(path.name)
        with closing(directory.open(path.name, create=True)) as file:
            write_map(file, state.volume, meta, pieces)


def bent(driver: Pinned) -> None:
    driver.spoil(driver.files(".blocks")[0], 99)


def removed(driver: Pinned) -> None:
    driver.files(".map")[0].unlink()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [(unnamed, "is not the volume root"), (bent, "is not what it was"), (removed, "a table is missing")],
)
def test_check_tells_what_is_wrong_with_what_was_rescued(
    spoil: Callable[[Pinned], None], what: str, place: Path
) -> None:
    async def scenario(driver: Pinned) -> None:
        await driver.snapshot("first")
        await driver.pass_by(1, 2)
        await driver.volume.close()
        assert check(driver.host, str(driver.path)).good
        spoil(driver)
        (problem,) = check(driver.host, str(driver.path)).problems
        assert what in problem.what

    play(scenario, place)


def test_check_tells_that_nothing_was_rescued_for_a_snapshot(place: Path) -> None:
    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        await driver.pass_by(1)
        await driver.volume.manifest.record((EditKind.DROP_RESCUE, pack_number(pinned)))
        await driver.volume.close()
        (problem,) = check(driver.host, str(driver.path)).problems
        assert "nothing was rescued for it" in problem.what

    play(scenario, place)


# Between a drop and the next fold


@pytest.mark.parametrize("feeding", [True, False], ids=["a mirror is fed", "the fold has begun"])
def test_a_drop_that_is_not_dealt_with_yet_takes_nothing_from_an_older_moment(feeding: bool, place: Path) -> None:
    """The dropped moment's tables are still its own when a fold rescues: what they name has changed already, and
    is no content of the older moment's any more."""

    async def scenario(driver: Pinned) -> None:
        first = await driver.snapshot("first")
        await driver.snapshot("second")
        await driver.pass_by(1)
        await driver.write(1, 2)
        await driver.fill()
        with driver.volume.rescued.in_use() if feeding else nullcontext():
            if feeding:
                await driver.volume.drop_snapshot("second")
            else:
                written = driver.volume.log.footers.written

                async def meanwhile() -> None:
                    driver.volume.log.footers.written = written  # type: ignore[method-assign]
                    await driver.volume.drop_snapshot("second")
                    await written()

                driver.volume.log.footers.written = meanwhile  # type: ignore[method-assign]
            await driver.folded()
            await driver.check_moment(first)
        await driver.pass_by(3)
        assert len(driver.entries()) == 1
        await driver.check_moment(first)
        await driver.volume.close()
        assert check(driver.host, str(driver.path)).good

    play(scenario, place)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_tables_that_can_not_be_merged_hold_no_fold_up(number: int, place: Path) -> None:
    """Merging saves a look; it is not worth a client's write."""

    async def scenario(driver: Pinned) -> None:
        pinned = await driver.snapshot("kept")
        await driver.pass_by(1, 2, 3)
        assert driver.entries() == [[4]]
        await driver.write(4, 5)
        await driver.fill()
        assert await driver.fold()
        assert driver.entries() == [[4, 2]]
        await driver.write(6)
        await driver.fill()
        driver.faults.once("pwritev", ".map", number)
        assert await driver.fold()
        assert driver.entries() == [[4, 2, 1]]
        await driver.check_moment(pinned)
        await driver.folded()
        assert driver.entries() == [[7]], "later ones are merged again"
        await driver.check_moment(pinned)

    play(scenario, place)
