"""A diverged copy takes back what it wrote alone, keeps it as a branch, and goes on as a mirror."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.blocks.numbers import Position
from revolume.errors import Damaged, NoSpace, NotFound, Refused, RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host import real_host
from revolume.offline.check.check import check
from revolume.offline.salvage.salvage import salvage
from revolume.pace.pacer import Pacer
from revolume.volume.branches.common_point import CommonPoint, CutPlace
from revolume.volume.branches.names import BRANCHES_MAX
from revolume.volume.branches.rewound import Found, Names, rewound_edits
from revolume.volume.metadata.manifest import load, parse, read_file
from revolume.volume.metadata.manifest_edits import EditKind, apply, pack_number
from revolume.volume.metadata.manifest_state import Horizon, Mark, State
from revolume.volume.open.demote import demote_directory
from revolume.volume.open.directory_state import stated
from revolume.volume.open.drop_branch import drop_branch_stopped
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions
from revolume.volume.open.rewind import rewind

from .diverged import NAME, Diverged
from .driver import BLOCK, SMALL, climb
from .driver import SEGMENT as SMALL_SEGMENT
from .faulty import Faults, FaultyDisk, io_error
from .mirrored import abandon_secondary
from .store import inline_host

pytestmark = pytest.mark.timeout(120)
LARGE = 1 << 20
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


@pytest.mark.parametrize("crashed", [False, True])
def test_what_the_old_primary_wrote_alone_is_a_branch_and_it_follows_the_new_one(
    place: Path, crashed: bool
) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(1000, points=5)
        await driver.reopen()
        await driver.grow(SIZE + 3 * BLOCK)
        await driver.write(65)
        await driver.demoted(crashed)
        branch = await driver.rewound()
        assert branch is not None and branch.writes >= 1000
        assert not (problems := check(real_host(), str(driver.path)).problems), problems
        copy = await driver.open_copy()
        assert copy.agreed.number == driver.common.number and copy.newest[0] == driver.common.write
        assert not copy.manifest.state.mirrors
        agreed = copy.manifest.state.agreed
        assert (agreed.point, agreed.position, agreed.write) == (
            driver.common.number, copy.end.position, driver.common.write
        )  # fmt: skip
        await driver.check_branch(copy)
        await driver.newer_writes(3, 9, 20, 51)
        await driver.follow()
        await driver.check_branch(copy)
        await copy.close()
        assert not (problems := check(real_host(), str(driver.path)).problems), problems
        await driver.new.close()

    play(place, scenario)


def test_rungs_of_what_was_taken_back_are_gone_and_the_others_stay(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        for turn in range(5):
            await driver.write(*range(turn, 40, 6))
            await driver.cut()
        await driver.ship()
        await driver.settle()
        await driver.part()
        before = await climb(driver.volume)
        await driver.alone(300, points=5)
        assert len(await climb(driver.volume)) > len(before) > 2
        await driver.demoted()
        assert await driver.rewound() is not None
        kept = stated(real_host().disk, str(driver.path)).rungs
        assert kept and set(kept) <= set(before)
        assert all(rung.point <= driver.common.number for rung in kept)
        copy = await driver.open_copy()
        assert copy.rungs.usable() == kept
        for number in sorted(driver.model.moments):
            if number in {point.write for point in copy.points()}:
                assert await driver.seen(copy, number) == driver.model.content(*driver.model.moments[number])
        await driver.newer_writes(*range(1, 50, 3))
        await driver.follow()
        await climb(copy)
        assert await driver.seen(copy, copy.agreed.write) == driver.content(driver.newer)
        await driver.check_branch(copy)
        await copy.close()
        assert not (problems := check(real_host(), str(driver.path)).problems), problems
        await driver.new.close()

    play(place, scenario)


def test_a_scrub_reads_branches(place: Path) -> None:
    """Nobody else has what lies there: damage is named, and counts as not healed."""

    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(60, points=2)
        await driver.demoted()
        branch = await driver.rewound()
        assert branch is not None
        copy = await driver.open_copy()

        async def found() -> tuple[str, ...]:
            clock = copy.context.host.clock
            return (await copy.scrubber.run((Pacer(clock),), lambda stage, done, total: None)).found

        assert await found() == ()
        folder = driver.path / "branches"
        blocks, table = folder / f"{branch.file:08d}.blocks", folder / f"{branch.table:08d}.map"
        for path, offset in ((blocks, 3 * BLOCK + 7), (table, BLOCK + 100)):
            with path.open("r+b") as file:
                file.seek(offset)
                byte = file.read(1)[0]
                file.seek(offset)
                file.write(bytes([byte ^ 1]))
            (told,) = await found()
            assert f"branches/{path.name}" in told and "nobody has put it right" in told
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(bytes([byte]))
        assert await found() == ()
        await copy.close()
        await driver.new.close()

    play(place, scenario)


@pytest.mark.parametrize("segment", [SMALL_SEGMENT, LARGE])
@pytest.mark.parametrize("writes", [3, 60, 400])
def test_recovery_never_takes_up_what_was_cut_off(place: Path, segment: int, writes: int) -> None:
    """The log is cut in the middle of a segment, whose file goes on to hold the old one, whole and valid. After a
    kill -9 at once, and again when the new one's log has come, recovery finds what stands and no more."""

    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(writes)
        await driver.demoted()
        assert await driver.rewound() is not None
        state = stated(driver.host.disk, str(driver.path))
        (end,) = [end for use, end in state.ends.items() if use == max(u for u in state.uses.values())]
        assert 0 < end < segment // BLOCK
        for _ in range(2):
            copy = await driver.open_copy()
            assert copy.end.position == state.cut.position == copy.durable
            await abandon_secondary(copy)
        copy = await driver.open_copy()
        for _ in range(3):
            await driver.newer_writes(3, 9, 20, 51)
            await driver.follow()
            end = copy.end
            await abandon_secondary(copy)
            assert not (problems := check(driver.host, str(driver.path)).problems), problems
            copy = await driver.open_copy()
            assert copy.end == end
            await driver.check_branch(copy)
        await driver.follow()
        await copy.close()
        copy = await driver.open_copy()  # after a clean stop
        await driver.follow()
        await driver.check_branch(copy)
        await copy.close()
        await driver.new.close()

    play(place, scenario, replace(SMALL, segment_bytes=segment, spare_bytes=4 * segment))


