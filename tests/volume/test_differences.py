"""What changed between two points: every block that did, and no other, whatever is folded before or meanwhile."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import GaveWay, NotFound
from revolume.log.write.operations import OP_TRIM, OP_WRITE
from revolume.mirror.source import changed_reader, point_reader
from revolume.mirror.source.changed_reader import difference_bytes, open_difference
from revolume.mirror.source.gathered_facts import base_start
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.wire.codec import Pin
from revolume.volume.metadata.resync_order import Prefer
from revolume.volume.open.demote import demote_directory
from revolume.volume.open.open import open_secondary

from .away import AMPLE, MEMORY, TIGHT, Source, check_difference, difference, play, rows_of
from .driver import BLOCK
from .store import payload

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-difference-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=[1 << 16, 7], ids=["one window", "many windows"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as they are, or so small that a pass has many."""
    monkeypatch.setattr(changed_reader, "STEP_BLOCKS", request.param)
    monkeypatch.setattr(point_reader, "STEP_BLOCKS", request.param)
    monkeypatch.setattr(changed_reader, "WINDOWS", 3)


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("horizon", ["before", "at", "behind"])
def test_of_plain_writes_exactly_the_changed_blocks_come(place: Path, horizon: str, mapped: bool) -> None:
    """``mapped``: a base map that was made before the fold leads to what the earlier point's record carries."""

    async def scenario(driver: Source) -> None:
        driver.folds_by_order()
        await driver.write(0, 1, 100)
        await driver.change([(OP_WRITE, 150 * BLOCK + 512, payload(5, 512))])  # the point carries it whole
        since = await driver.volume.cut()
        if horizon != "before":  # else everything is kept for the mirror
            await driver.agreed_on(since)
            await driver.volume.mirrors.drop_hold()
        for round_ in range(5):
            await driver.write(10, 20 + round_)
        await driver.write(50, 3, 7)
        await driver.volume.cut()
        if mapped:
            await driver.volume.base_maps.renew(force=True)
        while horizon != "before" and driver.volume.folder.horizon.write < since.write:
            assert await driver.fold()
        if horizon == "behind":
            await driver.fold_all()
            assert driver.volume.folder.horizon.write > since.write
        assert (driver.volume.folder.horizon.write == since.write) == (horizon == "at")
        await driver.write(120, 4)
        upto = await driver.volume.cut()
        async with difference(driver, since, upto) as reader:
            rows = await rows_of(reader, 3)
            assert set(rows) == {10, *range(50, 57), 120} and await reader.count() == 9
        await check_difference(driver, since, upto, rows)

    play(scenario, place, options=AMPLE if horizon == "before" else TIGHT)


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("seed", range(12))
def test_no_changed_block_is_missing_whatever_is_folded_meanwhile(place: Path, seed: int) -> None:
    """The earlier point lies before the horizon, at it, or behind it; folds go on between any two rows."""

    async def scenario(driver: Source) -> None:
        chance = random.Random(seed)
        await driver.churn(chance.randrange(60), seed)
        since = await driver.volume.cut() if driver.volume.write else await driver.volume.point_maker.begin()
        await driver.agreed_on(since)
        if chance.random() < 0.7:
            await driver.volume.mirrors.drop_hold()
        for part in range(3):
            await driver.churn(chance.randrange(120), 100 * seed + part)
            if chance.random() < 0.5:
                await driver.fold_all()
        if chance.random() < 0.3:
            await driver.grow(driver.model.size + 40 * BLOCK)
            await driver.churn(30, 7 * seed)
        upto = await driver.volume.mirrors.kept.pin_jump(driver.mirror)
        async with difference(driver, since, upto) as reader:
            first, rows = 0, dict[int, tuple[int, bytes]]()
            while True:
                blocks, digests, behind = await reader.next_rows(first, 5)
                if not len(blocks):
                    break
                content = await reader.read(blocks)
                for at, (block, digest) in enumerate(zip(blocks.tolist(), digests.tolist(), strict=True)):
                    rows[block] = digest, bytes(content[at * BLOCK : (at + 1) * BLOCK])
                first = behind
                if chance.random() < 0.5:
                    await driver.churn(chance.randrange(8), first + seed)
                    await driver.volume.cut()
                    await driver.fold()
        await check_difference(driver, since, upto, rows)

    play(scenario, place)


