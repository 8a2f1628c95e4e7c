"""Points between writes that go on: what is written while a point waits, a point that fails, blocks that are
written in part and whole in turn, and what is kept from one point to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from revolume.errors import NoSpace, RevolumeError
from revolume.host import Host
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.offline.check.check import check

from .driver import BLOCK, Driver, abandon
from .store import TINY, Inline, inline_host, payload

SIZE = 4 << 20
pytestmark = pytest.mark.timeout(60)


class GatedSync(Inline):
    """Syncs of the log wait while the gate is closed."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def call_sync(self, fn: Callable[..., Any], *args: Any) -> Any:
        if getattr(fn, "__name__", "") == "datasync":
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        return fn(*args)


class Gated(Driver):
    """A driver whose syncs a test can hold up."""

    def __init__(self, path: Path) -> None:
        self.work = GatedSync()
        host = inline_host()
        gated = Host(host.clock, host.entropy, host.disk, self.work, host.network)  # type: ignore[arg-type]
        super().__init__(gated, path, SIZE, replace(TINY, sync_interval_s=3600))

    async def cut_while(self, meanwhile: Callable[[], Awaitable[None]]) -> int:
        """A point that waits for its sync until ``meanwhile`` is over; the write at which it was cut."""
        write = self.volume.write
        self.work.gate.clear()
        cutting = asyncio.ensure_future(self.volume.point_maker.cut())
        while not self.work.waiting:
            await asyncio.sleep(0)
        await meanwhile()
        assert not cutting.done()
        self.work.gate.set()
        point = await cutting
        assert point is not None and point.write == write
        return write

    async def proved(self, *moments: int) -> None:
        """Live bytes and these moments are right, now and after a crash, and every point adds up."""
        for again in (False, True):
            await self.check_live()
            for write in moments:
                await self.check_moment(write)
            if not again:
                await self.crash()
        await self.volume.close()
        report = check(self.host, str(self.path))
        assert report.good, report.problems
        await self.open()
        await self.check_live()
        await self.volume.close()


def play(scenario: Callable[[Gated], Awaitable[None]], path: Path) -> None:
    async def run() -> None:
        driver = Gated(path / "v")
        await driver.open()
        try:
            async with asyncio.timeout(60):
                await scenario(driver)
        finally:
            driver.work.gate.set()
            if not driver.volume._closing:
                await abandon(driver.volume)

    asyncio.run(run())


def test_a_block_written_in_part_then_whole_then_in_part(tmp_path: Path) -> None:
    """The whole write comes in a batch of nothing but aligned writes, which takes a way of its own."""

    async def scenario(driver: Gated) -> None:
        await driver.change([(OP_WRITE, 5 * BLOCK, payload(1, 2 * BLOCK))])
        await driver.change([(OP_WRITE, 5 * BLOCK + 100, b"first part" * 20)])
        await driver.change([(OP_WRITE, 4 * BLOCK, payload(2, 4 * BLOCK)), (OP_WRITE, 9 * BLOCK, bytes(BLOCK))])
        assert not driver.volume.partials.blocks
        await driver.check_live()
        await driver.change([(OP_WRITE, 5 * BLOCK + 3000, b"second part" * 20)])
        await driver.check_live()
        cut = driver.volume.write
        await driver.volume.point_maker.cut()
        await driver.proved(cut, cut - 1, cut - 3, cut - 4)

    play(scenario, tmp_path)


@pytest.mark.parametrize("kind", [OP_ZERO, OP_TRIM])
@pytest.mark.parametrize("blocks", [1, 300])
def test_the_same_with_zeroes_between(kind: int, blocks: int, tmp_path: Path) -> None:
    async def scenario(driver: Gated) -> None:
        await driver.change([(OP_WRITE, 5 * BLOCK, payload(1, 2 * BLOCK))])
        await driver.change([(OP_WRITE, 5 * BLOCK + 100, b"first part" * 20)])
        await driver.change([(kind, 5 * BLOCK, blocks * BLOCK)])
        assert not driver.volume.partials.blocks
        await driver.change([(OP_WRITE, 5 * BLOCK + 3000, b"second part" * 20)])
        await driver.check_live()
        cut = driver.volume.write
        await driver.volume.point_maker.cut()
        await driver.proved(cut, cut - 1, cut - 2)

    play(scenario, tmp_path)


def test_writes_go_on_while_a_point_waits_for_its_sync(tmp_path: Path) -> None:
    """What is written then is behind the cut: it neither gets into the point nor is undone by its record."""

    async def scenario(driver: Gated) -> None:
        for block in (10, 11, 12, 13, 14):
            await driver.change([(OP_WRITE, block * BLOCK, payload(block, BLOCK))])
        for block in (11, 12, 13, 14):
            await driver.change([(OP_WRITE, block * BLOCK + 50, b"before the cut")])

        async def meanwhile() -> None:
            await driver.change([(OP_WRITE, 10 * BLOCK, payload(100, BLOCK))])
            await driver.change([(OP_WRITE, 12 * BLOCK + 500, b"a part behind it")])
            await driver.change([(OP_WRITE, 13 * BLOCK, payload(101, BLOCK))])
            await driver.change([(OP_ZERO, 14 * BLOCK, BLOCK)])
            await driver.change([(OP_WRITE, 15 * BLOCK + 9, b"a new one")])

        cut = await driver.cut_while(meanwhile)
        assert sorted(driver.volume.partials.blocks) == [12, 15]
        await driver.check_live()
        await driver.check_moment(cut)
        await driver.change([(OP_WRITE, 12 * BLOCK + 1000, b"and on it goes")])
        await driver.volume.point_maker.cut()
        await driver.proved(cut, cut + 1, cut + 2, cut + 5, driver.volume.write)

    play(scenario, tmp_path)


