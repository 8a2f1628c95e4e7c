"""The dirty region log names every block that changed since the mirror's last agreed point, or says nothing."""

from __future__ import annotations

import errno
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.numbers import Position, WriteNumber
from revolume.chain.point import Point
from revolume.errors import Damaged, NotFound
from revolume.host import real_host
from revolume.host.real.disk import RealDisk
from revolume.log.write.operations import OP_TRIM
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.wire.codec import Pin
from revolume.offline.check.check import check
from revolume.volume.dirty import region_file, region_jobs
from revolume.volume.dirty.region_file import RegionFile, chunks_of, united, write_regions
from revolume.volume.members.base_start import point_of
from revolume.volume.members.positions import Positions
from revolume.volume.metadata import layout
from revolume.volume.metadata.dirty_log import DirtyLog, agreed_point, pack_clean, pack_dirty
from revolume.volume.metadata.manifest_edits import EditKind, apply
from revolume.volume.metadata.manifest_state import Horizon, MirrorMode, MirrorState, State
from revolume.volume.metadata.node_edits import pack_member
from revolume.volume.metadata.resync_order import Prefer
from revolume.volume.primary_status import kept_status

from .away import MEMORY, Source, play, rows_of
from .driver import BLOCK

pytestmark = pytest.mark.timeout(120)
VOLUME = bytes(range(16))


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-dirty-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=[1 << 16, 32], ids=["one chunk", "many chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_file, "CHUNK_BLOCKS", request.param)


async def lost(driver: Source, since: Point) -> DirtyLog:
    """Log and pin of the mirror, which stands at ``since``, are given up."""
    await driver.agreed_on(since)
    while driver.mirror.state.kept:
        assert await driver.volume.mirrors.drop_hold()
    while driver.mirror.state.pinned or driver.mirror.cut:
        driver.volume.holders.end_readers(await driver.volume.mirrors.kept.drop_pin())
    dirty = driver.volume.dirty.of("m")
    assert dirty is not None
    return dirty


async def sent(driver: Source, since: Point) -> dict[int, tuple[int, bytes]]:
    """What is sent to a copy that stands at ``since``; every block that changed is, as it is now."""
    differences, pin = VolumeSource(driver.volume).differences, Pin(since.number, since.position, since.chain)
    common = await differences.common(driver.mirror, pin, since.position, Prefer.EITHER)
    assert common is not None
    upto = (await differences.begin(driver.mirror, common.point, None)).point
    reader = await differences.open(common.point, upto, pin)
    try:
        rows = await rows_of(reader)
    finally:
        reader.close()
    assert driver.really(since, upto) <= rows.keys()
    zero, after = bytes(BLOCK), driver.model.moments[upto.write][1]
    assert all(content == after.get(block, zero) for block, (_, content) in rows.items())
    return rows


# What it names


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("horizon", ["before", "at", "behind"])
def test_of_plain_writes_exactly_the_changed_blocks_are_named(place: Path, horizon: str) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 100)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        await driver.volume.mirrors.drop_hold()
        await driver.write(10, 20)
        if horizon == "behind":
            await driver.fold_all()
        while horizon == "at" and driver.volume.folder.horizon.write < since.write:
            assert await driver.fold()
        await lost(driver, since)
        await driver.write(50, 3, 7)
        await driver.change([(OP_TRIM, 52 * BLOCK, BLOCK), (OP_TRIM, 150 * BLOCK, 50 * BLOCK)])
        await driver.fold_all()
        dirty = driver.volume.dirty.of("m")
        assert dirty is not None and dirty.blocks == 8, "what was zero and is again has not changed"
        await driver.write(120, 4)
        assert set(await sent(driver, since)) == {10, *range(50, 57), 120}

    play(scenario, place)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("seed", range(12))
