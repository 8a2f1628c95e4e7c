"""The ladder: every retained moment read through rungs is what the log says, whatever becomes of rungs, log and
horizon meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revolume.chain.map_file import MapFile
from revolume.errors import RevolumeError
from revolume.history import view_map
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host import real_host
from revolume.log.format.columns import RANGE_BLOCKS
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.pace.pacer import Pacer
from revolume.volume.metadata import layout

from .driver import BLOCK, SMALL, Driver, abandon, climb
from .store import inline_host, payload
from .test_model import SIZE as MODEL_SIZE
from .test_model import act, batch, play_to_the_end, step

SIZE = 5 << 19
OPTIONS = replace(SMALL, rung_versions=24)
Play = Callable[[], Awaitable[None]]


@pytest.fixture
def driver() -> Iterator[Driver]:
    place = Path(tempfile.mkdtemp(prefix="revolume-ladder-", dir="/dev/shm"))
    yield Driver(inline_host(), place / "v", SIZE, OPTIONS)
    shutil.rmtree(place)


def run(driver: Driver, play: Play) -> None:
    async def whole() -> None:
        try:
            await play()
        except BaseException:
            await abandon(driver.volume)
            raise
        finally:
            await driver.host.work.close()

    asyncio.run(whole())


async def history(driver: Driver, points: int, first: int = 0) -> None:
    """Between two points whole blocks, some in part, zeroes large and small, over and under each other."""
    blocks = SIZE // BLOCK
    for at in range(first, first + points):
        await driver.change([
            (OP_WRITE, (at * 37 + n * 5) % (blocks - 4) * BLOCK, payload(at * 100 + n, 2 * BLOCK)) for n in
            range(6)
        ])  # fmt: skip
        await driver.change([
            (OP_WRITE, (at * 53) % (blocks - 4) * BLOCK + 9, payload(at, 700)),
            (OP_ZERO, (at * 41) % (blocks - 8) * BLOCK, 5 * BLOCK),
            (OP_TRIM, (at * 97) % (blocks - RANGE_BLOCKS - 8) * BLOCK, (RANGE_BLOCKS + 3) * BLOCK),
            (OP_WRITE, (at * 11) % (blocks - 4) * BLOCK, payload(at + 7, BLOCK)),
        ])  # fmt: skip
        await driver.volume.point_maker.cut()


@pytest.fixture
def rungs_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many maps each view that is opened stands on."""
    found = list[int]()
    ground = view_map._ground

    def counted(*args: object) -> object:
        made = ground(*args)  # type: ignore[arg-type]
        found.append(len(made.layers))
        return made

    monkeypatch.setattr(view_map, "_ground", counted)
    return found


def test_every_moment_is_what_was_written_and_rungs_are_few(driver: Driver, rungs_read: list[int]) -> None:
    async def play() -> None:
        await driver.open()
        await history(driver, 40)
        rungs = await climb(driver.volume)
        levels = {rung.level for rung in rungs}
        assert levels == {0, 1, 2, 3, 4, 5}, levels
        lowest = [rung for rung in rungs if rung.level == 0]
        assert [rung.after for rung in lowest] == [0, *(rung.point for rung in lowest[:-1])]
        await driver.check_moments()
        assert max(rungs_read) <= 2 * len(levels) and max(rungs_read) >= 3
        await driver.reopen()
        assert driver.volume.rungs.usable() == rungs
        await driver.check_moments(60)
        await driver.volume.close()
        report = check(driver.host, str(driver.path))
        assert report.good, report.problems

    run(driver, play)


def test_rungs_over_a_base(driver: Driver, rungs_read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_map, "MERGED_MAX", 0)

    async def play() -> None:
        await driver.open()
        await history(driver, 12)
        await driver.volume.base_maps.renew(force=True)
        await history(driver, 12, 12)
        await climb(driver.volume)
        await driver.check_moments(80)
        view = await open_view(driver.volume, ResolvedMoment(driver.volume.write, 0), "test")
        await driver.volume.base_maps.renew(force=True)  # the one below the view's is gone
        buffer = bytearray(SIZE)
        await view.reader.read(0, memoryview(buffer))
        assert buffer == driver.model.content(SIZE, driver.model.blocks)
        view.close()
        await driver.volume.close()

    run(driver, play)


