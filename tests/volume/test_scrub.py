"""A scrub finds every kind of damage, names it, and finds none where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from revolume.errors import RevolumeError
from revolume.log.format.segment import segment_name
from revolume.log.read.scan import SegmentReader
from revolume.log.write.operations import OP_WRITE
from revolume.pace.pacer import Pacer
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.metadata import layout
from revolume.volume.primary import Volume
from revolume.volume.scrub import scrubber as scrubbing
from revolume.volume.scrub.image_stage import ImageStage
from revolume.volume.scrub.scrubber import Scrubbed, VolumeClosed
from revolume.volume.space.horizon_flip import HorizonFlip

from .driver import BLOCK, Driver, abandon, climb
from .store import SIZE, TINY, Store, checked, inline_host, make_store, opened, payload

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return asyncio.run(make_store(inline_host(), tmp_path_factory.mktemp("scrub") / "v"))


async def scrubbed(volume: Volume) -> Scrubbed:
    return await volume.scrubber.run((Pacer(volume.context.host.clock),), lambda stage, done, total: None)


def played(path: Path, scenario: Callable[[Volume], Awaitable[None]]) -> None:
    async def run() -> None:
        volume = await opened(inline_host(), path)
        try:
            await scenario(volume)
        finally:
            await abandon(volume)

    asyncio.run(run())


def copied(store: Store, folder: Path) -> Path:
    shutil.copytree(store.path, folder / "v")
    return folder / "v"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_nothing_is_found_in_a_whole_store(store: Store, tmp_path: Path) -> None:
    async def scenario(volume: Volume) -> None:
        found = await scrubbed(volume)
        assert (found.found, found.last.counts.damaged) == ((), 0)
        assert found.last.counts.read > 1 << 19
        assert found.last.ended_ns >= found.last.started_ns > 0
        assert volume.manifest.state.scrub.last == found.last
        assert not volume.manifest.state.scrub.under_way

    played(copied(store, tmp_path), scenario)


def offsets(store: Store) -> list[tuple[str, int]]:
    """Places all over the files that hold something of the volume: (file, offset)."""
    places = []
    for name in store.files():
        size = (store.path / name).stat().st_size
        if name.parts[0] in ("log", "image", "image.sums", "maps", "rescue"):
            places += [(str(name), offset) for offset in range(37, size, 15101)]
    return places


def test_what_the_verifier_finds_a_scrub_finds_and_nothing_else(store: Store, tmp_path: Path) -> None:
    """A base map that an opening makes anew itself is as good."""
    path, found = copied(store, tmp_path), 0
    for name, offset in offsets(store):
        flip(path / name, offset)
        told = checked(inline_host(), path).told
        result: list[Scrubbed] = []

        async def scenario(volume: Volume, result: list[Scrubbed] = result) -> None:
            result.append(await scrubbed(volume))

        with contextlib.suppress(RevolumeError):  # an opening that refuses says enough
            played(path, scenario)
        if result and bool(told) != bool(result[0].found):
            cured = name.startswith("maps/")
            assert cured and not result[0].found, (name, offset, told, result[0].found)
        found += bool(result and result[0].found)
        shutil.rmtree(path)
        shutil.copytree(store.path, path)
    assert found > 10


def test_a_header_is_named_and_hides_no_transfer_behind_it(store: Store, tmp_path: Path) -> None:
    """The footer says where the others lie; a block behind the header is found damaged as well."""
    path = copied(store, tmp_path)

    async def scenario(volume: Volume) -> None:
        horizon = volume.image.horizon.address
        segments = volume.log.segments_between(horizon, volume.log.pool.next_use * volume.log.pool.segment_blocks)
        found = [list(SegmentReader(segment, volume.volume_id).anywhere()) for segment in segments]
        run = next(each for each in found if len(each) > 2 and each[0].address >= horizon)
        first, second = run[0], next(each for each in run[1:] if each.transfer.blocks)
        name = segment_name(first.segment.index)
        flip(path / "log" / name, first.block * BLOCK + 100)
        flip(path / "log" / name, second.payload_block * BLOCK)
        result = await scrubbed(volume)
        assert len(result.found) == 2
        assert result.found[0].startswith(f"header at log/{name}, byte {first.block * BLOCK} ")
        assert result.found[1].startswith("block ")
        assert f"log/{name}, byte {second.payload_block * BLOCK} " in result.found[1]
        assert any("is not what was written" in event.message for event in volume.events.all())
        assert volume.scrubber.status.last_damaged == 2

    played(path, scenario)


def test_a_digest_page_is_made_anew(store: Store, tmp_path: Path) -> None:
    """Out of memory, or out of the image's blocks where nobody has read it yet."""
    path = copied(store, tmp_path)
    assert checked(inline_host(), path).told == []

    async def scenario(volume: Volume) -> None:
        digests = volume.image.digests
        numbers, _ = digests.places(digests.present(0, 1))
        flip(path / "image.sums", int(numbers[0]) * 4096 + 50)
        result = await scrubbed(volume)
        assert len(result.found) == 1 and "digest page at image.sums" in result.found[0]
        assert "it has been put right" in result.found[0]
        assert (await scrubbed(volume)).found == ()
        again = BlockDigests.open(volume.context.directory, volume.volume_id, write=False)
        assert again.verify() > 0
        again.close()

    played(path, scenario)
    assert checked(inline_host(), path).told == []


