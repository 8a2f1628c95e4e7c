"""Who gives way: the decision as a table, and that a write is refused only when nobody is left who could."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import GaveWay, NoSpace
from revolume.history.exports import VolumeExports
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import View, open_view
from revolume.host import real_host
from revolume.host.network import Peer
from revolume.log.write.operations import OP_WRITE
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.space.holder import Holder, HolderKind
from revolume.volume.space.retention import who_goes

from .driver import BLOCK
from .mirrored import THERE, Mirrored
from .test_space import BUDGET, SIZE, SMALL_BUDGET, Filling, place, run, small_disk

__all__ = ["place", "small_disk"]

OVERLAY, VIEW, MIRROR, KEPT = HolderKind.OVERLAY, HolderKind.VIEW, HolderKind.MIRROR, HolderKind.SNAPSHOT


def hold(kind: HolderKind, write: int) -> Holder:
    return Holder(kind, "x", write)


def overlay(write: int, held: int = 0) -> Holder:
    return Holder(OVERLAY, "x", write, held)


@pytest.mark.parametrize(
    ("holds", "freeing", "disk_short", "going"),
    [
        ([], 10, False, []),
        ([hold(VIEW, 5)], None, False, []),
        ([hold(VIEW, 5)], 10, False, [hold(VIEW, 5)]),
        ([hold(VIEW, 10)], 10, False, []),
        ([hold(VIEW, 7), hold(VIEW, 5), hold(VIEW, 12)], 10, False, [hold(VIEW, 5), hold(VIEW, 7)]),
        ([hold(VIEW, 5), overlay(8)], 10, False, [overlay(8)]),
        ([hold(VIEW, 5), hold(MIRROR, 3)], 10, False, [hold(VIEW, 5)]),
        ([hold(MIRROR, 3), hold(VIEW, 12)], 10, False, [hold(MIRROR, 3)]),
        ([hold(VIEW, 5), hold(KEPT, 6)], 10, False, []),
        ([hold(VIEW, 5), hold(KEPT, 10)], 10, False, [hold(VIEW, 5)]),
        ([hold(KEPT, 1), overlay(8, 4096), overlay(2)], 10, True, [overlay(8, 4096)]),
        ([overlay(8, 4096), overlay(5, 4096)], None, True, [overlay(5, 4096)]),
        ([hold(VIEW, 5), overlay(12, 4096)], 10, False, [hold(VIEW, 5)]),
        ([hold(KEPT, 1)], 10, True, []),
    ],
)
def test_who_goes(holds: list[Holder], freeing: int | None, disk_short: bool, going: list[Holder]) -> None:
    assert who_goes(holds, freeing, disk_short) == going


async def _view(filling: Filling) -> View:
    volume = filling.driver.volume
    return await open_view(volume, ResolvedMoment(volume.write, 0), "view under test")


def test_views_give_way_to_writes_the_oldest_first(place: Path) -> None:
    """Several times the budget is written past two views; the older goes, and later the newer; no write fails."""
    filling = Filling(real_host(), place / "v", replace(SMALL_BUDGET, keep_s=0.0))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        older = await _view(filling)
        for _ in range(15):
            await filling.write()
        newer = await _view(filling)
        for _ in range(400):
            await filling.write()
            assert older.lease.ended or not newer.lease.ended
        volume = driver.volume
        assert older.lease.ended and newer.lease.ended and not volume.holders
        assert volume.admission.refused == 0 and volume.status().gave_way == 2
        buffer = bytearray(BLOCK)
        for view in (older, newer):
            with pytest.raises(GaveWay):
                view.reader.read_now([(0, memoryview(buffer))])
            with pytest.raises(GaveWay):
                await view.reader.read(0, memoryview(buffer))
            view.close()
        assert not any(path.name.startswith("view-") for path in (driver.path / "maps").iterdir())
        await filling.everything_is_there()
        await filling.ends_well()

    run(filling, play)


def test_a_read_under_way_when_its_view_ends_is_no_answer(place: Path) -> None:
    """What it found may be of a later moment already, so it is GaveWay; files stay open until it is over."""
    filling = Filling(real_host(), place / "v", SMALL_BUDGET)

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        view = await _view(filling)
        reading = asyncio.ensure_future(view.reader.read(0, memoryview(bytearray(64 * BLOCK))))
        await asyncio.sleep(0)
        driver.volume.holders.revoke(driver.volume.holders.all()[0])
        assert view.closing, "a thread reads its map"
        with pytest.raises(GaveWay):
            await reading
        assert not view.closing
        await filling.ends_well()

    run(filling, play)


def test_a_holder_that_never_gives_way_is_named_when_a_write_is_refused(place: Path) -> None:
    """Ending the view would be in vain: it stays."""
    filling = Filling(real_host(), place / "v", replace(SMALL_BUDGET, keep_s=0.0))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        release = filling.keep_all()
        view = await _view(filling)
        with pytest.raises(NoSpace) as refused:
            for _ in range(2000):
                await filling.write()
        assert "its budget is used up, and mirror keep-all keeps everything from w" in refused.value.cause
        assert not view.lease.ended
        view.close()
        await filling.everything_is_there()
        release()
        await filling.write()
        await filling.ends_well()

    run(filling, play)


def test_a_snapshot_and_who_reads_it_never_give_way_and_refuse_nothing(place: Path) -> None:
    """Ten times the budget and more, while a view of the snapshot is open, also after its name is gone."""
    filling = Filling(real_host(), place / "v", replace(SMALL_BUDGET, keep_s=0.0))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        await driver.volume.snapshot("kept")
        pinned = driver.volume.write
        view = await _view(filling)
        for turn in range(1200):
            await filling.write()
            if turn == 600:
                await driver.volume.drop_snapshot("kept")
        assert driver.volume.folder.horizon.write > pinned and not view.lease.ended
        size, blocks = driver.model.moments[pinned]
        buffer = bytearray(size)
        await view.reader.read(0, memoryview(buffer))
        assert buffer == driver.model.content(size, blocks)
        view.close()
        await driver.fold()
        assert not len(driver.volume.rescued), "nobody needs it any more"
        await filling.ends_well()

    run(filling, play)


def test_an_export_that_was_ended_can_be_opened_at_a_newer_moment(place: Path) -> None:
    filling = Filling(real_host(), place / "v", replace(SMALL_BUDGET, keep_s=0.0))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        exports = VolumeExports(driver.volume, driver.volume)
        name, peer = f"{driver.volume.name}@now,rw", Peer("unix:test", "", 0)
        first = await exports.open(name, peer)
        first.append([(OP_WRITE, 0, BLOCK, memoryview(b"x" * BLOCK))])
        for _ in range(200):
            await filling.write()
        with pytest.raises(GaveWay):
            first.append([(OP_WRITE, 0, BLOCK, memoryview(b"x" * BLOCK))])
        with pytest.raises(GaveWay):
            await first.extents("base:allocation", 0, BLOCK)
        second = await exports.open(name, peer)
        assert second.name != first.name
        second.append([(OP_WRITE, 0, BLOCK, memoryview(b"y" * BLOCK))])
        first.close(True)
        second.read_now([(0, memoryview(bytearray(BLOCK)))])
        second.close(True)
        exports.close()
        await filling.ends_well()

    run(filling, play)


def test_a_view_that_is_being_made_gives_way_too(place: Path) -> None:
    """Its lease is revoked while the helper makes its map."""
    filling = Filling(real_host(), place / "v", SMALL_BUDGET)

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        await filling.write()
        opening = asyncio.ensure_future(_view(filling))
        while not driver.volume.holders:
            await asyncio.sleep(0)
        driver.volume.holders.revoke(driver.volume.holders.all()[0])
        with pytest.raises(GaveWay):
            await opening
        assert not driver.volume.holders
        await filling.ends_well()

    run(filling, play)


def test_a_view_at_a_mirror_does_not_stop_its_primary(place: Path) -> None:
    async def play() -> None:
        driver = Mirrored(real_host(), place / "v", SIZE, replace(SMALL_BUDGET, keep_s=0.0))
        filling = Filling(real_host(), place / "v", SMALL_BUDGET)
        filling.driver = driver
        try:
            await driver.open()
            await filling.write()
            await driver.volume.point_maker.cut()
            await driver.begin(replace(THERE, budget_bytes=BUDGET, keep_s=0.0))
            await driver.send_base()
            await driver.volume.mirrors.register("m", MirrorMode.SYNC)
            await _shipped(driver)
            assert driver.secondary is not None
            view = await open_view(
                driver.secondary, ResolvedMoment(driver.secondary.newest[0], 0), "view under test"
            )
            for turn in range(150):
                await filling.write()
                if turn % 5 == 0:
                    await driver.volume.point_maker.cut()
                await _shipped(driver)
            assert view.lease.ended and driver.secondary.admission.refused == 0
            assert driver.volume.admission.refused == 0
            view.close()
            await driver.secondary.close()
            await filling.ends_well()
        finally:
            await driver.host.work.close()

    asyncio.run(asyncio.wait_for(play(), 60))


async def _shipped(driver: Mirrored) -> None:
    await driver.ship()
    await driver.settle()
    await driver.acknowledge()


def test_an_overlay_gives_its_room_back_where_the_disk_is_short(small_disk: Path) -> None:
    """Its file is the room that the log needs: it goes, although it keeps no log that could be folded away."""
    options = replace(SMALL_BUDGET, budget_bytes=64 << 20, keep_s=0.0, overlay_quota_bytes=4 << 20)
    filling = Filling(real_host(), small_disk / "v", options)

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        for _ in range(10):
            await filling.write()
        await driver.volume.snapshot("keep-all")
        exports = VolumeExports(driver.volume, driver.volume)
        overlay = await exports.open(f"{driver.volume.name}@now,rw", Peer("unix:test", "", 0))
        for at in range(0, 4 << 20, 64 * BLOCK):
            overlay.append([(OP_WRITE, at, 64 * BLOCK, memoryview(bytes(63 * BLOCK) + b"x" * BLOCK))])
        assert overlay.held_bytes == 4 << 20
        with pytest.raises(NoSpace):
            for _ in range(2000):
                await filling.write()
                if driver.volume.evictions.gave_way:
                    break
            assert driver.volume.evictions.gave_way == 1 and driver.volume.admission.refused == 0
            for _ in range(20):  # the room that it gave back
                await filling.write()
            for _ in range(2000):
                await filling.write()
        with pytest.raises(GaveWay):
            overlay.append([(OP_WRITE, 0, BLOCK, memoryview(bytes(BLOCK)))])
        overlay.close(True)
        exports.close()
        await driver.check_live()
        await filling.ends_well()

    run(filling, play)


def test_a_view_that_opens_while_a_fold_looks_for_room_is_not_folded_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is short, so the fold asks how much the image would grow; then somebody opens an older moment."""
    filling = Filling(real_host(), place / "v", replace(SMALL_BUDGET, keep_s=0.0))

    async def play() -> None:
        driver = filling.driver
        await driver.open()
        volume = driver.volume
        old, plan = volume.write, None
        for _ in range(40):
            await filling.write()
            await volume.cut()
            plan, old = volume.folder.plan(True), max(old, volume.folder.retired_write)
            if plan is not None and plan.target.write > old:
                break
        assert plan is not None
        opened: list[View] = []
        written = volume.log.footers.written

        async def meanwhile() -> None:
            monkeypatch.setattr(volume.log.footers, "written", written)
            opened.append(await open_view(volume, ResolvedMoment(old, 0), "meanwhile"))
            await written()

        monkeypatch.setattr(volume.log.footers, "written", meanwhile)
        monkeypatch.setattr(volume.folder._planner, "log_bytes", lambda target: 1 << 60)
        await volume.folder.step(True)
        assert opened and volume.folder.retired_write <= old
        buffer = bytearray(SIZE)
        await opened[0].reader.read(0, memoryview(buffer))
        assert buffer == driver.model.content(*driver.model.moments[old])
        opened[0].close()
        monkeypatch.undo()
        await filling.ends_well()

    run(filling, play)
