"""``qemu:dirty-bitmap:@MOMENT``: which blocks were changed since a write, also one that is no point's.

Nothing that was changed is ever left out. Exactly that is told since a point. Since a write between two points, a
block that was modified in part before it counts as changed as well: the next point says it again, whole."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.errors import NotFound
from revolume.history.exports import BITMAP, VolumeExports
from revolume.host.network import Peer
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from tests.volume.driver import BLOCK, Driver, abandon
from tests.volume.store import TINY, inline_host, payload

BLOCKS = 512
PEER = Peer("unix:test", None, 1000)
pytestmark = pytest.mark.timeout(60)
Change = tuple[int, int, bytes | int]
U64 = npt.NDArray[np.uint64]


class Marked(Driver):
    """A driver that remembers what each write touched."""

    def __init__(self, path: Path) -> None:
        super().__init__(inline_host(), path, BLOCKS * BLOCK, replace(TINY, spare_bytes=2 << 20))
        self.touched: dict[int, set[int]] = {}
        self.batch: dict[int, tuple[int, int]] = {}  # the writes of the same transfer, first and last
        self.in_part: dict[int, set[int]] = {}

    async def marked(self, changes: list[Change]) -> None:
        await self.change(changes)
        first = self.volume.write - len(changes) + 1
        for number, (_, offset, what) in enumerate(changes, first):
            length = what if isinstance(what, int) else len(what)
            self.touched[number] = set(range(offset // BLOCK, -(-(offset + length) // BLOCK)))
            self.batch[number] = first, self.volume.write
            whole = set(range(-(-offset // BLOCK), (offset + length) // BLOCK))
            self.in_part[number] = self.touched[number] - whole

    def since(self, write: int, upto: int | None = None) -> set[int]:
        """What was touched behind a write."""
        last = max(self.touched) if upto is None else upto
        return set().union(*(blocks for number, blocks in self.touched.items() if write < number <= last))

    def differ(self, write: int, upto: int) -> set[int]:
        """Blocks whose content differs between two writes."""
        (_, old), (_, new) = self.model.moments[write], self.model.moments[upto]
        zeroes = bytes(BLOCK)
        return {at for at in old.keys() | new.keys() if old.get(at, zeroes) != new.get(at, zeroes)}

    def said_again(self, write: int) -> set[int]:
        """What the point behind a write says again."""
        cut = max([point.write for point in self.volume.points() if point.write <= write], default=0)
        return set().union(*(blocks for number, blocks in self.in_part.items() if cut < number <= write))

    def holds(self, found: set[int], write: int, upto: int | None = None) -> None:
        right = self.since(write, upto)
        assert right <= found, f"since w{write}: left out {right - found}"
        assert found <= right | self.said_again(write), f"since w{write}: {found - right} was not changed"


async def dirty(exports: VolumeExports, name: str, write: int) -> set[int]:
    """By the bitmap, of an export, since a write."""
    export = await exports.open(name, PEER)
    try:
        (context,) = await exports.contexts(export, f"{BITMAP}w{write}")
        found, at = set(), 0
        while at < export.size:
            for length, flags in await export.extents(context, at, export.size - at):
                assert length % BLOCK == 0
                found |= set(range(at // BLOCK, (at + length) // BLOCK)) if flags & 1 else set()
                at += length
        return found
    finally:
        export.close(True)


def play(scenario: Callable[[Marked, VolumeExports], Awaitable[None]], path: Path) -> None:
    async def run() -> None:
        driver = Marked(path / "v")
        await driver.open()
        exports = VolumeExports(driver.volume, driver.volume)
        try:
            await scenario(driver, exports)
        finally:
            exports.close()
            await abandon(driver.volume)

    asyncio.run(run())


async def history(driver: Marked, seed: int) -> None:
    """Alone: parts, wholes, zeroes; together: only whole blocks, whose transfer can be cut anywhere."""
    chance = random.Random(seed)
    for step in range(36):
        at = chance.randrange(400)
        match step % 6:
            case 0:
                await driver.marked([(OP_WRITE, at * BLOCK + 70, payload(step, 900))])
            case 1:
                await driver.marked([(OP_ZERO, at * BLOCK, 3 * BLOCK)])
            case 2:
                await driver.marked([(OP_TRIM, 100 * BLOCK, 300 * BLOCK)] if step == 20 else
                                    [(OP_ZERO, at * BLOCK + 9, 30)])  # fmt: skip
            case _:
                many = [(at + 7 * i, chance.randrange(1, 4)) for i in range(chance.randrange(1, 6))]
                await driver.marked(
                    [(OP_WRITE, b * BLOCK, payload(step * 10 + b, count * BLOCK)) for b, count in many]
                )
        if step % 12 == 11:
            await driver.volume.point_maker.cut()


@pytest.mark.parametrize("seed", [1, 2])
def test_the_bitmap_since_any_write_is_what_was_touched_behind_it(seed: int, tmp_path: Path) -> None:
    async def scenario(driver: Marked, exports: VolumeExports) -> None:
        await history(driver, seed)
        for write in driver.touched:
            driver.holds(await dirty(exports, driver.volume.name, write), write)
        points = {point.write for point in driver.volume.points()}
        assert len(points & set(driver.touched)) == 3, "of which nothing is said again"

    play(scenario, tmp_path)


WHOLE: list[Change] = [(OP_WRITE, 20 * BLOCK, payload(2, BLOCK)), (OP_WRITE, 50 * BLOCK, payload(3, 2 * BLOCK))]
MIXED: dict[str, list[Change]] = {
    "part": [WHOLE[0], (OP_WRITE, 30 * BLOCK + 1, b"part"), WHOLE[1]],
    "zero": [WHOLE[0], (OP_ZERO, 40 * BLOCK, BLOCK), WHOLE[1]],
    "zero in part": [WHOLE[0], (OP_TRIM, 40 * BLOCK + 8, 64), WHOLE[1]],
    "zero last": [*WHOLE, (OP_ZERO, 40 * BLOCK, BLOCK)],
    "all": [WHOLE[0], (OP_WRITE, 30 * BLOCK + 1, b"part"), (OP_ZERO, 40 * BLOCK, BLOCK), WHOLE[1]],
}


@pytest.mark.parametrize("kind", MIXED)
def test_the_bitmap_since_a_write_in_a_mixed_transfer_leaves_nothing_out(kind: str, tmp_path: Path) -> None:
    """Where a transfer can't be cut between its writes, all of it counts as changed."""

    async def scenario(driver: Marked, exports: VolumeExports) -> None:
        await driver.marked([(OP_WRITE, 0, payload(1, 8 * BLOCK))])
        await driver.marked(MIXED[kind])
        await driver.marked([(OP_WRITE, 60 * BLOCK, payload(4, BLOCK))])
        for write, (first, _) in driver.batch.items():
            found = await dirty(exports, driver.volume.name, write)
            assert driver.since(write) <= found <= driver.since(first - 1)

    play(scenario, tmp_path)


