"""Where members stand is stated by the primary and pinned by every copy: so whoever is promoted knows what a
member that was away lacks."""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.errors import NoSpace
from revolume.log.write.operations import OP_WRITE
from revolume.mirror.source.changed_reader import open_difference
from revolume.offline.check.check import check
from revolume.volume.branches.common_point import CommonPoint
from revolume.volume.jump.jump_proof import JumpProof
from revolume.volume.members.kept_points import nothing_kept
from revolume.volume.members.membership import members_of, mirrors_of_promoted
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.members.resync_points import edits_of_demoted, resync_point_of
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_edits import EditKind, apply, state_edits
from revolume.volume.metadata.manifest_state import (
    Horizon,
    MirrorMode,
    MirrorState,
    Rescue,
    Role,
    State,
)
from revolume.volume.metadata.member_record import pack_membership
from revolume.volume.metadata.resync_point import ResyncPoint, pack_resync_point, unpack_resync_point
from revolume.volume.open.demote import demote_directory
from revolume.volume.open.open import open_secondary, open_volume
from revolume.volume.open.rewind import rewind
from revolume.volume.secondary import Secondary
from revolume.volume.secondary_status import secondary_status
from revolume.volume.space.make_room import Evictions

from .away import rows_of
from .driver import BLOCK, SEGMENT, SMALL, abandon, append
from .jumping import Jumper
from .mirrored import THERE
from .store import inline_host, payload

pytestmark = pytest.mark.timeout(120)
HERE, THERE_NODE, ELSEWHERE, X = b"h" * 16, b"t" * 16, b"e" * 16, b"x" * 16
M = MirrorState("m", MirrorMode.ASYNC, True, 7, WriteNumber(70), THERE_NODE, address="unix:/m")
AWAY = MirrorState("x", MirrorMode.ASYNC, True, 5, WriteNumber(50), X, address="unix:/x")
AT_5 = ResyncPoint("x", X, 5, WriteNumber(50))


# --- bytes and values --------------------------------------------------------------------------------------


def test_a_resync_point_there_and_back() -> None:
    assert unpack_resync_point(pack_resync_point(AT_5)) == AT_5
    assert facts.unpack(facts.resync_point_stated(AT_5)) == facts.ResyncPointStated(AT_5)
    state = State(segment_blocks=16, resync_points=(AT_5, replace(AT_5, name="y")))
    again = State()
    for kind, body in state_edits(state):
        again = apply(again, kind, body)
    assert again.resync_points == state.resync_points
    later = apply(again, EditKind.RESYNC_POINT, pack_resync_point(replace(AT_5, point=6)))
    assert {each.point for each in later.resync_points if each.name == "x"} == {6} and len(
        later.resync_points
    ) == 2
    assert [each.name for each in apply(later, EditKind.DROP_RESYNC_POINT, b"x").resync_points] == ["y"]


def test_what_is_no_resync_point_is_not_taken_for_one() -> None:
    packed = pack_resync_point(AT_5)
    for body in (packed[:-1], packed[:20], packed + b"\n", packed[:32] + b"\xff"):
        with pytest.raises((ValueError, struct.error)):
            unpack_resync_point(body)
        assert facts.unpack(facts.KIND.pack(facts.Fact.RESYNC_POINT) + body) is None


def test_it_goes_with_its_member_and_with_the_copy_that_the_member_was() -> None:
    _, m, x = members_of(State(node=HERE, mirrors=(M, AWAY)))
    state = State(members=(m, x), resync_points=(AT_5,))
    assert apply(state, EditKind.MEMBERSHIP, pack_membership(replace(x, joined=False))).resync_points == (AT_5,)
    assert not apply(state, EditKind.MEMBERSHIP, pack_membership(replace(x, node=bytes(16)))).resync_points
    assert not apply(state, EditKind.MEMBERSHIP, pack_membership(replace(x, mode=None))).resync_points
    assert not apply(state, EditKind.DROP_MEMBERSHIP, b"x").resync_points
    assert apply(state, EditKind.DROP_MEMBERSHIP, b"m").resync_points == (AT_5,)


def test_a_mirror_pins_it_and_a_primary_has_it_only_noted() -> None:
    noted = State(resync_points=(AT_5,))
    assert not noted.pinned_writes() and replace(noted, role=Role.SECONDARY).pinned_writes() == {50}


def test_where_a_mirror_stands_for_sure() -> None:
    assert resync_point_of(AWAY) == AT_5
    pin = Kept(3, WriteNumber(30), 0)
    assert resync_point_of(replace(AWAY, pin=pin)) == replace(AT_5, point=3, write=WriteNumber(30))
    begun = replace(AWAY, joined=False)  # its base is being sent
    jumping = replace(AWAY, jump=Kept(9, WriteNumber(90), 0))  # the log is kept from where it is not yet
    assert resync_point_of(begun) is resync_point_of(jumping) is resync_point_of(nothing_kept(AWAY)) is None