def test_b6_no_changed_block_is_missing_whenever_it_folds_or_is_killed(place: Path, seed: int) -> None:
    async def scenario(driver: Source) -> None:
        chance = random.Random(seed)
        await driver.churn(chance.randrange(60), seed)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        if chance.random() < 0.7:
            await driver.volume.mirrors.drop_hold()
            await driver.overwrite(chance.random(), seed + 1)
        await lost(driver, since)
        for round_ in range(chance.randrange(1, 5)):
            await driver.churn(chance.randrange(1, 80), seed + 100 * round_)
            for _ in range(chance.randrange(4)):
                await driver.volume.cut()
                await driver.fold()
            if chance.random() < 0.5:
                await driver.crash()
        await driver.volume.cut()
        await sent(driver, since)
        await driver.overwrite(1, seed + 7)  # and another time, of a copy that stands where it stood
        await sent(driver, since)
        assert kept_status(driver.volume, driver.mirror).kept == "difference", "what is being sent is pinned"
        await driver.volume.close()
        assert check(driver.host, str(driver.path)).good
        await driver.open()

    play(scenario, place)


def test_b6_the_log_behind_the_file_is_added_without_a_newer_file(place: Path) -> None:
    """No write waits for one."""

    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 30)
        since = await driver.volume.cut()
        before = await lost(driver, since)
        await driver.write(10, 2, 5)
        await driver.crash()
        await driver.volume.cut()
        assert driver.volume.dirty.of("m") == before and before.blocks == 0
        assert set(await sent(driver, since)) == {*range(10, 15)}

    play(scenario, place)


def test_b6_a_power_cut_before_the_manifest_leads_to_a_newer_file_leaves_the_older(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 30)
        since = await driver.volume.cut()
        await lost(driver, since)
        await driver.write(10, 2, 5)
        await driver.fold_all()
        before = driver.volume.dirty.of("m")
        assert before is not None and before.blocks == 5
        await driver.write(20, 3, 5)
        await driver.volume.cut()
        spec = region_jobs.RegionsSpec(
            str(driver.path), driver.volume.volume_id, before.file + 1, region_jobs.RescuedRegions(())
        )
        region_jobs.make_regions(RealDisk(), spec)
        await driver.crash()
        names = [file.name for file in (driver.path / layout.MIRRORS).iterdir()]
        assert driver.volume.dirty.of("m") == before and names == [layout.dirty_name(before.file)]
        assert set(await sent(driver, since)) == {*range(10, 15), *range(20, 25)}

    play(scenario, place)


# Who may have it


def test_a_copy_that_came_further_is_covered_and_one_that_is_older_or_another_is_not(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 30)
        older = await driver.volume.cut()
        await driver.write(0, 2, 3)
        since = await driver.volume.cut()
        await lost(driver, since)
        await driver.write(10, 3)
        further = await driver.volume.cut()
        differences = VolumeSource(driver.volume).differences
        while differences.known(further.number) is not None:
            await driver.write(20, 4)
            await driver.fold_all()
        assert set(await sent(driver, further)) == {10, 20}
        for pin in (
            Pin(older.number, older.position, older.chain),
            Pin(since.number, since.position, b"x" * 16),
        ):
            assert await differences.common(driver.mirror, pin, pin.position, Prefer.EITHER) is None

    play(scenario, place)


def test_its_point_is_offered_as_one_to_go_back_to(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 30)
        since = await driver.volume.cut()
        await lost(driver, since)
        await driver.overwrite(1, 2)
        offered = VolumeSource(driver.volume).differences.points()
        assert Pin(since.number, since.position, since.chain) in offered

    play(scenario, place)


# Its end


@pytest.mark.parametrize("durably", [True, False])
def test_b6_only_a_durable_acknowledgement_clears_it(place: Path, durably: bool) -> None:
    async def scenario(driver: Source) -> None:
        driver.folds_by_order()
        await driver.write(0, 1, 30)
        since = await driver.volume.cut()
        await lost(driver, since)
        await driver.overwrite(1, 2)
        await sent(driver, since)
        jump = driver.mirror.state.jump
        assert jump is not None
        point = VolumeSource(driver.volume).differences.known(jump.point)
        assert point is not None
        at, durable = point.position, point.position if durably else since.position
        await driver.volume.log.commit.wait_durable(at)
        await driver.folded()
        driver.volume.mirrors.connected(driver.mirror, Positions(at, durable, jump.point, at))
        await driver.volume.mirrors.advance_hold(driver.mirror)
        assert (driver.volume.dirty.of("m") is None) == durably
        assert list((driver.path / layout.MIRRORS).iterdir()) == [] or not durably
        await driver.crash()
        assert (driver.volume.dirty.of("m") is None) == durably
        if not durably:
            await driver.volume.cut()
            await sent(driver, since)

    play(scenario, place)