def test_a_branch_that_begins_at_the_image_s_own_point(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.volume.snapshot("here")  # a fold stops there
        await driver.volume.mirrors.detach("m")
        await driver.alone(50)
        while driver.volume.folder.horizon.point < driver.common.number:
            assert await driver.fold()
        assert driver.volume.folder.horizon.point == driver.common.number
        await driver.demoted()
        assert await driver.rewound() is not None
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        await driver.newer_writes(1, 2)
        await driver.follow()
        await abandon_secondary(copy)
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def test_folds_stop_at_the_common_point_and_rescue(place: Path) -> None:
    """The copy's image goes on with the new primary's log; the branch is what it was."""

    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(60)
        await driver.demoted()
        assert await driver.rewound() is not None
        copy = await driver.open_copy()
        for round_ in range(4):
            await driver.newer_writes(*range(round_, 60, 4))
            await driver.follow()
            while await copy.folder.step(True):
                pass
        assert copy.folder.horizon.write > driver.common.write
        await driver.check_branch(copy)
        held = [each for each in copy.holders.all() if each.name == f"branch {NAME}"]
        assert [(each.write, each.pinned) for each in held] == [(driver.common.write, True)]
        await copy.close()
        assert not (problems := check(driver.host, str(driver.path)).problems), problems
        promoted = await open_volume(driver.host, str(driver.path), replace(driver.options, promote=True))
        await driver.check_branch(promoted)
        await promoted.close()
        await driver.new.close()

    play(place, scenario, replace(SMALL, keep_s=0.0))


def test_nothing_written_alone_is_no_branch(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.reopen()  # an opening of its own, and no write
        await driver.demoted()
        assert await driver.rewound() is None
        copy = await driver.open_copy()
        assert not copy.manifest.state.branches
        await driver.newer_writes(4)
        await driver.follow()
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def test_names_given_alone_go_with_the_branch_and_names_dropped_alone_come_back(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.volume.snapshot("shared")
        await driver.ship()
        await driver.part()
        await driver.volume.snapshot("at-the-point")
        await driver.alone(20)
        await driver.volume.snapshot("later")
        await driver.volume.drop_snapshot("shared")
        await driver.demoted()
        branch = await driver.rewound()
        assert branch is not None and set(branch.snapshots) == {"at-the-point", "later"}
        copy = await driver.open_copy()
        assert {pin.name for pin in copy.manifest.state.snapshots} == {"shared"}
        await driver.follow()
        await driver.new.snapshot("later")
        await driver.follow()
        assert copy.manifest.state.snapshots == driver.new.manifest.state.snapshots
        await copy.close()
        await driver.new.close()

    play(place, scenario)


async def _unchanged(driver: Diverged, code: str, common: CommonPoint, name: str = "other") -> None:
    before = stated(driver.host.disk, str(driver.path))
    with pytest.raises(RevolumeError) as refused:
        await rewind(driver.host, str(driver.path), driver.options, common, name)
    assert refused.value.code == code and refused.value.hint
    after = stated(driver.host.disk, str(driver.path))
    assert (after.agreed, after.epochs, after.branches, after.uses) == (
        before.agreed, before.epochs, before.branches, before.uses
    )  # fmt: skip


def test_what_can_not_be_taken_back_is_refused_and_nothing_changes(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(30)
        later = await driver.cut()
        await driver.volume.close()
        common = driver.common_point()
        await _unchanged(driver, "is-primary", common)
        await demote_directory(driver.host, str(driver.path), driver.options)
        await _unchanged(driver, "not-common", replace(common, chain=bytes(16)))
        await _unchanged(driver, "not-common", replace(common, number=later.number + 1))
        await _unchanged(driver, "bad-branch-name", common, "a b")
        assert await driver.rewound() is not None
        await _unchanged(driver, "branch-exists", common, NAME)
        await driver.new.close()

    play(place, scenario, replace(SMALL, keep_s=0.0))


def test_a_copy_can_be_taken_back_to_its_very_beginning(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(30)
        await driver.demoted()
        first = CommonPoint(0, Position(0), bytes(16))
        branch = await rewind(driver.host, str(driver.path), driver.options, first, NAME)
        assert branch is not None
        copy = await driver.open_copy()
        assert (copy.end.position, copy.agreed.number) == (0, 0)
        assert await driver.seen(copy, 0, NAME) == driver.content(driver.model)
        assert await driver.seen(copy, 0) == bytes(SIZE)
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def test_an_image_that_has_gone_beyond_the_point_is_refused(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.volume.mirrors.detach("m")
        await driver.alone(30)
        await driver.cut()
        while await driver.fold():
            pass
        assert driver.volume.folder.horizon.point > driver.common.number
        await driver.demoted()
        await _unchanged(driver, "branch-point-passed", driver.common_point())
        await driver.new.close()

    play(place, scenario, replace(SMALL, keep_s=0.0))


def _salvaged(driver: Diverged, place: Path) -> bytes:
    out = place / "out"
    report = salvage(driver.host, str(driver.path), str(out))
    assert report.good, report
    found = out.read_bytes()
    out.unlink()
    return found


def test_the_manifest_has_all_of_it_or_nothing(place: Path) -> None:
    """However much of its last write a power cut leaves."""

    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(30)
        await driver.demoted()
        await driver.rewound()
        with closing(driver.host.disk.open(str(driver.path))) as directory:
            loaded = load(directory)
            data = read_file(directory, loaded.name)
        short = [parse(loaded.name, data[: len(data) - cut]) for cut in range(1, 1200)]
        states = [found.state for found in short if found is not None]
        assert len(states) > 500
        assert not any(state.branches or state.cut.edit for state in states)
        assert {state.agreed for state in states} != {loaded.state.agreed}
        await driver.new.close()

    play(place, scenario)


def test_what_an_attempt_has_left_is_removed_when_the_copy_is_opened(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(5)
        await driver.demoted()
        await driver.rewound()
        named = sorted(path.name for path in (driver.path / "branches").iterdir())
        (driver.path / "branches" / "00000077.blocks").write_bytes(bytes(BLOCK))
        copy = await driver.open_copy()
        assert sorted(path.name for path in (driver.path / "branches").iterdir()) == named
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def test_salvage_leaves_out_what_was_cut_off(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(60)
        await driver.demoted()
        assert _salvaged(driver, place) == driver.content(driver.model)
        await driver.rewound()
        assert _salvaged(driver, place) == driver.at(driver.common.write)
        copy = await driver.open_copy()
        await driver.newer_writes(3, 9)
        await driver.follow()
        await copy.close()
        assert _salvaged(driver, place) == driver.content(driver.newer)
        await driver.new.close()

    play(place, scenario, replace(SMALL, segment_bytes=LARGE))


@pytest.mark.parametrize("what", ["map", "blocks"])
def test_damage_to_a_branch_is_told_and_costs_nothing_else(place: Path, what: str) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(60)
        await driver.demoted()
        await driver.rewound()
        (file,) = (driver.path / "branches").glob(f"*.{what}")
        content = bytearray(file.read_bytes())
        content[5000] ^= 1
        file.write_bytes(content)
        (problem,) = check(driver.host, str(driver.path)).problems
        assert problem.where.startswith(f"branch {NAME}")
        copy = await driver.open_copy()
        with pytest.raises(Damaged):
            await driver.seen(copy, driver.common.write, NAME)
        assert await driver.seen(copy, driver.common.write) == driver.at(driver.common.write)
        await driver.follow()
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def test_a_disk_that_is_full_at_any_write_changes_nothing(place: Path) -> None:
    """From the n-th write on there is no room; for every n until it is done."""

    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(30)
        await driver.volume.snapshot("within")
        await driver.alone(31)
        await driver.demoted()
        before = stated(driver.host.disk, str(driver.path))
        faults, refused = Faults(), 0
        driver.host = inline_host(FaultyDisk(faults))
        while True:
            left = [refused + 1]
            faults.fail = lambda operation, name, left=left: _no_room(operation, left)  # type: ignore[misc]
            try:
                assert await driver.rewound() is not None
                break
            except NoSpace as error:
                assert error.hint
            faults.never()
            after = stated(driver.host.disk, str(driver.path))
            assert (after.agreed, after.branches, after.cut) == (before.agreed, (), before.cut), refused
            folder = driver.path / "branches"
            assert not folder.exists() or not list(folder.iterdir())
            refused += 1
        faults.never()
        assert refused > 4
        copy = await driver.open_copy()
        await driver.check_branch(copy)
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def _no_room(operation: str, left: list[int]) -> OSError | None:
    if operation in ("pwritev", "allocate"):
        left[0] -= 1
        return io_error(errno.ENOSPC) if left[0] <= 0 else None
    return None


def test_a_dropped_branch_gives_its_room_back(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        await driver.alone(60)
        await driver.demoted()
        await driver.rewound("first")
        assert len(list((driver.path / "branches").iterdir())) == 2
        copy = await driver.open_copy()
        view = await open_view(copy, ResolvedMoment(driver.common.write, 0, branch="first"), "test")  # type: ignore[arg-type]
        await copy.drop_branch("first")
        assert not list((driver.path / "branches").iterdir())
        buffer = bytearray(view.size)
        await view.reader.read(0, memoryview(buffer))  # what is open stays readable
        assert bytes(buffer) == driver.content(driver.model)
        view.close()
        assert [each.name for each in copy.holders.all()] == ["mirror m"]  # of before it was demoted
        with pytest.raises(NotFound):
            await copy.drop_branch("first")
        await copy.close()
        await driver.new.close()

    play(place, scenario)


def test_a_seventeenth_branch_is_refused_with_the_command_that_helps(place: Path) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.part()
        for number in range(BRANCHES_MAX):
            if number:
                await driver.open()
            await driver.alone(3)
            await driver.demoted()
            assert await driver.rewound(f"b{number}") is not None
            copy = await driver.open_copy()
            await copy.close()
            driver.options = replace(driver.options, promote=True)
            driver.model.roll_back(driver.common.write)
        await driver.open()
        await driver.alone(3)
        await driver.volume.close()
        driver.options = replace(driver.options, promote=False)
        await demote_directory(driver.host, str(driver.path), driver.options)
        with pytest.raises(Refused) as refused:
            await driver.rewound("one-more")
        assert refused.value.code == "too-many-branches"
        assert f"revolume branch drop {driver.path} b0" in refused.value.hint
        drop_branch_stopped(driver.host, str(driver.path), "b0")
        assert await driver.rewound("one-more") is not None
        assert not (problems := check(driver.host, str(driver.path)).problems), problems
        await driver.new.close()

    play(place, scenario)


@pytest.mark.parametrize("fold_begun", [False, True])
def test_where_the_image_has_left_the_point_the_copy_goes_back_by_what_was_rescued(
    place: Path, fold_begun: bool
) -> None:
    async def scenario(driver: Diverged) -> None:
        await driver.volume.snapshot("older")
        await driver.ship()
        older = driver.volume.write
        await driver.part()
        await driver.volume.snapshot("here")
        await driver.volume.mirrors.detach("m")
        await driver.alone(200)
        await driver.grow(SIZE + 3 * BLOCK)
        await driver.write(65, 3, 7)
        await driver.volume.snapshot("later")
        await driver.alone(30)
        await driver.cut()
        while await driver.fold():
            pass
        assert driver.volume.folder.horizon.point > driver.common.number
        await driver.write(1)
        if fold_begun:
            point = await driver.cut()
            await driver.volume.manifest.record((EditKind.FOLDING, pack_number(point.write)))
        await driver.demoted(crashed=fold_begun)
        branch = await driver.rewound()
        assert branch is not None and set(branch.snapshots) == {"here", "later"}
        assert not (problems := check(driver.host, str(driver.path)).problems), problems
        copy = await driver.open_copy()
        assert (copy.agreed.number, copy.end.position) == (driver.common.number, driver.common.position)
        await driver.check_branch(copy)
        assert await driver.seen(copy, older) == driver.at(older)
        assert {pin.name for pin in copy.manifest.state.snapshots} == {"older"}
        await copy.close()
        assert not (problems := check(driver.host, str(driver.path)).problems), problems
        copy = await driver.open_copy()
        await driver.newer_writes(3, 9, 20, 51)
        await driver.follow()
        while await copy.folder.step(True):
            pass
        await driver.check_branch(copy)
        assert await driver.seen(copy, older) == driver.at(older)
        await copy.close()
        assert not (problems := check(driver.host, str(driver.path)).problems), problems
        await driver.new.close()

    play(place, scenario, replace(SMALL, keep_s=0.0))


def test_what_was_known_or_promised_of_the_log_that_is_gone_counts_no_more() -> None:
    state = State(segment_blocks=16, names_position=Position(100), owes=Position(90))
    place = CutPlace(Horizon(point=3, position=Position(40)), Mark(position=Position(42)), 5, 7)
    for edit in rewound_edits(state, 8, place, Found(None, Names()), None):
        state = apply(state, *edit)
    assert (state.names_position, state.owes) == (42, 43)
    assert (state.cut.edit, state.cut.position, state.ends) == (9, 42, {5: 7})
