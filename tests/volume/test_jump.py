"""A copy that goes on by a jump: what it is before, what it is afterwards, and how it goes on."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.errors import GaveWay, Refused, RevolumeError
from revolume.history.offline_volume import open_offline
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host import Host, real_host
from revolume.host.shadow_disk import ShadowDisk, ShadowWork
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.mirror.source.gathered_facts import gather_facts, greeting
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.target.copy_description import describe_copy
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.mirror.wire.greeting_messages import Welcome, pack_welcome, unpack_welcome
from revolume.offline.check.check import check
from revolume.offline.salvage.salvage import salvage
from revolume.volume.jump.landing import after_landing, landing_edits
from revolume.volume.metadata.layout import JUMP
from revolume.volume.metadata.manifest import NAMES, load
from revolume.volume.metadata.manifest_edits import apply
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.resync_order import NO_ORDER
from revolume.volume.open.open import open_secondary, open_volume
from revolume.volume.secondary_status import secondary_status

from .driver import BLOCK, abandon, append, climb
from .jumping import Jumper
from .mirrored import THERE, abandon_secondary, read_all
from .store import payload

MEMORY = Path("/dev/shm")
BLOCKS = 128
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-jump-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


def play(scenario: Callable[[Jumper], Awaitable[None]], place: Path) -> None:
    """With a mirror that has all that its source has."""

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


def checked(driver: Jumper) -> None:
    report = check(driver.host, str(driver.there))
    assert not report.problems, report.problems


# What it comes to


def test_a_jump_is_the_source_by_bytes_and_by_root(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(3, 7, 100)
        await driver.change([(OP_ZERO, 16 * BLOCK, 4 * BLOCK)])
        await driver.change([(OP_WRITE, 40 * BLOCK + 512, payload(9, 1024))])
        point = await driver.cut()
        await driver.jump(point)
        await driver.check_at(point)
        there = driver.copy
        assert there.jump is None and not list((driver.there / JUMP).iterdir())
        assert there.oldest.write == point.write and there.end.position == point.position
        assert there.why_not_promotable == ""
        zeroed = (driver.there / "image").read_bytes()[16 * BLOCK : 20 * BLOCK]
        assert not any(zeroed), "their room is given back"
        await there.close()
        checked(driver)

    play(scenario, place)


def test_the_log_goes_on_behind_it_and_then_there_is_another(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        for turn in range(3):
            await driver.write(3, 60 + turn)
            await driver.change([(OP_WRITE, 50 * BLOCK + 100 * turn, payload(turn, 700))])
            point = await driver.cut()
            await driver.write(4)  # part of the log behind the point
            await driver.jump(point)
            await driver.write(5, 6)
            await driver.cut()
            await driver.catch_up()
            await driver.check_mirror()
        await driver.crash_mirror()
        await driver.catch_up()
        await driver.check_mirror()
        await driver.copy.close()
        checked(driver)
        await driver.check_promoted()

    play(scenario, place)


@pytest.mark.parametrize("writes", [0, 1])
def test_without_its_manifest_a_copy_that_jumped_is_salvaged_with_one_doubt(place: Path, writes: int) -> None:
    """The point's record did not come, so where the log goes on can't be known; what lies there of the log from
    before the jump is no gap."""

    async def scenario(driver: Jumper) -> None:
        await driver.write(*range(60))
        await driver.cut()
        await driver.catch_up()
        await driver.write(3, 60)
        point = await driver.cut()
        await driver.jump(point)
        await driver.copy.close()
        promoted = await open_volume(driver.host, str(driver.there), replace(THERE, promote=True))
        for at in range(writes):
            promoted.append([(OP_WRITE, at * BLOCK, BLOCK, memoryview(payload(99, BLOCK)))])
        content = await read_all(promoted)
        await promoted.close()
        for name in NAMES:
            (driver.there / name).unlink(missing_ok=True)
        report = salvage(driver.host, str(driver.there), str(place / "out"))
        assert (place / "out").read_bytes() == content
        doubts = [problem.what for problem in report.problems if problem.where == "log"]
        assert len(doubts) == 1 and "which the image stands for, is missing" in doubts[0], report.problems

    play(scenario, place)


def test_rungs_of_the_log_that_was_there_lead_nowhere(place: Path) -> None:
    """The log begins anew: what a rung says of places is of one that is gone."""

    async def scenario(driver: Jumper) -> None:
        for turn in range(6):
            await driver.write(*range(turn, 60, 7))
            await driver.cut()
        await driver.catch_up()
        assert await climb(driver.copy)
        await driver.check_mirror()
        await driver.write(3, 4)
        point = await driver.cut()
        await driver.jump(point)
        assert not driver.copy.manifest.state.rungs
        assert not [name for name in (driver.there / "maps").iterdir() if name.name.startswith("rung")]
        for turn in range(4):
            await driver.write(*range(turn, 60, 5))
            await driver.cut()
        await driver.catch_up()
        assert await climb(driver.copy)
        await driver.check_mirror()
        await driver.copy.close()
        checked(driver)

    play(scenario, place)


def test_a_volume_that_grew_has_grown(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1)
        await driver.grow((BLOCKS + 40) * BLOCK)
        await driver.write(BLOCKS + 39, BLOCKS + 2)
        point = await driver.cut()
        await driver.jump(point)
        assert driver.copy.size == (BLOCKS + 40) * BLOCK
        await driver.check_at(point)
        await driver.write(BLOCKS + 38)
        await driver.cut()
        await driver.catch_up()
        await driver.check_mirror()

    play(scenario, place)


def test_what_the_copy_has_beyond_its_point_is_dropped(place: Path) -> None:
    """Part of the log behind the common point has come, and is in the new one by other means."""

    async def scenario(driver: Jumper) -> None:
        await driver.write(1, 2, 3)
        await driver.ship()  # no point behind it yet
        await driver.write(2)
        point = await driver.cut()
        assert driver.copy.agreed.number == point.number - 1
        await driver.jump(point)
        await driver.check_at(point)
        await driver.crash_mirror()
        await driver.check_at(point)
        await driver.write(9)
        await driver.cut()
        await driver.catch_up()
        await driver.check_mirror()

    play(scenario, place)


def test_promoted_right_after_the_flip_it_writes_and_folds(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(3, 7)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        await driver.copy.finish_jump()
        await abandon_secondary(driver.copy)  # killed before it was opened again
        promoted = await open_volume(driver.host, str(driver.there), replace(THERE, promote=True))
        driver.equal(bytes(await read_all(promoted)), point.write)
        model = bytearray(await read_all(promoted))
        for turn in range(60):
            data = payload(turn, BLOCK)
            await append(promoted, [(OP_WRITE, turn * BLOCK, BLOCK, memoryview(data))])
            model[turn * BLOCK : (turn + 1) * BLOCK] = data
            if turn % 20 == 19:
                await promoted.point_maker.cut()
                await promoted.folder.step(True)
        assert promoted.folder.folds and promoted.folder.failure is None
        assert await read_all(promoted) == model
        await promoted.close()
        again = await open_volume(driver.host, str(driver.there), THERE)
        assert await read_all(again) == model
        await again.close()
        driver.secondary = None
        checked(driver)

    play(scenario, place)


def test_the_log_begins_anew_behind_every_segment_that_ever_was(place: Path) -> None:
    """So nothing of the old log is ever taken for the new one's. Done twice it is the same."""

    async def scenario(driver: Jumper) -> None:
        await driver.write(3, 7)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        await driver.copy.finish_jump()
        await driver.copy.close()
        flipped = stated_there(driver)
        jump = flipped.jumped
        assert jump is not None and any(flipped.uses.values())
        made = after_landing(flipped)
        assert not any(made.uses.values()) and set(made.uses) == set(flipped.uses)
        assert made.horizon.address == made.next_use * made.segment_blocks
        assert made.next_use == flipped.next_use > max(flipped.uses.values())
        assert made.durable.position == made.agreed.position == made.horizon.position == point.position
        assert made.clean is None and made.jump is None and not made.base_map and not made.ends
        edits = landing_edits(flipped, jump)
        for whole in range(len(edits)):  # a crash left the first of them
            partly = reduce(lambda state, edit: apply(state, *edit), edits[:whole], flipped)
            assert partly.jumped is not None
            again = after_landing(partly)
            assert replace(again, horizon=made.horizon) == made
            assert again.horizon == made.horizon

    play(scenario, place)