def test_a_base_map_is_made_anew(store: Store, tmp_path: Path) -> None:
    path = copied(store, tmp_path)

    async def scenario(volume: Volume) -> None:
        before = volume.maps.base_name
        flip(path / "maps" / before, 4096 + 200)
        result = await scrubbed(volume)
        assert result.found == (f"map at maps/{before} is not what was written; it has been put right",)
        assert volume.maps.base_name != before

    played(path, scenario)


def test_the_footer_of_a_sealed_segment_is_missed_and_made_anew(store: Store, tmp_path: Path) -> None:
    path = copied(store, tmp_path)

    async def scenario(volume: Volume) -> None:
        volume.append([(OP_WRITE, 0, BLOCK, memoryview(payload(1, BLOCK)))])
        first = volume.log.appender.segment
        while volume.log.appender.segment is first:
            volume.append([(OP_WRITE, 0, 3 * BLOCK, memoryview(payload(1, 3 * BLOCK)))])
        assert first is not None
        assert (await scrubbed(volume)).found == ()
        flip(path / "log" / segment_name(first.index), first.blocks * BLOCK - BLOCK + 100)
        (told,) = (await scrubbed(volume)).found
        assert told.startswith(f"footer at log/{segment_name(first.index)}, at its end")
        assert "it has been put right" in told
        assert (await scrubbed(volume)).found == ()

    played(path, scenario)