def test_pins_that_go_again_before_the_copy_stands_there_leave_it(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 30)
        since = await driver.volume.cut()
        before = await lost(driver, since)
        await driver.overwrite(1, 2)
        await sent(driver, since)
        await driver.overwrite(0.5, 3)
        while driver.mirror.state.kept:
            await driver.volume.mirrors.drop_hold()
        while driver.mirror.state.pinned:
            await driver.volume.mirrors.kept.drop_pin()
        dirty = driver.volume.dirty.of("m")
        assert dirty is not None and dirty.since == before.since and dirty.write >= before.write
        await driver.overwrite(1, 4)
        await sent(driver, since)

    play(scenario, place)


@pytest.mark.parametrize("end", ["detach", "replace"])
def test_it_goes_with_the_mirror(place: Path, end: str) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 30)
        await lost(driver, await driver.volume.cut())
        await getattr(driver.volume.mirrors, end)("m")
        assert driver.volume.dirty.of("m") is None
        await driver.reopen()
        assert driver.volume.dirty.of("m") is None and not list((driver.path / layout.MIRRORS).iterdir())

    play(scenario, place)


@pytest.mark.parametrize("what", ["damaged", "gone", "unreadable"])
@pytest.mark.parametrize("met_by", ["fold", "difference"])
def test_one_that_is_damaged_or_gone_says_nothing(place: Path, what: str, met_by: str) -> None:
    async def scenario(driver: Source) -> None:
        driver.folds_by_order()
        await driver.write(0, 1, 30)
        since = await driver.volume.cut()
        await lost(driver, since)
        await driver.overwrite(1, 2)
        await driver.folded()
        (file,) = (driver.path / layout.MIRRORS).iterdir()
        if what == "gone":
            file.unlink()
        elif what == "unreadable":
            file.unlink()
            file.mkdir()
        else:
            content = bytearray(file.read_bytes())
            content[region_file.PAGE + 5] ^= 1
            file.write_bytes(content)
        if met_by == "fold":
            await driver.overwrite(1, 3)
        else:
            with pytest.raises(NotFound):
                await sent(driver, since)
        assert driver.volume.dirty.of("m") is None and not driver.volume.manifest.state.dirty
        told = [event.message for event in driver.volume.events.all()]
        assert any("dirty region log of mirror m is given up" in each for each in told)
        assert kept_status(driver.volume, driver.mirror).kept in ("nothing", "difference")
        await driver.overwrite(1, 3)  # nobody's write is refused

    play(scenario, place)


def test_a_disk_that_has_no_room_even_for_it_stops_no_fold(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 30)
        await lost(driver, await driver.volume.cut())
        monkeypatch.setattr(region_jobs, "write_regions", full)
        await driver.overwrite(2, 2)
        assert driver.volume.dirty.of("m") is None and not list((driver.path / layout.MIRRORS).iterdir())

    play(scenario, place)


def test_one_that_a_fold_was_ahead_of_says_nothing(place: Path) -> None:
    """However that came to be: a jump landed, an older release had the volume."""

    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 30)
        since = await driver.volume.cut()
        dirty = await lost(driver, since)
        await driver.overwrite(1, 2)
        await driver.volume.manifest.record((EditKind.DIRTY, pack_dirty(dirty)))
        assert driver.volume.dirty.of("m") is None and not driver.volume.dirty.all()
        await driver.overwrite(1, 3)
        assert not driver.volume.manifest.state.dirty

    play(scenario, place)


# Its file and its edit


