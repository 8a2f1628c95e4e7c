"""What becomes of snapshots, openings, members and lost blocks when a copy jumps."""

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

from revolume.blocks.digest import LOST_DIGEST, digest_array
from revolume.blocks.root import add, subtract
from revolume.errors import Damaged
from revolume.host import real_host
from revolume.host.disk import Directory
from revolume.offline.check.check import check
from revolume.volume.jump.apply_job import apply_jump
from revolume.volume.jump.jump_tables import JumpTables
from revolume.volume.jump.landing import apply_spec, landed, landing_edits, owner
from revolume.volume.metadata.fork import Fork
from revolume.volume.metadata.layout import RESCUE
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_edits import EditKind, pack_fork
from revolume.volume.metadata.manifest_state import Member, MirrorMode, MirrorState, PinnedSnapshot
from revolume.volume.metadata.node_edits import pack_member
from revolume.volume.metadata.rescue_edits import pack_rescue
from revolume.volume.metadata.resync_point import ResyncPoint, pack_resync_point
from revolume.volume.rescue.rescue_job import rescue
from revolume.volume.rescue.rescue_owner import rescue_spec, with_rescued

from .driver import BLOCK, abandon
from .jumping import Jumper

MEMORY = Path("/dev/shm")
BLOCKS = 128
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-jump-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


def play(scenario: Callable[[Jumper], Awaitable[None]], place: Path) -> None:
    async def run() -> None:
        host = real_host()
        driver = Jumper(host, place / "v", BLOCKS * BLOCK)
        await driver.stand()
        try:
            await scenario(driver)
        finally:
            if driver.secondary is not None and not driver.secondary._closing:
                await driver.secondary.close()
            await abandon(driver.volume)
            await host.work.close()

    asyncio.run(run())


async def named(driver: Jumper, name: str) -> int:
    await driver.volume.snapshot(name)
    return driver.volume.write


def names(pins: tuple[PinnedSnapshot, ...]) -> set[str]:
    return {pin.name for pin in pins}


async def on_to(driver: Jumper, *blocks: int) -> None:
    """These are written, and the copy jumps there."""
    await driver.write(*blocks)
    await driver.jump(await driver.cut())


def test_what_was_rescued_for_a_moment_that_nobody_pins_goes_with_the_next_jump(place: Path) -> None:
    """Else it would be read with what the jump has overwritten since."""

    async def scenario(driver: Jumper) -> None:
        pin = await pinned(driver, EditKind.RESYNC_POINT, b"away")
        await on_to(driver, 1, 2, 3)
        await driver.check_mirror_moment(pin)
        await driver.copy.manifest.record((EditKind.DROP_RESYNC_POINT, b"away"))
        await on_to(driver, 4, 5)
        assert not driver.copy.manifest.state.rescues
        await driver.copy.close()
        assert not check(driver.host, str(driver.there)).problems

    play(scenario, place)


def test_where_a_copy_was_promoted_once_stays_readable_behind_jumps(place: Path) -> None:
    """Members that it has not seen since may have gone another way behind it."""

    async def scenario(driver: Jumper) -> None:
        pin = await pinned(driver, EditKind.FORK)
        await on_to(driver, 1, 2, 3)
        await on_to(driver, 4, 5)
        await driver.check_mirror_moment(pin)
        await driver.copy.close()
        assert not check(driver.host, str(driver.there)).problems

    play(scenario, place)


async def pinned(driver: Jumper, kind: EditKind, name: bytes = b"") -> int:
    """Where the copy stands, pinned by such an edit; its write."""
    agreed = driver.copy.agreed
    if kind == EditKind.FORK:
        body = pack_fork(Fork(1, agreed.number, agreed.write))
    else:
        body = pack_resync_point(ResyncPoint(name.decode(), bytes(16), agreed.number, agreed.write))
    await driver.copy.manifest.record((kind, body))
    return agreed.write