def promoted(state: State) -> dict[str, Kept | None]:
    return {mirror.name: mirror.pin for mirror in mirrors_of_promoted(state)}


def test_a_promoted_copy_has_what_it_had_pinned() -> None:
    members = members_of(State(node=HERE, mirrors=(M, AWAY)))
    copy = State(node=THERE_NODE, members=members, resync_points=(AT_5,), horizon=Horizon(2, WriteNumber(20)))
    assert promoted(copy) == {"x": Kept(5, WriteNumber(50), 0)}
    passed = replace(copy, horizon=Horizon(9, WriteNumber(90)))
    assert promoted(passed) == {"x": None}
    assert promoted(replace(passed, rescues=(Rescue(Horizon(5, WriteNumber(50))),)))["x"] is not None
    assert promoted(replace(copy, resync_points=(replace(AT_5, node=ELSEWHERE),))) == {"x": None}


def test_a_demoted_primary_keeps_for_members_what_it_kept_for_mirrors() -> None:
    noted = (replace(AT_5, point=1, write=WriteNumber(10)), replace(AT_5, name="gone"))
    state = State(mirrors=(AWAY,), resync_points=noted, horizon=Horizon(2, WriteNumber(20)))
    for kind, body in edits_of_demoted(state):
        state = apply(state, kind, body)
    assert state.resync_points == (AT_5,)


# --- in the log, and at a copy -----------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-resync-points-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


class Three(Jumper):
    """A primary with the mirror that its driver has, and with ``x``, of which only what it says is there."""

    stood: Point

    async def part(self) -> None:
        """Both mirrors have everything; then ``x`` is away, at ``stood``."""
        await self.stand()
        await self.acknowledge()
        mirrors = self.volume.mirrors
        mirror = await mirrors.register("x", MirrorMode.ASYNC)
        await mirrors.pin_base(mirror)
        await mirrors.based(mirror)
        await mirrors.joined(mirror, X)
        await self.write(1, 2, 3)
        self.stood = await self.cut()
        await self.x_lost_at(self.stood)

    @property
    def x(self) -> Mirror:
        return self.volume.mirrors.get("x")

    async def x_lost_at(self, point: Point) -> None:
        await self.x_agrees_on(point)
        await self.volume.mirrors.kept.cut(self.x)
        await self.volume.tasks.settled()
        await self.catch_up()

    async def x_agrees_on(self, point: Point) -> None:
        at = point.position + 1
        self.volume.mirrors.connected(self.x, Positions(at, at, point.number, at))
        await self.volume.mirrors.advance_hold(self.x)
        await self.volume.tasks.settled()

    async def go_on(self, rounds: int = 6) -> None:
        """Everything is written anew, and the mirror has it."""
        for _ in range(rounds):
            await self.write(*range(60))
            await self.cut()
            await self.catch_up()
            await self.acknowledge()

    async def pass_it(self) -> None:
        """The mirror's horizon leaves the point."""
        while self.copy.folder.horizon.write <= self.stood.write:
            assert await self.copy.folder.step(True)

    @property
    def stated(self) -> int | None:
        """Of ``x``, a point's number."""
        return point_of(self.volume.manifest.state)

    @property
    def pinned(self) -> int | None:
        return point_of(self.copy.manifest.state)


def point_of(state: State) -> int | None:
    return next((each.point for each in state.resync_points if each.name == "x"), None)


def play(scenario: Callable[[Three], Awaitable[None]], place: Path) -> None:
    async def run() -> None:
        driver = Three(inline_host(), place / "v", 64 * BLOCK, replace(SMALL, budget_bytes=200 * SEGMENT))
        await driver.part()
        await scenario(driver)
        if driver.secondary is not None:
            await driver.secondary.close()
        await abandon(driver.volume)
        report = check(driver.host, str(driver.there))
        assert not report.problems, report.problems

    asyncio.run(run())


def test_the_log_says_where_a_mirror_stands_and_the_other_pins_it(place: Path) -> None:
    async def scenario(driver: Three) -> None:
        assert driver.stated == driver.pinned == driver.stood.number
        assert driver.stood.write in driver.copy.holders.pinned_writes()
        own = [each.name for each in driver.copy.manifest.state.resync_points]
        assert own == ["x"]  # of the copy itself there is none
        await driver.go_on()
        await driver.pass_it()
        await driver.check_mirror_moment(driver.stood.write)
        held = {each.name: each for each in secondary_status(driver.copy).holders}["mirror x"]
        assert (held.write, held.pinned, held.gives_way) == (driver.stood.write, True, True)
        assert held.bytes >= 60 * BLOCK
        await driver.crash_mirror()
        await driver.check_mirror_moment(driver.stood.write)
        await driver.volume.mirrors.detach("x")
        await driver.volume.tasks.settled()
        await driver.catch_up()
        await driver.copy.folder.step(True)
        assert driver.pinned is None and not driver.copy.manifest.state.rescues

    play(scenario, place)


