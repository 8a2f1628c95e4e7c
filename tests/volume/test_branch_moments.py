"""Snapshots that were taken on what a copy wrote alone can be read on its branch."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST, block_digests
from revolume.blocks.numbers import Address, WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapMeta
from revolume.chain.versions import Fragment, NewestVersions
from revolume.errors import Damaged, NotFound
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.sample_volume import SimProcess
from revolume.volume.branches.branch_files import BranchFiles
from revolume.volume.branches.moment_source import MomentSource
from revolume.volume.branches.names import names_not_kept
from revolume.volume.branches.steps import MOMENTS_MAX, Step, fitting, room_for_steps
from revolume.volume.branches.taken_back import ChangedBlocks, Stage, TakingBack
from revolume.volume.livemap.reader import Reader
from revolume.volume.metadata.branch_edits import branched, pack_branch
from revolume.volume.metadata.branch_moment import BranchMoment
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Branch, Horizon, PinnedSnapshot, State
from revolume.volume.metadata.moment_edits import pack_snapshot
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions

from .diverged import NAME, Diverged
from .driver import BLOCK, SMALL
from .store import payload

pytestmark = pytest.mark.timeout(120)
MEMORY = Path("/dev/shm")
SIZE = 64 * BLOCK + 1024


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-branches-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


def play(place: Path, scenario: Callable[[Diverged], Awaitable[None]], options: OpenOptions = SMALL) -> None:
    async def run() -> None:
        driver = Diverged(real_host(), place / "v", SIZE, options)
        await driver.stand()
        await scenario(driver)

    asyncio.run(run())


def sound(driver: Diverged) -> None:
    assert not (problems := check(driver.host, str(driver.path)).problems), problems


def moments(branch: Branch | None) -> list[str]:
    assert branch is not None
    return [moment.name for moment in branch.moments]


@pytest.mark.parametrize("crashed", [False, True])
def test_every_snapshot_taken_alone_can_be_read_on_the_branch(place: Path, crashed: bool) -> None:
    """Before and after the copy follows, folds, is opened again and promoted; each with its own size."""

    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.volume.snapshot("at-the-point")
        await driver.alone(100)
        await driver.volume.snapshot("one")
        await driver.reopen()
        await driver.alone(101, points=5)
        await driver.volume.snapshot("two")
        await driver.volume.snapshot("two-again")
        await driver.grow(SIZE + 3 * BLOCK)
        await driver.write(65)
        await driver.volume.snapshot("larger")
        await driver.volume.drop_snapshot("two-again")
        await driver.alone(30)
        await driver.demoted(crashed)
        branch = await driver.rewound()
        assert moments(branch) == ["at-the-point", "one", "two", "larger"]
        assert branch is not None and not names_not_kept(branch)
        assert [moment.size for moment in branch.moments] == [SIZE, SIZE, SIZE, SIZE + 3 * BLOCK]
        seen = {driver.at(moment.write) for moment in branch.moments} | {driver.content(driver.model)}
        assert len(seen) == 5
        sound(driver)
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        for round_ in range(4):
            await driver.newer_writes(*range(round_, 60, 4))
            await driver.follow()
            while await copy.folder.step(True):
                pass
        assert copy.folder.horizon.write > driver.common.write
        await driver.check_branch(copy)
        with pytest.raises(NotFound):
            await driver.seen(copy, driver.common.write, NAME, "two-again")
        await copy.close()
        sound(driver)
        promoted = await open_volume(driver.host, str(driver.path), replace(driver.options, promote=True))
        await driver.check_branch(promoted)
        await promoted.drop_branch(NAME)
        assert not list((driver.path / "branches").iterdir())
        await promoted.close()
        await driver.new.close()

    play(place, scenario, replace(SMALL, keep_s=0.0))


def test_a_version_that_several_moments_have_is_stored_once(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.write(*range(20))
        await driver.volume.snapshot("one")
        await driver.write(3, 30)
        await driver.volume.snapshot("two")
        await driver.write(3)
        await driver.change([(OP_ZERO, 10 * BLOCK, 5 * BLOCK)])
        await driver.demoted()
        branch = await driver.rewound()
        assert branch is not None
        assert [moment.blocks for moment in branch.moments] == [20, 21] and branch.blocks == 21
        assert branch.data == 20 + 2 + 1 and branch.bytes == 23 * BLOCK
        (blocks,) = (driver.path / "branches").glob("*.blocks")
        assert blocks.stat().st_size == branch.bytes
        sound(driver)
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        await copy.close()
        await driver.new.close()

    play(place, scenario)


@pytest.mark.parametrize("ahead", [False, True])
def test_where_the_image_has_left_the_point_its_moments_are_what_was_rescued(place: Path, ahead: bool) -> None:
    """Some of them the image has left too; ``ahead``: others are in the log."""

    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.volume.snapshot("here")
        await driver.volume.mirrors.detach("m")
        await driver.alone(100)
        await driver.volume.snapshot("one")
        await driver.grow(SIZE + 3 * BLOCK)
        await driver.write(65, 3, 7)
        await driver.volume.snapshot("two")
        await driver.alone(31)
        await driver.cut()
        while await driver.fold():
            pass
        two = next(pin.write for pin in driver.volume.manifest.state.snapshots if pin.name == "two")
        assert driver.volume.folder.horizon.write > two
        if ahead:
            await driver.alone(20)
            await driver.volume.snapshot("three")
            await driver.alone(21)
            await driver.volume.snapshot("four")
        await driver.write(1)
        await driver.demoted()
        branch = await driver.rewound()
        assert moments(branch) == ["here", "one", "two", *(("three", "four") if ahead else ())]
        sound(driver)
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        await driver.newer_writes(3, 9, 20, 51)
        await driver.follow()
        while await copy.folder.step(True):
            pass
        await driver.check_branch(copy)
        await copy.close()
        sound(driver)
        await driver.new.close()

    play(place, scenario, replace(SMALL, keep_s=0.0))


def test_a_name_whose_moment_never_came_is_listed_only(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.write(4)
        await driver.volume.snapshot("one")
        await driver.write(5)
        later = PinnedSnapshot("later", WriteNumber(driver.volume.write + 100), 1000, 1)
        await driver.volume.manifest.record((EditKind.SNAPSHOT, pack_snapshot(later)))
        await driver.demoted()
        branch = await driver.rewound()
        assert moments(branch) == ["one"] and branch is not None and names_not_kept(branch) == ("later",)
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def test_of_more_names_than_it_may_hold_the_newest_can_be_read(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        for number in range(MOMENTS_MAX + 2):
            await driver.write(number)
            await driver.volume.snapshot(f"s{number}")
        await driver.demoted()
        branch = await driver.rewound()
        assert moments(branch) == [f"s{number}" for number in range(2, MOMENTS_MAX + 2)]
        assert branch is not None and names_not_kept(branch) == ("s0", "s1")
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        await copy.close()
        sound(driver)
        await driver.new.close()

    play(place, scenario)


def changed(*blocks: int) -> ChangedBlocks:
    return ChangedBlocks(np.array(blocks, np.uint64), Ranges())


def test_where_room_is_scarce_the_oldest_are_left_out() -> None:
    def pin(name: str) -> PinnedSnapshot:
        return PinnedSnapshot(name, WriteNumber(1), 1, 1)

    steps = [
        Step(WriteNumber(5), pin("one"), changed(1, 2, 3)),
        Step(WriteNumber(6), pin("two"), changed(2, 3)),
        Step(WriteNumber(7), None, changed(3, 4)),
    ]
    assert fitting(steps, room_for_steps(steps)) == steps
    two, end = fitting(steps, room_for_steps(steps) - 1)
    assert (two.after, two.pin, two.changed.blocks.tolist()) == (5, pin("two"), [1, 2, 3])
    assert end is steps[2]
    (only,) = fitting(steps, 0)
    assert (only.after, only.pin, only.changed.blocks.tolist()) == (5, None, [1, 2, 3, 4])


def test_a_disk_with_room_for_the_end_alone_keeps_that() -> None:
    """And as many moments as there is room for."""
    path = Path("/v")

    async def scenario(life: SimProcess) -> None:
        driver = Diverged(life.host, path, 4096 * BLOCK, replace(SMALL, spare_bytes=0))
        await driver.stand()
        await driver.part()
        for name in ("one", "two"):
            await driver.change([(OP_WRITE, 0, payload(ord(name[0]), 512 * BLOCK))])
            await driver.volume.snapshot(name)
            await driver.change([(OP_WRITE, 0, payload(77, 512 * BLOCK))])
        await driver.demoted()
        fill(life, 512 * BLOCK * 5 // 2)
        branch = await driver.rewound()
        assert moments(branch) == ["two"] and branch is not None and names_not_kept(branch) == ("one",)
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        await copy.close()
        await driver.new.close()

    with SimProcess(Platter(256 << 20), 1) as life:
        life.run(scenario(life))


def fill(life: SimProcess, left: int) -> None:
    """Take the disk's room, but for so many bytes."""
    folder = life.host.disk.open("/v")
    filler = folder.open("filler", create=True)
    filler.allocate(0, folder.free_bytes() - left)
    filler.close()
    folder.close()