def test_large_zeroes_while_a_point_waits_win_over_its_record(tmp_path: Path) -> None:
    async def scenario(driver: Gated) -> None:
        await driver.change([(OP_WRITE, 20 * BLOCK, payload(1, 3 * BLOCK))])
        await driver.change([(OP_WRITE, 21 * BLOCK + 9, b"in part, goes into the record")])

        async def meanwhile() -> None:
            await driver.change([(OP_ZERO, 0, 400 * BLOCK)])
            await driver.change([(OP_WRITE, 22 * BLOCK, payload(2, BLOCK))])

        cut = await driver.cut_while(meanwhile)
        await driver.check_live()
        await driver.change([(OP_WRITE, 21 * BLOCK + 100, b"again")])
        await driver.volume.point_maker.cut()
        await driver.proved(cut, cut + 1, cut + 2, driver.volume.write)

    play(scenario, tmp_path)


@pytest.mark.parametrize("fails", ["composing", "room", "sync"])
def test_a_point_that_fails_once_is_made_of_both_intervals(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks changed only in the interval of the failed one, only in the next, and in both; some of it between the
    cut and the failure."""

    async def scenario(driver: Gated) -> None:
        await driver.change([(OP_WRITE, 30 * BLOCK, payload(1, 8 * BLOCK)), (OP_ZERO, 400 * BLOCK, 300 * BLOCK)])
        await driver.change([(OP_WRITE, 350 * BLOCK, payload(6, 2 * BLOCK))])
        await driver.volume.point_maker.cut()
        await driver.change([(OP_WRITE, 30 * BLOCK, payload(2, 4 * BLOCK)), (OP_WRITE, 37 * BLOCK + 5, b"part")])
        await driver.change([(OP_ZERO, 300 * BLOCK, 300 * BLOCK), (OP_WRITE, 310 * BLOCK, payload(9, BLOCK))])

        async def fail(*given: object) -> None:
            monkeypatch.undo()
            await driver.change([(OP_WRITE, 31 * BLOCK, payload(4, 2 * BLOCK)), (OP_WRITE, 37 * BLOCK + 8, b"!")])
            await driver.change([(OP_ZERO, 500 * BLOCK, 300 * BLOCK), (OP_WRITE, 36 * BLOCK, payload(5, BLOCK))])
            raise NoSpace("no-space", "There is no room.")

        point_maker, volume = driver.volume.point_maker, driver.volume
        failing = {"composing": (point_maker, "_composed"), "room": (volume.admission, "wait")}
        monkeypatch.setattr(*failing.get(fails, (volume.log.commit, "wait_durable")), fail)
        with pytest.raises(RevolumeError):
            await point_maker.cut()
        await driver.check_live()
        await driver.change([(OP_WRITE, 32 * BLOCK, payload(3, 4 * BLOCK)), (OP_WRITE, 37 * BLOCK + 90, b"more")])
        point = await point_maker.cut()
        assert point is not None and (point.number, point.changed_blocks) == (2, 7 + 1 + 1 + 500)
        await driver.proved(point.write, point.write - 2)

    play(scenario, tmp_path)


def test_the_transfer_table_holds_no_more_than_the_open_interval(tmp_path: Path) -> None:
    async def scenario(driver: Gated) -> None:
        table = driver.volume.log.writer.table
        for number in range(100):
            for at in range(3):
                await driver.change([(OP_WRITE, (number + at) * BLOCK, payload(number, BLOCK))])
            await driver.volume.point_maker.cut()
            assert len(table) <= 2, f"after point {number + 1}"  # its record, and what came with it
        await driver.change([(OP_WRITE, BLOCK, payload(7, BLOCK))])
        assert len(table) <= 3
        await driver.proved()

    play(scenario, tmp_path)


def test_durability_is_that_of_a_position(tmp_path: Path) -> None:
    """A sync that began before a write says nothing of it; whoever asked for less is answered by it."""

    async def scenario(driver: Gated) -> None:
        volume, work = driver.volume, driver.work
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        work.gate.clear()
        first = volume.position
        earlier = asyncio.ensure_future(volume.durable(first))
        while not work.waiting:
            await asyncio.sleep(0)
        await driver.change([(OP_WRITE, BLOCK, payload(2, BLOCK))])
        later = asyncio.ensure_future(volume.durable(volume.position))
        released: list[tuple[int, int]] = []
        volume.log.commit.follow(lambda position: released.append((position, volume.log.commit.durable)))
        syncs = volume.log.commit.syncs
        work.gate.set()
        await earlier
        assert released[0] == (first, first)
        await later
        last = volume.position
        assert released == [(first, first), (last, last)] and volume.log.commit.syncs == syncs + 2
        await volume.durable(first)
        assert volume.log.commit.syncs == syncs + 2, "it was durable already"
        await driver.proved()

    play(scenario, tmp_path)
