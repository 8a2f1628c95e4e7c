"""What is kept for a mirror that is away: log, then difference, then nothing; and the moment of the loss."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.chain.point import Point
from revolume.errors import GaveWay, NoSpace, NotFound, Refused, UsageError
from revolume.history.exports import VolumeExports
from revolume.history.moments import check_snapshot_name, format_export, parse_export
from revolume.history.offline_volume import open_offline
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host.network import Peer
from revolume.mirror.source.changed_reader import open_difference
from revolume.mirror.source.volume_source import VolumeSource
from revolume.offline.check.check import check
from revolume.volume.members.kept_points import kept_word, lost_name
from revolume.volume.members.resync_points import resync_points_of
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.metadata.node_edits import pack_member
from revolume.volume.primary_status import kept_status
from revolume.volume.space.disk_room import DiskRoom
from revolume.volume.space.holder import HolderKind

from .away import MEMORY, Source, check_difference, difference, play, rows_of
from .driver import BLOCK, Model

PEER = Peer("here", None, None)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-kept-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


async def read_export(driver: Source, name: str) -> bytes:
    exports = VolumeExports(driver.volume, driver.volume)
    export = await exports.open(name, PEER)
    view = await open_view(driver.volume, ResolvedMoment(export.newest_write, 0), "test")
    try:
        buffer = bytearray(view.size)
        await view.reader.read(0, memoryview(buffer))
        return bytes(buffer)
    finally:
        view.close()
        exports.close()


def model_at(driver: Source, write: int) -> bytes:
    return bytes(Model.content(*driver.model.moments[write]))


# The moment at which a link is lost


def test_the_moment_of_the_loss_opens_by_name_however_much_is_written_since(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.churn(60, 1)
        cut = await driver.volume.mirrors.kept.cut(driver.mirror)
        assert cut is not None and cut.write == driver.volume.write
        lost = model_at(driver, cut.write)
        await driver.volume.tasks.settled()
        (listed,) = driver.volume.snapshots()
        assert (listed.name, listed.write, listed.point, listed.holder) == (
            "lost:m", cut.write, cut.point, "mirror m"
        )  # fmt: skip
        await driver.overwrite(3, 2)
        assert driver.volume.folder.horizon.write > cut.write
        assert await read_export(driver, "@lost:m") == lost
        assert "v@lost:m" in [name for name, _ in VolumeExports(driver.volume, driver.volume).names()]
        await driver.crash()
        await driver.overwrite(1, 9)
        assert await read_export(driver, "@lost:m") == lost
        assert any(each.pinned and each.name == "mirror m" for each in driver.volume.holders.all())
        await driver.volume.close()
        offline = open_offline(driver.host, str(driver.path))
        assert [s.name for s in offline.snapshots()] == ["lost:m"]
        assert cut.point in [point.number for point in offline.points()]
        found = check(driver.host, str(driver.path))
        assert not found.problems and found.moments >= 2
        await driver.open()

    play(scenario, place)


def test_it_is_no_snapshot(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.churn(20, 1)
        await driver.volume.mirrors.kept.cut(driver.mirror)
        with pytest.raises(Refused) as refused:
            await driver.volume.drop_snapshot("lost:m")
        assert refused.value.code == "kept-for-mirror"
        await driver.write(3, 7)
        await driver.volume.snapshot("named")
        assert [s.name for s in (await driver.volume.names.listed())[0]] == ["named"]
        await driver.overwrite(2, 2)
        later = await driver.volume.cut()
        stands = {each.point for each in resync_points_of(driver.volume.manifest.state)}
        sent = {point.number for point in VolumeSource(driver.volume).moments.before(later)}
        assert sent == stands | {each.point for each in driver.volume.snapshots() if each.name == "named"}
        assert driver.mirror.cut is not None
        assert driver.mirror.cut.point not in sent, "nobody else needs it"

    play(scenario, place)


def test_no_snapshot_can_be_called_like_it() -> None:
    with pytest.raises(UsageError):
        check_snapshot_name("lost:m")
    for mirror in ("m", "host:10810", "unix:/run/a b", "50%,ro"):
        text = f"v@{lost_name(mirror)}"
        assert format_export(parse_export(text)) == text and "," not in text


def test_nothing_was_written_since_the_newest_point(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.churn(5, 1)
        newest = await driver.volume.cut()
        cut = await driver.volume.mirrors.kept.cut(driver.mirror)
        assert cut is not None and cut.point == newest.number
        assert (await driver.volume.cut()).number == newest.number

    play(scenario, place)


def test_all_that_are_lost_in_one_turn_have_one_point(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        second = await driver.join("n")
        await driver.churn(5, 1)
        kept, points = driver.volume.mirrors.kept, len(driver.volume.retained)
        first = asyncio.ensure_future(kept.cut(driver.mirror))
        other = asyncio.ensure_future(kept.cut(second))
        for _ in range(3):
            await asyncio.sleep(0)
        under_way = [each for each in driver.volume.holders.all() if each.kind == HolderKind.UNDER_WAY]
        assert under_way, "nothing is folded past it until it is pinned"
        await driver.write(3, 9)
        assert await first == await other
        assert len(driver.volume.retained) == points + 1
        status = kept_status(driver.volume, second)
        assert 0 < status.cut_hold_ns < 100_000_000 and status.cut_hold_p99_ns >= status.cut_hold_ns
        assert len(kept.cut_holds_ns) == 1

    play(scenario, place)


def test_a_cut_that_was_not_recorded_is_the_last_point(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.churn(30, 1)
        last = await driver.volume.cut()
        await driver.crash()
        await driver.volume.tasks.settled()
        assert driver.mirror.state.cut == Kept(last.number, last.write, last.time_ns)
        assert await read_export(driver, "@lost:m") == model_at(driver, last.write)

    play(scenario, place)


def test_a_cut_goes_when_the_mirror_stands_there_and_not_before(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.churn(10, 1)
        before = await driver.volume.cut()
        await driver.churn(10, 2)
        kept = driver.volume.mirrors.kept
        cut = await kept.cut(driver.mirror)
        await driver.churn(10, 3)
        points = len(driver.volume.retained)
        assert await kept.cut(driver.mirror) == cut, "it has not come so far"
        assert len(driver.volume.retained) == points
        await driver.agreed_on(before)
        assert driver.mirror.cut == cut
        assert cut is not None
        point = next(p for p in driver.volume.points() if p.number == cut.point)
        await driver.agreed_on(point)
        assert driver.mirror.cut is None and not driver.volume.snapshots()
        assert driver.mirror.state.point == cut.point
        await driver.crash()
        assert driver.volume.manifest.state.mirrors[0].point == cut.point

    play(scenario, place)


def test_of_a_copy_that_has_not_joined_nothing_is_cut(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        other = await driver.volume.mirrors.register("n", MirrorMode.ASYNC)
        await driver.churn(5, 1)
        assert await driver.volume.mirrors.kept.cut(other) is None
        assert not driver.volume.snapshots()

    play(scenario, place)


# From the log to the difference, and on


async def away(driver: Source) -> Point:
    """The mirror stands at a point; then it is away, and what it lacks has no room in the log."""
    await driver.churn(40, 1)
    point = await driver.volume.cut()
    await driver.agreed_on(point)
    await driver.overwrite(3, 2)
    assert kept_word(driver.mirror.state) == "difference"
    return point


def test_while_a_difference_is_sent_where_it_leads_to_is_kept(place: Path) -> None:
    """Not even the log behind it has room any more: the copy may stand at either end."""

    async def scenario(driver: Source) -> None:
        since = await away(driver)
        kept = driver.volume.mirrors.kept
        upto = await kept.pin_jump(driver.mirror)
        assert driver.mirror.state.kept and driver.mirror.state.point == upto.number
        await driver.overwrite(3, 50)
        state = driver.mirror.state
        assert not state.kept and state.pin is not None and state.jump is not None
        assert (state.pin.point, state.jump.point) == (since.number, upto.number)
        await driver.crash()
        async with difference(driver, since, upto) as reader:
            rows = await rows_of(reader)
        await check_difference(driver, since, upto, rows)
        await driver.volume.mirrors.kept.jumped(driver.mirror)
        state = driver.mirror.state
        assert state.pin == Kept(upto.number, upto.write, upto.time_ns) and state.jump is None
        assert upto.number in [p.number for p in driver.volume.isolated_points()]
        later = await driver.volume.mirrors.kept.pin_jump(driver.mirror)
        async with difference(driver, upto, later) as reader:
            await check_difference(driver, upto, later, await rows_of(reader))

    play(scenario, place)


def test_where_the_mirror_says_that_it_stands_is_pinned_if_it_is_known(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.churn(10, 1)
        early = await driver.volume.cut()
        named = await driver.volume.snapshot("named")
        await driver.churn(10, 2)
        await driver.agreed_on(await driver.volume.cut())
        await driver.overwrite(2, 3)
        kept = driver.volume.mirrors.kept
        (common,) = [p for p in driver.volume.isolated_points() if p.write == named.write]
        before = driver.mirror.state
        with pytest.raises(NotFound):
            await kept.pin_jump(driver.mirror, replace(early, write=early.write - 1))
        assert driver.mirror.state == before and before.pin is not None
        upto = await kept.pin_jump(driver.mirror, common)
        assert driver.mirror.state.pin is not None and driver.mirror.state.pin.write == named.write
        await driver.volume.drop_snapshot("named")
        await driver.overwrite(2, 30)
        async with difference(driver, common, upto) as reader:
            await check_difference(driver, common, upto, await rows_of(reader))

    play(scenario, place)


def test_a_mirror_that_has_jumped_lets_go_of_what_was_pinned(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await away(driver)
        await driver.volume.mirrors.kept.cut(driver.mirror)
        upto = await driver.volume.mirrors.kept.pin_jump(driver.mirror)
        assert len(driver.mirror.state.pinned) == 3
        await driver.volume.mirrors.kept.jumped(driver.mirror)
        state = driver.mirror.state
        assert not state.pinned and state.kept and state.point == upto.number
        assert not driver.volume.holders.pinned_writes()
        await driver.overwrite(1, 60)
        assert all(r.moment.write != upto.write for r in driver.volume.manifest.state.rescues[:-1])

    play(scenario, place)


def test_a_mirror_that_comes_on_by_the_log_after_all_needs_no_pin(place: Path) -> None:
    """The log was given up, and not folded yet."""

    async def scenario(driver: Source) -> None:
        await driver.churn(10, 1)
        await driver.agreed_on(await driver.volume.cut())
        await driver.volume.mirrors.drop_hold()
        assert driver.mirror.state.pin is not None and not driver.mirror.lost
        newest = await driver.volume.cut()
        await driver.churn(3, 2)
        newest = await driver.volume.cut()
        await driver.agreed_on(newest)
        assert driver.mirror.state.pin is None and driver.mirror.state.point == newest.number

    play(scenario, place)


def test_a_full_disk_ends_the_pin_before_a_write_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was rescued goes, and who reads it; from then on folds need no room for it."""

    async def scenario(driver: Source) -> None:
        since = await away(driver)
        await driver.volume.mirrors.kept.cut(driver.mirror)
        await driver.volume.tasks.settled()
        upto = await driver.volume.cut()
        reader = await open_difference(driver.volume, since, upto)
        rescuing = driver.volume.folder._rescuer
        monkeypatch.setattr(DiskRoom, "for_image", property(lambda self: 0 if rescuing.rescues else 64 << 20))
        await driver.overwrite(3, 70)  # none of it is refused
        state = driver.mirror.state
        assert not state.pinned and kept_word(state) == "nothing" and driver.mirror.lost
        assert kept_status(driver.volume, driver.mirror).kept == "regions"
        assert not driver.volume.manifest.state.rescues and not driver.volume.holders.pinned_writes()
        told = [event.message for event in driver.volume.events.all()]
        assert any("it is only noted which blocks change" in each for each in told)
        assert not driver.volume.admission.refused
        with pytest.raises(GaveWay):
            await reader.next_rows(0, 1)
        reader.close()
        await driver.crash()
        assert kept_word(driver.mirror.state) == "nothing"
        assert not driver.volume.snapshots()
        with pytest.raises(NotFound):
            await open_difference(driver.volume, since, await driver.volume.cut())

    play(scenario, place)