def test_three_times_the_budget_is_written_while_a_mirror_is_away(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.churn(80, 1)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        await driver.overwrite(3, 2)
        pin = driver.mirror.state.pin
        assert pin is not None and pin.point == since.number and not driver.mirror.state.kept
        assert driver.volume.folder.horizon.write > since.write
        assert any("only the difference is kept for mirror m" in e.message for e in driver.volume.events.all())
        await driver.crash()
        assert driver.mirror.state.pin == pin
        upto = await driver.volume.mirrors.kept.pin_jump(driver.mirror)
        assert difference_bytes(driver.volume, since) >= BLOCK * len(driver.really(since, upto)) // 2
        async with difference(driver, since, upto) as reader:
            rows = await rows_of(reader)
        await check_difference(driver, since, upto, rows)

    play(scenario, place)


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("pinned", [False, True])
def test_of_a_discard_only_blocks_that_held_something_are_rows(place: Path, pinned: bool) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(100, 1, 20)
        await driver.fold_all()
        await driver.write(5000, 2, 3)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        if pinned:
            await driver.volume.mirrors.drop_hold()
        await driver.change([(OP_TRIM, 0, 8000 * BLOCK)])
        await driver.write(110, 3)
        upto = await driver.volume.mirrors.kept.pin_jump(driver.mirror)
        async with difference(driver, since, upto) as reader:
            blocks, _, _ = await reader.next_rows(0, 4)
            assert blocks.tolist() == [100, 101, 102, 103]
            await driver.fold_all()
            rows = await rows_of(reader)
        assert set(rows) == {*range(100, 120), 5000, 5001, 5002}
        assert [b for b, (digest, _) in rows.items() if digest] == [110]
        await check_difference(driver, since, upto, rows)

    play(scenario, place, 8192)


def test_what_is_written_behind_the_later_point_is_not_in_it(place: Path) -> None:
    """The horizon has left both."""

    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 100)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        await driver.volume.mirrors.drop_hold()
        await driver.write(10, 2, 3)
        upto = await driver.volume.mirrors.kept.pin_jump(driver.mirror)
        await driver.overwrite(2, 3)
        assert driver.volume.folder.horizon.write > upto.write
        async with difference(driver, since, upto) as reader:
            rows = await rows_of(reader)
        assert set(rows) == {10, 11, 12}
        await check_difference(driver, since, upto, rows)

    play(scenario, place)


def test_a_table_that_is_merged_while_it_is_looked_at_is_looked_at_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 20)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        await driver.overwrite(2, 3)
        upto = await driver.volume.mirrors.kept.pin_jump(driver.mirror)
        within, closed = driver.volume.rescued.within, [1, 1, 1]

        def merged(*asked: int) -> Iterator[object]:
            if closed:
                closed.pop()
                raise OSError(9, "closed")
            return within(*asked)

        monkeypatch.setattr(driver.volume.rescued, "within", merged)
        async with difference(driver, since, upto) as reader:
            await check_difference(driver, since, upto, await rows_of(reader))
        assert not closed

    play(scenario, place)


def test_when_the_earlier_point_is_given_up_the_pass_ends(place: Path) -> None:
    """What was rescued since is gone: whoever read on would find that nothing has changed."""

    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 20)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        await driver.overwrite(2, 3)
        upto = await driver.volume.cut()
        await driver.volume.snapshot("held")
        await driver.overwrite(2, 7)
        async with difference(driver, since, upto) as reader:
            driver.volume.holders.end_readers(await driver.volume.mirrors.kept.drop_pin())
            await driver.fold_all()
            with pytest.raises(GaveWay):
                await reader.next_rows(0, 10)

    play(scenario, place)


def test_a_later_point_is_no_earlier_one(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(1, 1)
        first = await driver.volume.cut()
        await driver.write(1, 2)
        second = await driver.volume.cut()
        with pytest.raises(NotFound):
            await open_difference(driver.volume, second, first)
        assert not len(driver.volume.holders) - 1

    play(scenario, place)


def test_a_copy_that_came_further_than_was_heard_of_it_is_sent_what_changed_since_the_pin(place: Path) -> None:
    """It agreed on a point, the link was lost before that was said, and folds went on: of that point nothing is
    known any more, but of an earlier one of the same log."""

    async def scenario(driver: Source) -> None:
        differences = VolumeSource(driver.volume).differences
        await driver.write(0, 1, 100)
        heard = await driver.volume.cut()
        await driver.agreed_on(heard)
        await driver.write(10, 2, 5)
        stands = await driver.volume.cut()
        await driver.volume.mirrors.drop_hold()
        for seed in range(3, 8):
            await driver.write(20, seed, 5)
        await driver.fold_all()
        assert differences.known(stands.number) is None
        pin, end = Pin(stands.number, stands.position, stands.chain), stands.position
        common = await differences.common(driver.mirror, pin, end, Prefer.EITHER)
        assert common is not None and common.point == Pin(heard.number, heard.position, heard.chain)
        upto = (await differences.begin(driver.mirror, common.point, None)).point
        reader = await differences.open(common.point, upto, pin)
        rows = await rows_of(reader)  # type: ignore[arg-type]
        reader.close()
        assert driver.really(stands, upto) <= rows.keys() == {*range(10, 15), *range(20, 25)}
        assert differences.since(Pin(heard.number, heard.position, bytes(len(heard.chain)))) is None
        assert differences.since(Pin(heard.number - 1, heard.position, heard.chain)) is None

    play(scenario, place)


def test_a_copy_behind_the_earlier_point_gets_what_is_zero_at_both(place: Path) -> None:
    """It may hold what was written, and zeroed again, in between."""

    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 10)
        since = await driver.volume.cut()
        await driver.volume.snapshot("s")
        await driver.write(100, 2, 8)
        await driver.fold_all()
        await driver.change([(OP_TRIM, 100 * BLOCK, 8 * BLOCK)])
        await driver.fold_all()
        upto = await driver.volume.cut() or driver.volume.retained.newest
        assert upto is not None
        for stands_there, wanted in ((True, set()), (False, {*range(100, 108)})):
            reader = await open_difference(driver.volume, since, upto, stands_there)
            rows = await rows_of(reader)
            reader.close()
            assert rows.keys() == wanted

    play(scenario, place)