def test_the_bitmap_of_a_view_since_an_earlier_write(tmp_path: Path) -> None:
    async def scenario(driver: Marked, exports: VolumeExports) -> None:
        await history(driver, 3)
        writes = sorted(driver.touched)
        for then in writes[10::9]:
            for write in writes[3 : writes.index(then) : 7]:
                found = await dirty(exports, f"{driver.volume.name}@w{then}", write)
                driver.holds(found, write, then)

    play(scenario, tmp_path)


def test_tables_of_rescued_blocks_that_are_merged_meanwhile_are_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(driver: Marked, exports: VolumeExports) -> None:
        await driver.marked([(OP_WRITE, 0, payload(1, 8 * BLOCK))])
        await driver.volume.snapshot("before")
        (named,) = driver.volume.snapshots()
        for step in range(100):
            await driver.marked([(OP_WRITE, step % 40 * BLOCK, payload(step, 16 * BLOCK))])
            if step % 10 == 9:
                await driver.volume.point_maker.cut()
                await driver.fold()
        assert driver.volume.rescued.needed_by(named.write)
        rescued, failures = driver.volume.rescued.changed, [OSError(errno.EBADF, "closed")]

        def changed(since: WriteNumber, until: WriteNumber, blocks: U64) -> npt.NDArray[np.bool_]:
            if failures:
                raise failures.pop()
            return rescued(since, until, blocks)

        monkeypatch.setattr(driver.volume.rescued, "changed", changed)
        driver.holds(await dirty(exports, driver.volume.name, named.write), named.write)
        assert not failures

    play(scenario, tmp_path)


def test_the_bitmap_since_a_snapshot_that_the_horizon_has_left(tmp_path: Path) -> None:
    """What was folded since has no place in the log any more. It is told of the live volume, and of a later
    snapshot too; zeroes over zeroes are no change."""

    async def scenario(driver: Marked, exports: VolumeExports) -> None:
        pinned = []
        for seed, name in enumerate(("first", "second", "third")):
            await history(driver, seed)
            await driver.volume.snapshot(name)
            pinned.append(driver.volume.write)
        await history(driver, 3)
        while await driver.fold():
            pass
        assert driver.volume.folder.horizon.write > pinned[2]
        await driver.marked([(OP_WRITE, 7 * BLOCK + 70, payload(1, 900))])
        live = driver.volume.name
        first, second, third = pinned
        for name, write, upto in (
            (live, first, driver.volume.write), (live, third, driver.volume.write),
            (f"{live}@second", first, second), (f"{live}@third", second, third),
        ):  # fmt: skip
            found = await dirty(exports, name, write)
            assert driver.differ(write, upto) <= found <= driver.since(write, upto), name
        context = (await exports.contexts(export := await exports.open(live, PEER), BITMAP + "second"))[0]
        assert await export.extents(context, 0, export.size)
        await driver.volume.drop_snapshot("second")
        while await driver.fold():
            pass
        with pytest.raises(NotFound):
            await export.extents(context, 0, export.size)
        assert await exports.contexts(export, f"{BITMAP}w{second}") == []
        assert driver.differ(first, driver.volume.write) <= await dirty(exports, live, first)

    play(scenario, tmp_path)


def test_a_moment_that_goes_while_its_bitmap_is_looked_up_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fold has taken meanwhile would count as not changed."""

    async def scenario(driver: Marked, exports: VolumeExports) -> None:
        await history(driver, 0)
        export = await exports.open(driver.volume.name, PEER)
        (context,) = await exports.contexts(export, f"{BITMAP}w{driver.volume.write}")
        await history(driver, 1)
        await driver.volume.point_maker.cut()
        words = exports._raw_words

        async def meanwhile(source: object, first: int, count: int) -> U64:
            while await driver.fold():
                pass
            return await words(source, first, count)

        monkeypatch.setattr(exports, "_raw_words", meanwhile)
        with pytest.raises(NotFound):
            await export.extents(context, 0, export.size)

    play(scenario, tmp_path)