def test_a_budget_that_is_used_up_ends_no_pin(place: Path) -> None:
    """It would give no room in the log."""

    async def scenario(driver: Source) -> None:
        await away(driver)
        let_go = driver.volume.holders.lease(HolderKind.REQUIRED_MIRROR, "keep-all", driver.volume.write)
        with pytest.raises(NoSpace):
            await driver.overwrite(3, 70)
        assert driver.mirror.state.pin is not None
        let_go()

    play(scenario, place)


def test_a_snapshots_room_is_not_taken(place: Path) -> None:
    """Where a snapshot pins the same moment it goes on to be kept."""

    async def scenario(driver: Source) -> None:
        await driver.churn(40, 1)
        named = await driver.volume.snapshot("named")
        await driver.agreed_on(await driver.volume.cut())
        await driver.overwrite(2, 2)
        moments = await driver.volume.mirrors.kept.drop_pin()
        assert moments == {named.write}
        view = await open_view(driver.volume, ResolvedMoment(named.write, 0), "test")
        driver.volume.holders.end_readers(moments)
        assert not view.lease.ended
        view.close()
        await driver.overwrite(2, 30)
        await driver.check_moment(named.write)

    play(scenario, place)


def test_a_required_mirror_keeps_what_it_has(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        other = await driver.join("sync", MirrorMode.SYNC)
        await driver.volume.mirrors.detach("m")
        await driver.churn(5, 1)
        await driver.volume.mirrors.kept.cut(other)
        assert not await driver.volume.mirrors.drop_hold()
        assert await driver.volume.mirrors.kept.drop_pin(), "its cut is for people alone"
        assert other.cut is None and other.state.kept
        assert not await driver.volume.mirrors.kept.drop_pin()

    play(scenario, place)


def test_a_pin_of_which_nothing_is_known_any_more_is_none(place: Path) -> None:
    """A store that was a mirror for a while folded without regard to it."""

    async def scenario(driver: Source) -> None:
        await driver.overwrite(2, 1)
        state = replace(driver.mirror.state, point=0, write=0, pin=Kept(1, 3, 0))
        await driver.volume.manifest.record((EditKind.MEMBER, pack_member(state)))
        await driver.volume.close()
        found = check(driver.host, str(driver.path))
        assert [p for p in found.problems if "pinned for mirror m" in str(p)]
        await driver.open()
        assert driver.mirror.lost and driver.mirror.state.pin is None
        await driver.volume.tasks.settled()
        assert driver.volume.manifest.state.mirrors[0].pin is None

    play(scenario, place)


def test_status_says_what_is_kept(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.churn(40, 1)
        point = await driver.volume.cut()
        await driver.agreed_on(point)
        await driver.churn(10, 2)
        status = kept_status(driver.volume, driver.mirror)
        assert status.kept == "log" and status.log_bytes > 10 * BLOCK and not status.difference_bytes
        cut = await driver.volume.mirrors.kept.cut(driver.mirror)
        await driver.overwrite(3, 3)
        status = kept_status(driver.volume, driver.mirror)
        assert cut is not None and (status.pin_point, status.cut_point) == (point.number, cut.point)
        assert status.kept == "difference" and status.difference_bytes > 40 * BLOCK and not status.log_bytes

    play(scenario, place)