def test_another_copy_is_pinned_for_once_it_has_joined(place: Path) -> None:
    """What is known of one copy says nothing of the one that takes its place."""

    async def scenario(driver: Three) -> None:
        await driver.volume.mirrors.replace("x")
        await driver.volume.tasks.settled()
        await driver.catch_up()
        assert driver.stated is driver.pinned is None
        await driver.volume.mirrors.pin_base(driver.x)
        await driver.volume.mirrors.based(driver.x)
        await driver.volume.mirrors.joined(driver.x, b"y" * 16)
        await driver.volume.tasks.settled()
        await driver.catch_up()
        (point,) = driver.copy.manifest.state.resync_points
        assert (point.name, point.node) == ("x", b"y" * 16)

    play(scenario, place)


def test_promoted_it_brings_the_member_on_by_what_has_changed(place: Path) -> None:
    """Its log has left the point long since."""

    async def scenario(driver: Three) -> None:
        await driver.go_on()
        await driver.pass_it()
        await driver.copy.close()
        driver.secondary = None
        new = await open_volume(driver.host, str(driver.there), replace(THERE, promote=True))
        x = new.mirrors.get("x")
        assert x.state.pin is not None and x.state.pin.point == driver.stood.number and not x.joined
        for _ in range(3):
            await append(new, [(OP_WRITE, 63 * BLOCK, BLOCK, memoryview(payload(9, BLOCK)))])
            upto = await new.point_maker.cut()
            await new.folder.step(True)
        since = next(point for point in new.isolated_points() if point.number == driver.stood.number)
        assert upto is not None
        reader = await open_difference(new, since, upto)
        rows = await rows_of(reader)
        reader.close()
        assert rows.keys() == {*range(60), 63}
        assert rows[63][1] == payload(9, BLOCK) and rows[7][1] == driver.model.blocks[7]
        assert "mirror x" in {holder.name for holder in new.holders.all() if holder.pinned}
        await new.mirrors.detach("x")
        await new.folder.step(True)
        assert driver.stood.write not in {each.moment.write for each in new.manifest.state.rescues}
        await new.close()

    play(scenario, place)


def test_a_copy_that_does_not_have_the_next_point_keeps_the_last(place: Path) -> None:
    """It has folded beyond that, with what it rescued for the last; the one after that it takes again."""

    async def scenario(driver: Three) -> None:
        await driver.go_on()
        passed = driver.volume.points()[-3]
        while driver.copy.folder.horizon.write <= passed.write:
            assert await driver.copy.folder.step(True)
        await driver.x_lost_at(passed)
        assert (driver.stated, driver.pinned) == (passed.number, driver.stood.number)
        await driver.check_mirror_moment(driver.stood.write)
        newest = driver.volume.points()[-1]
        await driver.x_lost_at(newest)
        assert driver.stated == driver.pinned == newest.number

    play(scenario, place)


def test_no_fold_passes_a_point_while_it_is_being_recorded(place: Path) -> None:
    async def scenario(driver: Three) -> None:
        await driver.go_on(2)
        at = driver.volume.points()[-2]
        record = driver.copy.manifest.record
        folded = []

        async def while_it_folds(*edits: tuple[EditKind, bytes]) -> None:
            if edits[0][0] == EditKind.RESYNC_POINT:
                while await driver.copy.folder.step(True):
                    folded.append(driver.copy.folder.horizon.write)
            await record(*edits)

        driver.copy.manifest.record = while_it_folds  # type: ignore[method-assign]
        await driver.x_lost_at(at)
        assert folded and driver.copy.folder.retired_write <= at.write and driver.pinned == at.number

    play(scenario, place)


def test_of_a_mirror_that_is_level_it_is_stated_in_steps(place: Path) -> None:
    async def scenario(driver: Three) -> None:
        await driver.write(5)
        await driver.x_agrees_on(await driver.cut())  # it has come beyond its cut
        begun = driver.stated
        appended = driver.volume.log.appender
        budget = driver.volume.log.pool.limits.budget_bytes
        before, stated = appended.address, [begun]
        while (appended.address - before) * BLOCK < budget // 2:
            await driver.write(*range(4))
            await driver.x_agrees_on(await driver.cut())
            stated.append(driver.stated)
        assert begun is not None and 4 <= len(set(stated)) <= 7

    play(scenario, place)