def test_snapshots_of_the_copy_keep_their_bytes(place: Path) -> None:
    """One that the horizon has left, one at the common point, one of which the copy has not heard
    there, one between the two; and all that stands at the new
    point or comes behind it."""

    async def scenario(driver: Jumper) -> None:
        first = await named(driver, "first")
        await driver.write(1, 2, 3)
        second = await named(driver, "second")
        await driver.write(2, 4)
        common = await named(driver, "common")
        await driver.catch_up()
        assert await named(driver, "late") == common
        await driver.write(1, 2, 3, 4, 5)
        await named(driver, "between")
        await driver.write(5, 6)
        at = await named(driver, "at")
        point = driver.volume.retained.newest
        assert point is not None and point.write == at
        await driver.write(7)
        behind = await named(driver, "behind")
        await driver.jump(point)
        state = driver.copy.manifest.state
        assert names(state.snapshots) == {"first", "second", "common", "late", "at", "behind"}
        assert names(state.lacking) == {"between"}
        for write in (first, second, common, at):
            await driver.check_mirror_moment(write)
        await driver.catch_up()
        await driver.check_mirror_moment(behind)
        for turn in range(3):  # and they are pinned: what is folded from now on is rescued
            await driver.write(*range(turn, 60))
            await driver.cut()
            await driver.catch_up()
            while await driver.copy.folder.step(True):
                pass
        assert driver.copy.folder.horizon.write > behind
        for write in (first, second, common, at, behind):
            await driver.check_mirror_moment(write)
        await driver.copy.close()
        assert not check(driver.host, str(driver.there)).problems

    play(scenario, place)


def test_a_landing_of_which_only_the_last_edit_is_missing_rescues_nothing_more(place: Path) -> None:
    """The image is the new point's already: what it holds is overwritten by the same."""

    async def scenario(driver: Jumper) -> None:
        kept = await named(driver, "kept")
        await driver.catch_up()
        await driver.write(1, 2)
        await named(driver, "at")
        point = driver.volume.retained.newest
        assert point is not None
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        await driver.copy.finish_jump()
        await driver.copy.close()
        with closing(driver.host.disk.open(str(driver.there))) as directory:
            await landed_but_for_its_last_edit(driver, directory)
        await driver.reopen_mirror()
        assert [rescue.moment.write for rescue in driver.copy.manifest.state.rescues] == [kept]
        await driver.check_at(point)
        await driver.check_mirror_moment(kept)

    play(scenario, place)


async def landed_but_for_its_last_edit(driver: Jumper, directory: Directory) -> None:
    manifest = Manifest.opened(directory)
    manifest.renew()
    state, path, work = manifest.state, str(driver.there), driver.host.work
    jump = state.jumped
    assert jump is not None
    moment = owner(state, jump)
    assert moment is not None
    done = await work.job(rescue, rescue_spec(state, moment, path, JumpTables.of(jump)))
    made = with_rescued(moment, done, state.next_rescue)
    manifest.record((EditKind.RESCUE, pack_rescue(made, state.next_rescue + 1)))
    await work.job(apply_jump, apply_spec(state, jump, path))
    manifest.record(*landing_edits(manifest.state, jump)[:-1])
    assert landed(manifest.state, jump)
    manifest.close()