@pytest.mark.usefixtures("chunks")
def test_a_file_names_what_went_into_it(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    sets = [np.unique(chance.integers(0, 1 << 20, count)).astype(np.uint64) for count in (0, 1, 300, 3000)]
    with closing(RealDisk().open(str(tmp_path))) as directory:
        streams = [chunks_of(np.array_split(each, 7)) for each in sets]
        with closing(directory.open("file", create=True)) as file:
            written = write_regions(file, VOLUME, 3, united(streams))
        every = np.unique(np.concatenate(sets))
        with closing(RegionFile.open(directory.open("file", write=False), VOLUME, 3)) as regions:
            assert written == regions.blocks == len(every)
            regions.verify()
            for start, end in ((0, 1 << 20), (0, 0), (70_000, 70_001), (65_535, 200_000)):
                want = every[(every >= start) & (every < end)]
                assert np.array_equal(regions.within(start, end), want)


def test_every_flipped_bit_of_a_file_is_told(tmp_path: Path) -> None:
    with closing(RealDisk().open(str(tmp_path))) as directory:
        with closing(directory.open("file", create=True)) as file:
            write_regions(file, VOLUME, 3, chunks_of([np.arange(5, 90_000, 7, dtype=np.uint64)]))
        whole = (tmp_path / "file").read_bytes()
        padding = 0
        for at in range(0, len(whole), 13):
            (tmp_path / "file").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            try:
                with closing(RegionFile.open(directory.open("file", write=False), VOLUME, 3)) as regions:
                    regions.verify()
                    assert len(regions.within(0, 1 << 20)) == regions.blocks == len(range(5, 90_000, 7))
                    padding += 1
            except Damaged:
                continue
        assert padding * 13 < region_file.PAGE, "between the last chunk and the index alone"
        for number, volume in ((4, VOLUME), (3, bytes(16))):
            (tmp_path / "file").write_bytes(whole)
            with pytest.raises(Damaged):
                RegionFile.open(directory.open("file", write=False), volume, number)


def test_the_edit_as_its_bytes_are() -> None:
    mirror = MirrorState.unjoined("b", MirrorMode.ASYNC)
    state = apply(State(volume=VOLUME), EditKind.MEMBER, pack_member(mirror))
    since = Horizon(point=7, write=WriteNumber(70), position=Position(77), time_ns=5, chain=b"c" * 16)
    dirty = DirtyLog("b", agreed_point(point_of(since)), 3, 9, WriteNumber(90), Position(99), 1234)
    packed = pack_dirty(dirty)
    assert len(packed) == 89 and packed[48:56] == (3).to_bytes(8, "little") and packed[88:] == b"b"
    state = apply(state, EditKind.DIRTY, packed)
    assert state.dirty == (dirty,)
    assert apply(state, EditKind.DIRTY, pack_dirty(replace(dirty, file=4))).dirty == (replace(dirty, file=4),)
    assert apply(state, EditKind.DIRTY, pack_clean("b")).dirty == ()
    assert apply(state, EditKind.DIRTY, pack_clean("c")).dirty == (dirty,)
    assert apply(state, EditKind.DROP_MIRROR, b"b").dirty == ()
    assert apply(state, EditKind.LINEAGE, b"").dirty == ()
    with pytest.raises(Damaged):
        apply(state, EditKind.DIRTY, packed[:88])


def test_check_reads_it(place: Path) -> None:
    async def scenario(driver: Source) -> None:
        await driver.write(0, 1, 100)
        since = await driver.volume.cut()
        await driver.agreed_on(since)
        await driver.volume.mirrors.drop_hold()
        await lost(driver, since)
        await driver.overwrite(1.0, 5)
        await driver.fold_all()
        dirty = driver.volume.dirty.of("m")
        assert dirty is not None and dirty.blocks > 2

    play(scenario, place)
    volume = next(place.glob("**/mirrors")).parent
    assert not check(real_host(), str(volume)).problems
    (file,) = (volume / "mirrors").iterdir()
    spoilt = bytearray(file.read_bytes())
    spoilt[BLOCK + 3] ^= 1
    file.write_bytes(spoilt)
    (problem,) = check(real_host(), str(volume)).problems
    assert "is not what was written" in str(problem) and file.name in str(problem)
    file.unlink()
    (problem,) = check(real_host(), str(volume)).problems
    assert "is missing" in str(problem)
