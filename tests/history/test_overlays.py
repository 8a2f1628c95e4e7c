"""Views and throw-away overlays as their clients have them: what they read, hold, and when they are let go."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.chain.versions import Fragment
from revolume.errors import GaveWay, NoSpace, NotFound
from revolume.history import views
from revolume.history.allocation import ALLOCATION
from revolume.history.exports import VolumeExports, identity
from revolume.host.network import Peer
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.volume.volume_base import OpenVolume
from tests.volume.driver import BLOCK, Driver, Model, abandon
from tests.volume.faulty import Faults, FaultyDisk, io_error
from tests.volume.store import TINY, inline_host, payload

SIZE = 1 << 20
ONE, OTHER = Peer("unix", "a", 1000), Peer("unix", "b", 1001)
pytestmark = pytest.mark.timeout(60)


class Offered(Driver):
    """A driver with its exports."""

    def __init__(self, path: Path) -> None:
        self.faults = Faults()
        options = replace(TINY, spare_bytes=1 << 20, overlay_quota_bytes=16 * BLOCK)
        super().__init__(inline_host(FaultyDisk(self.faults)), path, SIZE, options)
        self.exports: VolumeExports

    async def begin(self) -> None:
        await self.open()
        self.exports = VolumeExports(self.volume, self.volume)
        await self.change([(OP_WRITE, 0, payload(1, 8 * BLOCK))])
        await self.change([(OP_WRITE, 20 * BLOCK + 70, payload(2, 900)), (OP_ZERO, 3 * BLOCK, BLOCK)])

    def views(self) -> int:
        return len(list((self.path / "maps").glob("view*")))


def play(scenario: Callable[[Offered], Awaitable[None]], path: Path) -> None:
    async def run() -> None:
        driver = Offered(path / "v")
        await driver.begin()
        try:
            await scenario(driver)
        finally:
            driver.exports.close()
            assert driver.views() == 0, "a view's map was left behind"
            await abandon(driver.volume)

    asyncio.run(run())


async def content(export: object, size: int = SIZE) -> bytearray:
    buffer = bytearray(size)
    if export.read_now([(0, memoryview(buffer))]):  # type: ignore[attr-defined]
        await export.read(0, memoryview(buffer))  # type: ignore[attr-defined]
    return buffer


async def put(export: object, ops: list[Op]) -> None:
    while True:
        try:
            export.append(ops)  # type: ignore[attr-defined]
            return
        except WouldBlock:
            await export.room(ops)  # type: ignore[attr-defined]


def test_a_moving_name_is_one_view_for_one_peer_and_lingers(tmp_path: Path) -> None:
    async def scenario(driver: Offered) -> None:
        exports, name = driver.exports, f"{driver.volume.name}@now"
        then = Model.content(SIZE, driver.model.blocks)
        first = await exports.open(name, ONE)
        await driver.change([(OP_WRITE, 0, payload(9, BLOCK))])
        again = await exports.open(name, ONE)
        assert driver.views() == 1 and await content(again) == then == await content(first)
        assert not first.multi_conn and first.read_only
        other = await exports.open(name, OTHER)
        assert driver.views() == 2 and await content(other) == Model.content(SIZE, driver.model.blocks)
        first.close()
        again.close()  # the link was lost: it is held a while
        assert driver.views() == 2
        back = await exports.open(name, ONE)
        assert await content(back) == then
        back.close(True)  # it said goodbye
        assert driver.views() == 1
        other.close(True)
        fixed = await exports.open(f"{driver.volume.name}@w{driver.volume.write}", ONE)
        assert fixed.multi_conn
        fixed.close()

    play(scenario, tmp_path)


def test_an_overlay_takes_every_kind_of_change_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(driver: Offered) -> None:
        name = f"{driver.volume.name}@w{driver.volume.write},rw"
        overlay = await driver.exports.open(name, ONE)
        model = Model(SIZE, dict(driver.model.blocks))
        changes = [
            (OP_WRITE, 2 * BLOCK + 100, payload(30, 5000)), (OP_WRITE, 40 * BLOCK, payload(31, 2 * BLOCK)),
            (OP_ZERO, 5 * BLOCK + 10, 3000), (OP_TRIM, 6 * BLOCK, BLOCK), (OP_WRITE, 20 * BLOCK + 80, b"over it"),
            (OP_ZERO, 40 * BLOCK, BLOCK),
        ]  # fmt: skip
        for kind, offset, what in changes:
            length = what if isinstance(what, int) else len(what)
            await put(overlay, [(kind, offset, length, memoryview(what) if isinstance(what, bytes) else None)])
            (model.zero if isinstance(what, int) else model.write)(offset, what)  # type: ignore[operator]
            assert await content(overlay) == Model.content(SIZE, model.blocks)
        assert not overlay.read_only and not overlay.multi_conn and overlay.released(1 << 40)
        await overlay.durable(1)
        await overlay.cache(0, SIZE)
        extents = await overlay.extents(ALLOCATION, 0, SIZE)
        assert sum(size for size, _ in extents) == SIZE
        at, data = 0, set[int]()
        for size, flags in extents:
            data |= set(range(at // BLOCK, (at + size) // BLOCK)) if not flags else set()
            at += size
        assert data >= {block for block, held in model.blocks.items() if any(held)}
        assert 100 not in data
        overlay.close(True)
        await driver.check_live()
        fresh = await driver.exports.open(name, ONE)
        assert await content(fresh) == Model.content(SIZE, driver.model.blocks)
        fresh.close(True)

    play(scenario, tmp_path)


def test_an_overlay_has_a_quota_and_counts_what_it_holds(tmp_path: Path) -> None:
    async def scenario(driver: Offered) -> None:
        overlay = await driver.exports.open(f"{driver.volume.name}@now,rw", ONE)
        for block in range(16):
            await put(overlay, [(OP_WRITE, block * BLOCK, BLOCK, memoryview(payload(block, BLOCK)))])
        await put(overlay, [(OP_WRITE, 0, 16 * BLOCK, memoryview(payload(99, 16 * BLOCK)))])  # the same ones again
        before = await content(overlay)
        with pytest.raises(NoSpace) as full:
            await put(overlay, [(OP_WRITE, 40 * BLOCK, BLOCK, memoryview(bytes(BLOCK)))])
        assert full.value.code == "overlay-full" and await content(overlay) == before
        with pytest.raises(NoSpace):
            await put(overlay, [(OP_WRITE, 41 * BLOCK + 1, 5, memoryview(b"parts"))])
        await put(overlay, [(OP_TRIM, 0, 2 * BLOCK, None)])  # makes room
        await put(overlay, [(OP_WRITE, 40 * BLOCK, 2 * BLOCK, memoryview(payload(7, 2 * BLOCK)))])
        with pytest.raises(NoSpace):  # what was given up counts again
            await put(overlay, [(OP_WRITE, 0, BLOCK, memoryview(bytes(BLOCK)))])
        overlay.close(True)

    play(scenario, tmp_path)


def test_what_there_is_none_of(tmp_path: Path) -> None:
    async def scenario(driver: Offered) -> None:
        name = driver.volume.name
        for wrong in (f"{name}@no-such", "another", f"{name}@w{driver.volume.write + 5}", f"{name}@cp77"):
            with pytest.raises(NotFound):
                await driver.exports.open(wrong, ONE)
        await driver.volume.snapshot("kept")
        assert [shown for shown, _ in driver.exports.names()] == [name, f"{name}@kept"]
        live = await driver.exports.open(name, ONE)
        assert live.size == SIZE and await content(live) == Model.content(SIZE, driver.model.blocks)
        assert await driver.exports.contexts(live, "qemu:dirty-bitmap:no-such") == []
        assert "qemu:dirty-bitmap:kept" in await driver.exports.contexts(live, "qemu:")
        assert await driver.exports.contexts(live, "base:") == [ALLOCATION]
        assert await driver.exports.contexts(live, "other:thing") == []

    play(scenario, tmp_path)


def test_who_a_peer_is() -> None:
    certified = Peer("tcp", "10.0.0.1:4000", certificate_name="vm-host")
    assert identity(certified) == "tls:vm-host"
    assert identity(ONE) == "uid:1000" != identity(OTHER)
    assert identity(Peer("tcp", "10.0.0.1:4000")) == identity(Peer("tcp", "10.0.0.1:4001")) == "at:10.0.0.1"


@pytest.mark.parametrize("operation", ["open", "truncate"])
def test_an_overlay_that_finds_no_room_for_its_file_holds_nothing(tmp_path: Path, operation: str) -> None:
    async def scenario(driver: Offered) -> None:
        hit = lambda called, name: called == operation and name.startswith("scratch")  # noqa: E731
        driver.faults.fail = lambda called, name: io_error(errno.ENOSPC) if hit(called, name) else None
        leases = len(driver.volume.holders)
        with pytest.raises(OSError, match="No space left"):
            await driver.exports.open(f"{driver.volume.name}@now,rw", ONE)
        assert len(driver.volume.holders) == leases
        assert driver.views() == 0
        driver.faults.never()
        export = await driver.exports.open(f"{driver.volume.name}@now,rw", ONE)
        export.close(True)

    play(scenario, tmp_path)


def test_a_view_that_gives_way_while_it_is_opened_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(driver: Offered) -> None:
        volume, real = driver.volume, views._piece
        segments = dict(volume.log.pool.by_use)

        def recycled(volume: OpenVolume, fragment: Fragment) -> bytes:
            for holder in volume.holders.all():
                volume.holders.revoke(holder)
            volume.log.pool.by_use.clear()  # as when a fold has given them back
            try:
                return real(volume, fragment)
            finally:
                volume.log.pool.by_use.update(segments)

        monkeypatch.setattr(views, "_piece", recycled)
        with pytest.raises(GaveWay):
            await driver.exports.open(f"{driver.volume.name}@now", ONE)
        assert not volume.holders

    play(scenario, tmp_path)