def stated_there(driver: Jumper) -> State:
    with closing(driver.host.disk.open(str(driver.there))) as directory:
        return load(directory).state


# Until the flip


def test_until_the_flip_it_is_promotable_where_it_stands(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        before = driver.copy.agreed
        await driver.write(*range(10, 40))
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        assert driver.copy.agreed == before and driver.copy.why_not_promotable == ""
        await driver.check_copy(before.write)
        await driver.copy.close()
        checked(driver)
        promoted = await open_volume(driver.host, str(driver.there), replace(THERE, promote=True))
        driver.equal(bytes(await read_all(promoted)), before.write)
        assert promoted.manifest.state.jump is None and not list((driver.there / JUMP).iterdir())
        await promoted.close()
        driver.secondary = None

    play(scenario, place)


def test_promoted_while_a_jump_is_staged_it_has_the_log_that_waited(place: Path) -> None:
    """Points have arrived that were not dealt with: a promotion deals with them, or is none."""

    async def scenario(driver: Jumper) -> None:
        there = driver.copy
        await driver.write(1)
        await driver.cut()
        await driver.write(2)
        there.records.pause(True)  # as if its source had to be asked, and was away
        await driver.ship()
        await driver.write(3)
        point = await driver.cut()
        await there.begin_jump(driver.target(point))
        await driver.send(point)
        assert len(there.records) and there.agreed.number == point.number - 2
        await there.close()
        waited = there.received
        promoted = await open_volume(driver.host, str(driver.there), replace(THERE, promote=True))
        assert promoted.retained.points[-1].number == point.number - 1 and promoted.position > waited
        driver.equal(bytes(await read_all(promoted)), point.write - 1)
        await promoted.close()
        driver.secondary = None

    play(scenario, place)


def test_while_a_jump_is_received_the_log_that_is_there_waits(place: Path) -> None:
    """Else the copy would leave the point from which the jump begins."""

    async def scenario(driver: Jumper) -> None:
        there = driver.copy
        before = there.agreed
        await driver.write(1)
        await driver.cut()
        there.records.pause(True)  # as if its source had to be asked, and was away
        await driver.ship()
        await driver.write(2)
        point = await driver.cut()
        await there.begin_jump(driver.target(point))
        await driver.send(point, stop_at=2)
        await driver.reopen_mirror()
        await asyncio.sleep(0.1)
        assert len(driver.copy.records) and driver.copy.agreed.number == before.number
        await driver.send(point)
        await asyncio.sleep(0.1)
        assert len(driver.copy.records) and driver.copy.agreed.number == before.number
        await driver.finish()
        await driver.check_at(point)

    play(scenario, place)


def test_a_source_that_has_the_log_after_all_sends_that(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1, 2)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        await driver.catch_up()
        await driver.check_at(point)
        assert driver.copy.jump is None and not list((driver.there / JUMP).iterdir())
        await driver.write(3)
        point = await driver.cut()
        await driver.jump(point)
        await driver.check_at(point)

    play(scenario, place)


def test_progress_is_durable_and_goes_on(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(*range(0, 120, 2))
        point = await driver.cut()
        target = driver.target(point)
        await driver.copy.begin_jump(target)
        await driver.send(point, stop_at=60)
        await driver.copy.settle_jump()
        jump = driver.copy.jump
        assert jump is not None and 40 <= jump.next_block <= 60 and jump.blocks == jump.entries > 0
        told = secondary_status(driver.copy).jump
        assert told is not None and (told.point, told.next_block) == (point.number, jump.next_block)
        assert (told.blocks, told.bytes, told.volume_blocks) == (jump.blocks, jump.blocks * BLOCK, BLOCKS)
        await driver.crash_mirror()
        assert driver.copy.jump == jump
        await driver.copy.begin_jump(target)
        assert driver.copy.jump == jump
        await driver.send(point)
        await driver.finish()
        await driver.check_at(point)

    play(scenario, place)


def test_a_stopped_copy_says_what_has_arrived_and_where_it_stands(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        old = driver.copy.agreed
        await driver.write(*range(0, 120, 2))
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point, stop_at=60)
        await driver.copy.close()
        stopped = open_offline(driver.host, str(driver.there)).status()
        assert stopped.jump is not None and stopped.jump.point == point.number and stopped.jump.bytes
        assert (stopped.point, stopped.write) == (old.number, old.write)
        await driver.reopen_mirror()
        await driver.send(point)
        await driver.copy.finish_jump()
        await driver.copy.close()
        stopped = open_offline(driver.host, str(driver.there)).status()
        assert stopped.jump is None
        assert (stopped.point, stopped.write, stopped.position) == (point.number, point.write, point.position)
        assert "has jumped to" in check(driver.host, str(driver.there)).incomplete
        await driver.reopen_mirror()
        await driver.check_at(point)

    play(scenario, place)


def test_many_stretches_come_to_few_tables(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(*range(128))
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        changed = driver.changed(driver.copy.agreed.write, point.write)
        for block, content in changed.items():
            await driver.put([block], [content], block + 1)
            await driver.copy.settle_jump()
        jump = driver.copy.jump
        assert jump is not None and jump.entries == len(changed) == 128
        assert len(jump.tables) <= 8
        names = {path.name for path in (driver.there / JUMP).iterdir()}
        assert len(names) == len(jump.tables) + 1
        await driver.finish()
        await driver.check_at(point)

    play(scenario, place)


def test_a_jump_to_another_point_begins_anew(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(*range(40))
        first = await driver.cut()
        await driver.copy.begin_jump(driver.target(first))
        await driver.send(first, stop_at=20)
        await driver.copy.settle_jump()
        await driver.write(3)
        second = await driver.cut()
        await driver.copy.begin_jump(driver.target(second))
        assert driver.copy.jump is not None and driver.copy.jump.next_block == 0
        await driver.send(second)
        await driver.finish()
        await driver.check_at(second)

    play(scenario, place)


# What is refused


def test_what_is_not_the_source_is_refused_and_nothing_of_it_stays(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        before = driver.copy.agreed
        await driver.write(1, 2)
        point = await driver.cut()
        for spoil in (1, 90):
            await driver.copy.begin_jump(driver.target(point))
            await driver.send(point, spoil=spoil)
            with pytest.raises(Refused, match="summed up") as caught:
                await driver.copy.finish_jump()
            assert caught.value.code == "jump-not-equal"
            assert driver.copy.jump is None and not list((driver.there / JUMP).iterdir())
            await driver.check_copy(before.write)
        await driver.jump(point)
        await driver.check_at(point)

    play(scenario, place)


# A copy that is not what it has agreed to


@pytest.mark.parametrize("elsewhere", [(), (90,)])
def test_a_copy_that_differs_is_brought_level_by_a_jump_that_names_what_differs(
    place: Path, elsewhere: tuple[int, ...]
) -> None:
    async def scenario(driver: Jumper) -> None:
        before = driver.copy.agreed
        await driver.diverge(1, *elsewhere)
        await driver.write(1, 2)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point, also=elsewhere)
        await driver.finish()
        await driver.check_at(point)
        assert driver.copy.differs_since == before.number, "a verification is due, as after every finding"
        held = driver.copy.suspect_periods
        named = held.blocks_at(WriteNumber(before.write)).blocks().tolist()
        assert named == sorted({1, 2, *elsewhere}) and not len(held.blocks_at(WriteNumber(point.write)))

    play(scenario, place)


def test_a_jump_that_does_not_bring_a_copy_level_is_a_finding_and_then_all_is_compared(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        before = driver.copy.agreed
        await driver.diverge(1, 90)
        await driver.write(1, 2)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        with pytest.raises(Refused, match="summed up"):
            await driver.copy.finish_jump()
        for _ in range(2):
            there = driver.copy
            assert there.differs_since == before.number and there.agreed.number == before.number
            assert there.why_not_promotable == "" and there.jump is None
            assert f"found at cp{before.number}" in secondary_status(there).reason
            assert (await described(driver)).differs
            await driver.reopen_mirror()

    play(scenario, place)


def test_what_is_sent_wrong_is_no_finding(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1, 2)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point, spoil=90)
        with pytest.raises(Refused, match="summed up"):
            await driver.copy.finish_jump()
        assert not driver.copy.differs_since and not (await described(driver)).differs

    play(scenario, place)


async def described(driver: Jumper) -> Welcome:
    """What the copy says of itself, as it arrives."""
    shelf = RealCopyDirectory(driver.host, str(driver.there), THERE, driver.secondary)
    source, mirror = VolumeSource(driver.volume), driver.volume.mirrors.get("m")
    hello = greeting(source, mirror, bytes(16), NO_ORDER)
    welcome = unpack_welcome(memoryview(pack_welcome(await describe_copy(shelf, hello))))
    facts = await gather_facts(source, mirror, hello, welcome)
    assert (facts.common is None) == welcome.differs
    return welcome


def test_content_order_and_bounds_are_judged(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1)
        point = await driver.cut()
        there = driver.copy
        with pytest.raises(Refused, match="expects none"):
            await driver.put([1], [payload(1, BLOCK)], 2)
        await there.begin_jump(driver.target(point))
        one, data = np.array([5], np.uint64), payload(5, BLOCK)
        with pytest.raises(Refused, match="digests say"):
            await there.put_jump(one, np.array([77], np.uint64), data, 6)
        with pytest.raises(Refused, match="add up"):
            await there.put_jump(one, np.array([0], np.uint64), data, 6)
        for blocks, behind in (([6, 5], 7), ([5], 5), ([BLOCKS], BLOCKS + 1), ([4, 4], 5)):
            with pytest.raises(Refused, match=r"out of order|beyond"):
                await driver.put(blocks, [data] * len(blocks), behind)
        await driver.put([5], [data], 6)
        with pytest.raises(Refused, match="out of order"):
            await driver.put([5], [data], 7)
        with pytest.raises(Refused, match="goes back"):
            await driver.put([], [], 3)
        with pytest.raises(Refused, match="ends before"):
            await there.finish_jump()
        assert there.jump is not None

    play(scenario, place)


def test_a_jump_from_elsewhere_is_refused(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1)
        point = await driver.cut()
        stands = driver.copy.agreed.number
        for since in (stands - 1, stands + 1):
            with pytest.raises(Refused, match="stands at"):
                await driver.copy.begin_jump(driver.target(point, since))
        with pytest.raises(Refused, match="not behind"):
            await driver.copy.begin_jump(driver.target(driver.copy.agreed))
        assert driver.copy.jump is None
        await driver.catch_up()
        assert driver.copy.agreed.number == point.number

    play(scenario, place)


def test_after_the_flip_nothing_is_taken_until_it_is_opened_again(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1)
        point = await driver.cut()
        target = driver.target(point)
        await driver.copy.begin_jump(target)
        await driver.send(point)
        await driver.copy.finish_jump()
        with pytest.raises(RevolumeError, match="opened again"):
            await driver.ship()
        with pytest.raises(RevolumeError, match="opened again"):
            await driver.copy.begin_jump(target)
        await driver.copy.discard_jump()
        assert driver.copy.jump is not None and driver.copy.jump.flipped
        await driver.reopen_mirror()
        await driver.check_at(point)

    play(scenario, place)


# Views


def test_views_of_unnamed_moments_give_way(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        there = driver.copy
        old = there.agreed
        view = await open_view(there, ResolvedMoment(old.write, 0), "test")
        await driver.write(1)
        await driver.cut()
        await driver.catch_up()
        await driver.write(2)
        point = await driver.cut()
        await there.begin_jump(driver.target(point))
        await driver.send(point)
        await there.finish_jump()
        assert there.folder.horizon.point == there.agreed.number
        assert any("was ended" in event.message for event in there.events.all())
        with pytest.raises(GaveWay):
            view.reader.read_now([(0, memoryview(bytearray(BLOCK)))])
        view.close()

    play(scenario, place)


def test_a_copy_that_was_flipped_is_read_over_a_shadow_as_the_new_point(place: Path) -> None:
    async def scenario(driver: Jumper) -> None:
        await driver.write(1, 99)
        point = await driver.cut()
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        await driver.copy.finish_jump()
        await driver.copy.close()
        image = (driver.there / "image").read_bytes()
        shadow = ShadowDisk(str(place))
        real = driver.host
        work = ShadowWork(real.work, shadow)
        host = Host(real.clock, real.entropy, shadow, work, real.network)  # type: ignore[arg-type]
        over = await open_secondary(host, str(driver.there), THERE)
        buffer = bytearray(over.size)
        view = await open_view(over, ResolvedMoment(point.write, 0), "test")
        await view.reader.read(0, memoryview(buffer))
        driver.equal(bytes(buffer), point.write)
        view.close()
        await over.close()
        shadow.close()
        assert (driver.there / "image").read_bytes() == image
        await driver.reopen_mirror()
        await driver.check_at(point)

    play(scenario, place)