def test_a_dropped_snapshot_goes_and_what_was_rescued_for_it(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await named(driver, "gone")
        await driver.write(*range(40))
        await driver.cut()
        kept = await named(driver, "kept")
        await driver.write(*range(40))
        await driver.cut()
        await driver.catch_up()
        await driver.volume.drop_snapshot("gone")
        await driver.write(*range(20, 50))
        point = await driver.cut()
        await driver.jump(point)
        assert names(driver.copy.manifest.state.snapshots) == {"kept"} and not driver.copy.manifest.state.lacking
        await driver.check_mirror_moment(kept)
        await driver.copy.folder.step()
        assert [rescue.moment.write for rescue in driver.copy.manifest.state.rescues] == [kept]
        await driver.check_mirror_moment(kept)

    play(scenario, place)


def test_a_copy_without_snapshots_rescues_nothing(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1, 2)
        await driver.jump(await driver.cut())
        assert not driver.copy.manifest.state.rescues and not (driver.there / RESCUE).exists()

    play(scenario, place)


def test_a_name_that_was_given_again_is_of_the_new_moment(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await named(driver, "daily")
        await driver.catch_up()
        await driver.write(1)
        await driver.volume.drop_snapshot("daily")
        await named(driver, "daily")
        await driver.write(2)
        point = await driver.cut()
        await driver.jump(point)
        state = driver.copy.manifest.state
        assert not state.snapshots
        (lacking,) = state.lacking
        assert (lacking.name, lacking.write) == ("daily", driver.volume.manifest.state.snapshots[0].write)
        await driver.write(3)
        await driver.volume.drop_snapshot("daily")
        await driver.cut()
        await driver.catch_up()
        assert not driver.copy.manifest.state.lacking

    play(scenario, place)


def test_openings_and_members_are_the_sources(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1)
        await driver.crash()
        await driver.write(2)
        await driver.reopen()
        await driver.write(3)
        point = await driver.cut()
        members = (Member("p", b"p" * 16, "p:1", None, True), Member("m", b"m" * 16, "m:1", MirrorMode.SYNC, True))
        target = replace(driver.target(point), members=members)
        await driver.copy.begin_jump(target)
        await driver.send(point)
        await driver.finish()
        state = driver.copy.manifest.state
        assert state.epochs == target.epochs and len(state.epochs) == 3
        assert state.members == members and state.names_position == target.names_position
        assert driver.copy.known_epoch == (driver.volume.epoch, driver.volume.log.appender.reign)
        assert await driver.copy.feed.identity_at(point.position) == (*driver.copy.known_epoch, point.chain)

    play(scenario, place)


def test_a_former_primary_has_no_mirrors_any_more(place: Path) -> None:
    """It was made a mirror's copy, and another primary has been since."""

    async def scenario(driver: Jumper) -> None:
        mirror = pack_member(MirrorState.unjoined("x", MirrorMode.ASYNC))
        await driver.copy.manifest.record((EditKind.MEMBER, mirror))
        await driver.write(1)
        point = await driver.cut()
        await driver.jump(point)
        assert not driver.copy.manifest.state.mirrors
        await driver.check_at(point)

    play(scenario, place)


def test_what_is_known_of_names_by_now_is_taken_when_it_goes_on(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(*range(40))
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point, stop_at=20)
        await driver.copy.settle_jump()
        before = driver.copy.jump
        assert before is not None and before.next_block
        await driver.write(99)
        await named(driver, "later")
        await driver.copy.begin_jump(driver.target(point))
        now = driver.copy.jump
        assert now is not None and now.next_block == before.next_block
        await driver.send(point)
        await driver.finish()
        await driver.check_at(point)
        assert names(driver.copy.manifest.state.snapshots) == {"later"}
        await driver.catch_up()
        assert names(driver.copy.manifest.state.snapshots) == {"later"}

    play(scenario, place)


def test_a_block_that_is_lost_at_the_source_is_lost_here(place: Path) -> None:
    """It travels as zeroes; a read of it is an error and never zeroes."""

    async def scenario(driver: Jumper) -> None:
        await driver.write(1, 2)
        point = await driver.cut()
        changed = driver.changed(driver.copy.agreed.write, point.write)
        digests = np.array([LOST_DIGEST, digest_array(memoryview(changed[2]), 1)[0]], np.uint64)
        blocks = np.array([1, 2], np.uint64)
        there, old = driver.copy, driver.model.moments[driver.copy.agreed.write][1]
        root = subtract(there.agreed.root, blocks, digest_array(memoryview(old[1] + old[2]), 2))
        root = add(root, blocks, digests)
        target = driver.target(point)
        target = replace(target, point=replace(target.point, root_low=root[0], root_high=root[1]))
        await there.begin_jump(target)
        await there.put_jump(blocks, digests, bytes(BLOCK) + changed[2], BLOCKS)
        await driver.finish()
        assert not any("not what arrived" in event.message for event in driver.copy.events.all())
        with pytest.raises(Damaged):
            await driver.copy.reader.read(BLOCK, memoryview(bytearray(BLOCK)))
        buffer = bytearray(BLOCK)
        await driver.copy.reader.read(2 * BLOCK, memoryview(buffer))
        assert bytes(buffer) == changed[2]

    play(scenario, place)


def test_a_block_that_rots_after_the_flip_is_an_error_and_not_wrong_bytes(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1, 2)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        await driver.copy.finish_jump()
        await driver.copy.close()
        with open(driver.there / "jump" / "blocks", "r+b") as file:
            file.write(b"rot")
        assert [p.where for p in check(driver.host, str(driver.there)).problems] == ["jump/blocks block 0"]
        await driver.reopen_mirror()
        assert any("not what arrived" in event.message for event in driver.copy.events.all())
        with pytest.raises(Damaged):
            await driver.copy.reader.read(BLOCK, memoryview(bytearray(BLOCK)))
        buffer = bytearray(BLOCK)
        await driver.copy.reader.read(2 * BLOCK, memoryview(buffer))
        assert bytes(buffer) == driver.model.blocks[2]

    play(scenario, place)


def test_a_table_that_rots_after_the_flip_is_told_and_nothing_is_changed(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1, 2)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        await driver.copy.finish_jump()
        await driver.copy.close()
        (table,) = (driver.there / "jump").glob("*.map")
        with open(table, "r+b") as file:
            file.seek(4096 + 100)
            file.write(b"rot")
        assert f"jump/{table.name}" in [p.where for p in check(driver.host, str(driver.there)).problems]
        image = (driver.there / "image").read_bytes()
        with pytest.raises(Damaged, match="has jumped to"):
            await driver.reopen_mirror()
        assert (driver.there / "image").read_bytes() == image
        driver.secondary = None

    play(scenario, place)