def test_what_a_fold_without_its_flip_has_written_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image has blocks of which the digests do not speak yet; they lie in the log."""

    async def no_flip(*_: object) -> None:
        raise OSError(5, "Input/output error")

    async def scenario() -> None:
        driver = Driver(inline_host(), tmp_path / "v", SIZE, TINY)
        await driver.open()
        volume = driver.volume
        for number in range(3):
            for at in range(8):
                await driver.change([(OP_WRITE, at * BLOCK, payload(10 * number + at, 5 * BLOCK))])
            await volume.point_maker.cut()
        assert await driver.fold()
        for at in range(8):
            await driver.change([(OP_WRITE, at * 2 * BLOCK, payload(100 + at, 5 * BLOCK))])
        await volume.point_maker.cut()
        with monkeypatch.context() as patch:
            patch.setattr(HorizonFlip, "to", no_flip)
            assert not await driver.fold()
        assert volume.folder.retired_write > volume.image.horizon.write
        assert (await scrubbed(volume)).found == ()

        async def nothing(_: ImageStage) -> object:
            return type("", (), {"contains": staticmethod(lambda blocks: blocks != blocks)})

        with monkeypatch.context() as patch:
            patch.setattr(ImageStage, "_being_replaced", nothing)
            assert (await scrubbed(volume)).found != (), "the fold had written nothing"
        await abandon(volume)

    asyncio.run(scenario())


def test_a_segment_that_is_recycled_while_it_is_read_is_no_damage(store: Store, tmp_path: Path) -> None:
    path = copied(store, tmp_path)

    async def scenario(volume: Volume) -> None:
        pool, stage = volume.log.pool, volume.scrubber._log_stage
        stage.begin()
        place = scrubbing.ScrubPlace()
        while True:
            read = await stage.read(place, 1 << 20)
            assert read.following is not None and read.findings == ()
            if read.bytes_read:
                break
            place = read.following
        segment = pool.by_use[read.following.number - (read.following.block == 0)]
        written = [each for each in SegmentReader(segment, volume.volume_id).anywhere() if each.transfer.blocks]
        flip(path / "log" / segment_name(segment.index), written[-1].payload_block * BLOCK)
        assert (await stage.read(place, 1 << 20)).findings != ()
        job = volume.log.work.job

        async def recycled_meanwhile(*words: object) -> object:
            found = await job(*words)  # type: ignore[arg-type]
            pool.by_use.pop(segment.use, None)
            return found

        object.__setattr__(volume.log, "work", type("", (), {"job": staticmethod(recycled_meanwhile)}))
        try:
            assert (await stage.read(place, 1 << 20)).findings == ()
        finally:
            object.__setattr__(volume.log, "work", inline_host().work)
            pool.by_use[segment.use] = segment

    played(path, scenario)


def test_a_pass_goes_on_where_it_was_after_a_crash(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "RECORDED_NS", -1)
    monkeypatch.setattr(scrubbing, "SLICE_PIECES", 0)  # one transfer, or one page, at a time
    path = copied(store, tmp_path)
    places: list[object] = []

    async def first(volume: Volume) -> None:
        began = asyncio.get_running_loop().create_task(scrubbed(volume))
        while len(places) < 12:
            await asyncio.sleep(0)
            if volume.manifest.state.scrub.place not in places:
                places.append(volume.manifest.state.scrub.place)
        began.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await began

    async def second(volume: Volume) -> None:
        record = volume.manifest.state.scrub
        assert record.under_way and record.counts.read > 0
        place, read = record.place, record.counts.read
        seen: list[object] = []
        inner = volume.scrubber._log_stage.read

        async def watched(at: scrubbing.ScrubPlace, size: int) -> object:
            seen.append(at)
            return await inner(at, size)

        volume.scrubber._log_stage.read = watched  # type: ignore[method-assign, assignment]
        found = await scrubbed(volume)
        assert seen[0] == place and places[0] not in seen
        assert found.last.counts.read > read
        assert found.last.started_ns == record.started_ns

    played(path, first)
    played(path, second)


def test_closing_ends_a_pass_which_stays_under_way(store: Store, tmp_path: Path) -> None:
    path = copied(store, tmp_path)

    async def scenario(volume: Volume) -> None:
        began = asyncio.get_running_loop().create_task(scrubbed(volume))
        while not volume.manifest.state.scrub.under_way:
            await asyncio.sleep(0)
        await volume.scrubber.stop()
        with pytest.raises(VolumeClosed):
            await began
        assert volume.manifest.state.scrub.under_way
        with pytest.raises(VolumeClosed):
            await scrubbed(volume)

    played(path, scenario)


def test_a_damaged_rung_is_found_and_made_anew(store: Store, tmp_path: Path) -> None:
    path = copied(store, tmp_path)

    async def scenario(volume: Volume) -> None:
        (rung,) = volume.manifest.state.rungs
        flip(path / "maps" / layout.rung_name(rung.number), 4096 + 700)
        result = await scrubbed(volume)
        assert len(result.found) == 1 and layout.rung_name(rung.number) in result.found[0]
        assert (result.last.counts.damaged, result.last.counts.healed) == (1, 1)
        assert rung.number not in {each.number for each in volume.manifest.state.rungs}
        assert (rung.after, rung.point) in [(each.after, each.point) for each in await climb(volume)]
        assert (await scrubbed(volume)).found == ()

    played(path, scenario)


def test_a_base_map_that_is_exchanged_between_two_slices_is_read_from_its_beginning(
    store: Store, tmp_path: Path
) -> None:
    path = copied(store, tmp_path)

    async def scenario(volume: Volume) -> None:
        stage = volume.scrubber._stages[scrubbing.ScrubStage.MAPS]
        first = await stage.read(scrubbing.ScrubPlace(scrubbing.ScrubStage.MAPS), 1)
        assert first.findings == () and first.following is not None and first.following.block > 0
        volume.append([(OP_WRITE, 0, BLOCK, memoryview(payload(1, BLOCK)))])
        await volume.point_maker.cut()
        before = volume.maps.base_name
        await volume.base_maps.renew(force=True)
        assert volume.maps.base_name != before
        again = await stage.read(first.following, 1 << 20)
        rungs = again.following
        assert again.findings == () and again.bytes_read >= first.bytes_read
        assert rungs is not None and rungs.number == volume.manifest.state.rungs[0].number and not rungs.block

    played(path, scenario)