def test_it_is_stated_again_when_the_horizon_leaves_it(place: Path) -> None:
    """A copy that keeps no more history than this node has to rescue for no more than that."""

    async def scenario(driver: Three) -> None:
        await driver.write(5)
        await driver.x_agrees_on(await driver.cut())
        begun = driver.stated
        await driver.write(*range(30))
        await driver.x_agrees_on(await driver.cut())
        assert driver.stated == begun
        await driver.write(*range(30))
        await driver.cut()
        await driver.acknowledge()
        await driver.ship()
        await driver.settle()
        await driver.acknowledge()
        while await driver.fold():
            pass
        assert driver.volume.folder.horizon.point > (begun or 0)
        await driver.write(6)
        now = await driver.cut()
        await driver.x_agrees_on(now)
        assert driver.stated == now.number

    play(scenario, place)


def test_a_full_disk_ends_the_pin_before_the_source_waits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(driver: Three) -> None:
        await driver.go_on(2)
        await driver.pass_it()
        assert driver.copy.manifest.state.rescues
        monkeypatch.setattr(Evictions, "disk_short", True)
        room = driver.copy.admission._room
        assert room is not None
        while await driver.copy.folder.step(True):
            pass
        assert await room.make(False, 1) and driver.pinned is None
        await driver.copy.folder.step(True)
        assert not driver.copy.manifest.state.rescues
        assert driver.stood.write not in driver.copy.holders.pinned_writes()
        told = [event.message for event in driver.copy.events.all()]
        assert any("x may have to be made anew" in each for each in told)

    play(scenario, place)


# --- copies that do not go on by the log -------------------------------------------------------------------


async def far_ahead(driver: Three) -> Point:
    for _ in range(3):
        await driver.write(*range(10, 50))
        point = await driver.cut()
    return point


def test_it_survives_a_jump_which_rescues_for_it(place: Path) -> None:
    async def scenario(driver: Three) -> None:
        assert driver.stood.write == driver.copy.agreed.write
        await driver.jump(await far_ahead(driver))
        assert driver.pinned == driver.stood.number
        await driver.check_mirror_moment(driver.stood.write)
        await driver.crash_mirror()
        await driver.check_mirror_moment(driver.stood.write)

    play(scenario, place)


def test_it_goes_with_a_jump_beyond_which_there_is_no_such_member(place: Path) -> None:
    async def scenario(driver: Three) -> None:
        await driver.volume.mirrors.detach("x")
        await driver.volume.tasks.settled()
        await driver.jump(await far_ahead(driver))
        assert driver.pinned is None

    play(scenario, place)


def test_where_a_jump_has_no_room_it_gives_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(driver: Three) -> None:
        checked = JumpProof.check_room

        async def short(self: JumpProof, jump: object) -> None:
            if driver.copy.manifest.state.resync_points:
                raise NoSpace("jump-no-space", "There is no room.", "Make some.")
            await checked(self, jump)  # type: ignore[arg-type]

        monkeypatch.setattr(JumpProof, "check_room", short)
        point = await far_ahead(driver)
        await driver.copy.begin_jump(driver.target(point))
        await driver.send(point)
        with pytest.raises(NoSpace):
            await driver.copy.finish_jump()
        assert driver.pinned is None
        await driver.finish()
        await driver.check_at(point)

    play(scenario, place)


def test_a_former_primary_keeps_it_when_it_hears_of_another(place: Path) -> None:
    """Its own mirrors are the other's from then on; what it rescued for one that was away is not lost by that."""

    async def scenario(driver: Three) -> None:
        await driver.go_on()
        await driver.volume.mirrors.drop_hold()
        while driver.volume.folder.horizon.write <= driver.stood.write:
            assert await driver.fold()
        await driver.volume.close()
        await demote_directory(driver.host, str(driver.path), driver.options)
        copy = await open_secondary(driver.host, str(driver.path), driver.options)
        drop = [(EditKind.DROP_MIRROR, mirror.name.encode()) for mirror in copy.manifest.state.mirrors]
        await copy.manifest.record(*drop)
        await fold_all(copy)
        assert driver.stood.write in copy.holders.pinned_writes()
        assert driver.stood.write in {point.write for point in copy.isolated_points()}
        await copy.close()
        driver.options = replace(driver.options, promote=True)
        await driver.open()

    play(scenario, place)


async def fold_all(copy: Secondary) -> None:
    while await copy.folder.step(True):
        pass


def test_a_copy_that_goes_back_has_none_behind_where_it_goes(place: Path) -> None:
    async def scenario(driver: Three) -> None:
        early = driver.stood
        await driver.go_on(2)
        later = driver.volume.points()[-1]
        await driver.x_lost_at(later)
        assert driver.pinned == later.number
        await driver.copy.close()
        common = CommonPoint(early.number, early.position, early.chain)
        await rewind(driver.host, str(driver.there), THERE, common, "alone")
        driver.secondary = await open_secondary(driver.host, str(driver.there), THERE)
        assert driver.copy.agreed.number == early.number and driver.pinned is None

    play(scenario, place)