def test_folds_pass_rungs_in_part_and_wholly(driver: Driver) -> None:
    async def play() -> None:
        await driver.open()
        await history(driver, 30)
        rungs = await climb(driver.volume)
        points = [point.number for point in driver.volume.points()]
        for number in (points[4], points[5], points[13], points[22]):
            point = driver.volume.retained.numbered(number)
            assert point is not None
            await driver.volume.folder.fold_to(point, lambda write: None)
            kept = driver.volume.manifest.state.rungs
            assert {rung.number for rung in kept} == {r.number for r in rungs if r.point > number}
            await driver.check_moments(40)
            await climb(driver.volume)
            await driver.check_moments(40)
            rungs = driver.volume.rungs.usable()
        names = {layout.rung_name(rung.number) for rung in rungs}
        assert {name for name in os.listdir(driver.path / "maps") if name.startswith("rung")} == names
        await driver.volume.close()

    run(driver, play)


def test_a_view_outlives_its_rungs(driver: Driver) -> None:
    """Dropped while it is open, and the files are gone: it reads on."""

    async def play() -> None:
        await driver.open()
        await history(driver, 20)
        rungs = await climb(driver.volume)
        number = driver.volume.write - 3
        view = await open_view(driver.volume, ResolvedMoment(number, 0), "test")
        await driver.volume.ladder.drop([rung.number for rung in rungs])
        await driver.volume.ladder.step()
        dropped = {layout.rung_name(rung.number) for rung in rungs}
        assert not dropped & set(os.listdir(driver.path / "maps"))
        buffer = bytearray(SIZE)
        await view.reader.read(0, memoryview(buffer))
        assert buffer == driver.model.content(*driver.model.moments[number])
        view.close()
        await driver.volume.close()

    run(driver, play)


# --- damage --------------------------------------------------------------------------------------------