@pytest.mark.parametrize("what", ["table", "version"])
def test_damage_to_a_moment_is_told_and_costs_nothing_else(place: Path, what: str) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.write(4)
        await driver.volume.snapshot("one")
        await driver.write(4)
        await driver.volume.snapshot("two")
        await driver.demoted()
        branch = await driver.rewound()
        assert branch is not None
        one = branch.moments[0]
        file = (
            driver.path / "branches" / (f"{one.table:08d}.map" if what == "table" else f"{branch.file:08d}.blocks")
        )
        content = bytearray(file.read_bytes())
        content[5000 if what == "table" else 100] ^= 1
        file.write_bytes(content)
        (problem,) = check(driver.host, str(driver.path)).problems
        assert problem.where.startswith(f"branch {NAME}, one")
        copy = await driver.open_copy()
        write = driver.common.write
        with pytest.raises(Damaged):
            await driver.seen(copy, write, NAME, "one")
        assert await driver.seen(copy, write, NAME, "two") == driver.at(branch.moments[1].write)
        assert await driver.seen(copy, write, NAME) == driver.content(driver.model)
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def test_what_the_log_has_lost_of_a_moment_is_lost_there_alone(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.write(4)
        lost = driver.model.blocks[4]
        await driver.volume.snapshot("one")
        await driver.write(4, 5)
        await driver.demoted()
        spoil(driver.path / "log", lost)
        branch = await driver.rewound()
        assert moments(branch) == ["one"]
        copy = await driver.open_copy()
        write = driver.common.write
        with pytest.raises(Damaged):
            await driver.seen(copy, write, NAME, "one")
        assert await driver.seen(copy, write, NAME) == driver.content(driver.model)
        await copy.close()
        (problem,) = check(driver.host, str(driver.path)).problems
        assert "1 of its blocks could not be read" in problem.what
        await driver.new.close()

    play(place, scenario)


def test_what_could_not_be_read_at_a_moment_is_tried_again_for_the_next(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.write(4)
        volume, directory = driver.volume, driver.volume.context.directory
        broken = Fragment(4, WriteNumber(1), 0, 512, 0, 0, 0)  # what was written over the block is not whole
        source = MomentSource(volume.write, NewestVersions(DeltaMap(), (broken,)), volume.image, volume.rescued)
        meta = MapMeta(volume.write, Address(0), 1)
        stages = [
            Stage(91, meta, changed(4), Reader(volume.store, source, volume.log.work), SIZE),
            Stage(90, meta, changed(), volume.reader, SIZE),
        ]
        written = await TakingBack(directory, 90, volume.log.work).write(volume.volume_id, stages)
        assert (written.data, written.blocks) == (2, (1, 1))
        held = BranchMoment("one", volume.write, 1, 1, SIZE, 91, 1)
        branch = Branch(NAME, Horizon(), volume.write, 1, SIZE, 1, 90, 90, 1, 2, 1, moments=(held,))
        digests = {}
        for table in branch.tables:
            with closing(BranchFiles(directory, volume.volume_id, branch, table)) as files:
                (piece,) = files.table.pieces()
                digests[table] = int(piece.digests[0])
        assert digests == {91: LOST_DIGEST, 90: block_digests(memoryview(driver.model.blocks[4]), 1)[0]}
        await volume.close()

    play(place, scenario)


def spoil(log: Path, content: bytes) -> None:
    """Change one bit of it, wherever it lies."""
    for file in log.iterdir():
        held = bytearray(file.read_bytes())
        at = held.find(content)
        if at >= 0:
            held[at + 10] ^= 1
            file.write_bytes(held)


OLDER = (
    "03000000000000002800000000000000320000000000000000000000000000000700000000000000002000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000000000003c000000000000000900000000000000"
    "00200000000000000b00000000000000040000000000000004000000000000000200000000000000010000000000000014000000"
    "00000000050000000000000000000000050000000700000000000000616c6f6e656f6e650a74776f"
)


def test_the_record_of_an_older_branch_names_no_moments() -> None:
    (older,), following = branched(State(), bytes.fromhex(OLDER))
    assert (older.name, older.snapshots, older.moments, following) == ("alone", ("one", "two"), (), 5)
    assert names_not_kept(older) == ("one", "two") and older.tables == (4,)
    assert pack_branch(older, 5).hex() == OLDER


def test_the_record_of_a_branch_holds_its_moments() -> None:
    held = (
        BranchMoment("one", WriteNumber(41), 4, 8, 8192, 5, 1),
        BranchMoment("two", WriteNumber(50), 6, 9, 12288, 6, 3),
    )
    made = Branch("b", Horizon(), WriteNumber(60), 9, 8192, 11, 4, 4, 2, 1, 20, (), ("one", "two"), held)
    packed = pack_branch(made, 7)
    (found,), following = branched(State(), packed)
    assert (found, following) == (made, 7) and found.tables == (4, 5, 6)
    for short in (packed[:-1], packed + b"x"):
        with pytest.raises(Damaged):
            branched(State(), short)