@pytest.mark.usefixtures("windows")
def test_differences_from_snapshot_to_snapshot_add_up_though_the_log_has_left_all_of_them(place: Path) -> None:
    """A copy that stands at the first point is brought over each snapshot to the newest point, and the way is
    decided anew at each: what is sent between two is what the model says."""

    async def scenario(driver: Source) -> None:
        differences = VolumeSource(driver.volume).differences
        await driver.churn(80, 1)
        stands = await driver.volume.cut()
        await driver.agreed_on(stands)
        named = []
        for turn, name in enumerate(("first", "second")):
            await driver.overwrite(1.5, 2 + 10 * turn)
            pin = await driver.volume.snapshot(name)
            named.append(pin.point)
        await driver.overwrite(1.5, 30)
        await driver.fold_all()
        await driver.crash()
        differences = VolumeSource(driver.volume).differences
        assert driver.volume.folder.horizon.point > named[1] and not driver.mirror.state.kept
        since, way = stands, list[int]()
        while True:
            pin_of = Pin(since.number, since.position, since.chain)
            plan = await differences.begin(driver.mirror, pin_of, None, pin_of)
            upto = plan.point
            way.append(upto.number)
            state = driver.mirror.state
            assert state.pin is not None and state.pin.point == since.number
            assert state.jump is not None and state.jump.point == upto.number
            assert state.kept == (upto.number not in named)
            start = await base_start(VolumeSource(driver.volume), plan)
            assert (start.end.position, start.end.chain) == (upto.position, upto.chain)
            async with difference(driver, since, upto) as reader:
                rows = await rows_of(reader)
            await check_difference(driver, since, upto, rows)
            if upto.number not in named:
                break
            since = upto
        assert way[:2] == named and len(way) == 3

    play(scenario, place)


def test_a_difference_whose_later_point_the_log_has_left_goes_on(place: Path) -> None:
    """It was partly sent when the log had no room: the point is pinned, and what it is, the openings say."""

    async def scenario(driver: Source) -> None:
        source = VolumeSource(driver.volume)
        await driver.write(0, 1, 20)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        await driver.write(10, 2, 5)
        pin = Pin(since.number, since.position, since.chain)
        upto = (await source.differences.begin(driver.mirror, pin, None)).point
        identity = await source.feed.identity_at(upto.position)
        await driver.volume.mirrors.drop_hold()
        await driver.write(50, 3, 5)
        await driver.fold_all()
        assert await source.feed.identity_at(upto.position) is None
        plan = await source.differences.begin(driver.mirror, pin, Pin(upto.number, upto.position, upto.chain))
        assert plan.point.number == upto.number
        start = await base_start(source, plan)
        assert (start.end.epoch, start.end.reign, start.end.chain) == identity
        reader = await source.differences.open(pin, plan.point, pin)
        assert (await rows_of(reader)).keys() == {*range(10, 15)}  # type: ignore[arg-type]
        reader.close()

    play(scenario, place)


def test_a_demoted_primary_keeps_where_its_mirrors_stood(place: Path) -> None:
    """It may have to go back there: folds stop, and rescue."""

    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 20)
        stood = await driver.volume.cut()
        await driver.agreed_on(stood)
        await driver.write(0, 2, 20)
        await driver.volume.close()
        await demote_directory(driver.host, str(driver.path), replace(driver.options, size=None))
        copy = await open_secondary(driver.host, str(driver.path), replace(driver.options, size=None))
        assert stood.write in copy.holders.pinned_writes()
        await copy.close()
        driver.options = replace(driver.options, promote=True)
        await driver.open()

    play(scenario, place)