def spoil(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * 4096 + 1000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("page", [0, 1])
def test_a_damaged_rung_is_not_believed_and_made_anew(driver: Driver, page: int) -> None:
    """Its header, which is met when it is opened, or a page of it, which a read meets."""

    async def play() -> None:
        await driver.open()
        await history(driver, 20)
        rungs = await climb(driver.volume)
        for rung in rungs:
            spoil(driver.path / "maps" / layout.rung_name(rung.number), page)
        for number in sorted(driver.model.moments)[::9]:
            await driver.check_moment(number)
        assert driver.volume.rungs.damaged
        assert not driver.volume.damage.in_past(0), "nothing of the volume is damaged"
        pacer = Pacer(driver.host.clock)
        await driver.volume.scrubber.run((pacer,), lambda stage, done, total: None)  # those that nobody has read
        made = await climb(driver.volume)
        assert not {rung.number for rung in made} & driver.volume.rungs.damaged
        assert {(r.after, r.point) for r in made} == {(r.after, r.point) for r in rungs}
        await driver.check_moments(30)
        await driver.volume.close()
        report = check(driver.host, str(driver.path))
        assert report.good, report.problems

    run(driver, play)


def test_a_view_that_meets_damage_goes_on(driver: Driver) -> None:
    """Opened while all was well."""

    async def play() -> None:
        await driver.open()
        await history(driver, 20)
        rungs = await climb(driver.volume)
        number = driver.volume.write - 30
        view = await open_view(driver.volume, ResolvedMoment(number, 0), "test")
        for rung in rungs:
            spoil(driver.path / "maps" / layout.rung_name(rung.number), 1)
        buffer = bytearray(SIZE)
        await view.reader.read(0, memoryview(buffer))
        assert buffer == driver.model.content(*driver.model.moments[number])
        view.close()
        await driver.volume.close()

    run(driver, play)


def test_a_rung_of_other_bounds_is_refused(driver: Driver) -> None:
    async def play() -> None:
        await driver.open()
        await history(driver, 12)
        first, second = [rung for rung in await climb(driver.volume) if rung.level == 0][:2]
        maps = driver.path / "maps"
        shutil.copy(maps / layout.rung_name(second.number), maps / layout.rung_name(first.number))
        with pytest.raises(RevolumeError):
            driver.volume.rungs.take(first)
        await driver.check_moments(30)
        await driver.volume.close()

    run(driver, play)


class AtRest:
    """Upkeep has no ladder to climb: the test does it."""

    async def step(self) -> bool:
        return False

    def stop(self) -> None:
        """Nothing has begun."""


async def opened_by_hand(driver: Driver) -> None:
    await driver.open()
    upkeep = driver.volume.upkeep
    upkeep._space = replace(upkeep._space, ladder=cast(Any, AtRest()))


def test_a_merge_of_a_damaged_rung_makes_both_anew(driver: Driver) -> None:
    async def play() -> None:
        await opened_by_hand(driver)
        await history(driver, 6)
        assert await driver.volume.ladder.step() and await driver.volume.ladder.step()
        rungs = driver.volume.rungs.usable()
        assert [rung.level for rung in rungs] == [0, 0]
        spoil(driver.path / "maps" / layout.rung_name(rungs[0].number), 1)
        assert not await driver.volume.ladder.step()
        assert {0, 1} <= {rung.level for rung in await climb(driver.volume)}
        await driver.check_moments(30)
        await driver.volume.close()

    run(driver, play)


# --- how they are made ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["stopped", "crashed"])
def test_what_was_not_done_leaves_no_file(driver: Driver, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest does not name it: whatever is in it, nobody reads it."""

    async def play() -> None:
        await driver.open()
        await history(driver, 10)
        rungs = await climb(driver.volume)
        await (driver.volume.close() if ending == "stopped" else abandon(driver.volume))
        stray = driver.path / "maps" / layout.rung_name(10**6)
        shutil.copy(driver.path / "maps" / layout.rung_name(rungs[0].number), stray)
        await driver.open()
        assert not stray.exists()
        assert driver.volume.rungs.usable() == rungs
        await driver.check_moments(20)
        await driver.volume.close()

    run(driver, play)


def test_no_rung_is_made_where_the_disk_has_little_room(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        await opened_by_hand(driver)
        await history(driver, 10)
        monkeypatch.setattr("revolume.volume.livemap.ladder.SHARE_OF_FREE", 1 << 50)
        assert not await climb(driver.volume)
        monkeypatch.undo()
        assert await climb(driver.volume)
        driver.volume.reserve.size += 4096  # what is kept back is lacking
        assert not await driver.volume.ladder.step() and not driver.volume.rungs.usable()
        driver.volume.reserve.size -= 4096
        await driver.check_moments(20)
        await driver.volume.close()

    run(driver, play)


def test_a_map_of_before_has_no_beginning(tmp_path: Path) -> None:
    """What a base map's header says of where it begins is 0: so is what an older release wrote there."""
    from revolume.blocks.delta_map import DeltaMap
    from revolume.blocks.numbers import Address, WriteNumber
    from revolume.chain.map_file import MapMeta, write_map

    directory = real_host().disk.open(str(tmp_path))
    file = directory.open("m", create=True)
    meta = MapMeta(WriteNumber(5), Address(6), 7)
    write_map(file, bytes(16), meta, [DeltaMap()])
    assert (tmp_path / "m").read_bytes()[13 * 8 : 14 * 8] == bytes(8)
    assert MapFile.open(file, bytes(16)).meta == meta
    directory.close()


# --- at random -----------------------------------------------------------------------------------------

climbing = st.tuples(st.sampled_from(["climb", "rung", "fold", "cut"]), st.integers(0, 1000))


@settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "25")), deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(steps=st.lists(st.one_of(batch, batch, step, climbing), min_size=10, max_size=60))
def test_random_histories(steps: list[tuple[str, object]]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="revolume-ladder-", dir="/dev/shm"))
    made = Driver(inline_host(), directory / "v", MODEL_SIZE, replace(SMALL, rung_versions=16))
    try:
        asyncio.run(play_to_the_end(made, steps, with_rungs))
    finally:
        shutil.rmtree(directory)


async def with_rungs(driver: Driver, name: str, number: int) -> None:
    match name:
        case "climb":
            await driver.volume.point_maker.cut()
            await climb(driver.volume)
            await driver.check_moments(6)
        case "rung":
            await driver.volume.ladder.step()
        case _:
            await act(driver, name, number)
