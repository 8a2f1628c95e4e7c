"""A mirror whose copy diverges silently, judged by a model at every write: whatever is opened without saying that
it is suspect is what the volume was, and exactly those moments are suspect that the walk can't call right. Through
kills, restarts, folds and a promotion. With a bug planted into any part of it, this fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revolume.blocks.block_set import BlockSet
from revolume.blocks.numbers import WriteNumber
from revolume.errors import Refused
from revolume.history.moments import AtWrite, ExportName
from revolume.history.open_history import OpenHistory
from revolume.history.resolver import MomentResolver
from revolume.history.views import open_view
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE
from revolume.resync import suspect_history as walking
from revolume.resync.suspect_history import marks_before
from revolume.volume.open import assemble
from revolume.volume.open.open import open_volume
from revolume.volume.points.staged_fixups import Fixups
from revolume.volume.suspect import suspect_history
from revolume.volume.suspect.suspect_rows import NO_ROWS, OPEN
from revolume.volume.volume_base import OpenVolume
from tests.volume.driver import BLOCK, Model
from tests.volume.mirrored import THERE, Mirrored

BLOCKS = 48
SEEDS = range(6)


def block_set(numbers: Iterable[int]) -> BlockSet:
    return BlockSet.of_blocks(np.array(sorted(numbers), np.uint64))


class Doubted(Mirrored):
    """``last``: of each block, the cut before the interval in which the primary wrote it last. ``wrong``: blocks
    that the copy has otherwise now; ``missed``: those that were so, and were written again before anybody looked.
    ``expected``: (block, since, until) that must be suspect, until None: not repaired."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.last: dict[int, int] = {}
        self.cut_at = 0
        self.touched: set[int] = set()
        self.wrong: set[int] = set()
        self.missed: set[int] = set()
        self.expected: list[tuple[int, int, int | None]] = []

    async def stand(self) -> None:
        await self.open()
        await self.write(*range(BLOCKS))
        await self.volume.point_maker.cut()
        self._settled()
        await self.begin()
        await self.send_base()
        await self.point(0)

    async def write(self, *blocks: int) -> None:
        for block in blocks:
            data = bytes([block + 1]) * 8 + self.volume.write.to_bytes(8, "little") * 511
            await self.change([(OP_WRITE, block * BLOCK, data)])
        self.touched |= set(blocks)

    async def point(self, *blocks: int, cut: bool = True) -> None:
        """Written, and agreed at the mirror."""
        await self.write(*blocks)
        if cut:
            await self.volume.point_maker.cut()
        await self.ship()
        await self.settle()
        await self.acknowledge()
        self.missed |= self.unknown & self.touched
        self.wrong -= self.touched
        self._settled()

    def _settled(self) -> None:
        self.last |= dict.fromkeys(self.touched, self.cut_at)
        self.touched.clear()
        self.cut_at = self.volume.write

    # What becomes of the copy

    async def _put(self, contents: dict[int, bytes]) -> None:
        """With the next point, as what puts a copy right."""
        there = self.secondary
        assert there is not None
        await self.write(0)
        point = await self.volume.point_maker.cut()
        assert point is not None
        blocks = np.array(sorted(contents), np.uint64)
        payload = memoryview(b"".join(contents[block] for block in sorted(contents)))
        nothing = np.zeros(0, np.uint64)
        there.point_applier.fixups.stage(
            Fixups(point.number, point.position, point.chain, blocks, payload, nothing)
        )
        await self.point(cut=False)

    @property
    def open_blocks(self) -> set[int]:
        """Marked, and not repaired."""
        return {block for block, _, until in self.expected if until is None}

    async def diverge(self, blocks: set[int]) -> None:
        chosen = blocks - self.open_blocks - {0}
        await self._put({block: b"%04d" % block * 1024 for block in chosen})
        self.wrong |= chosen

    async def compare(self) -> None:
        """What differs is marked."""
        there = self.secondary
        assert there is not None
        if self.wrong:
            point = self.volume.points()[-1]
            assert point.number == there.agreed.number
            await there.add_marks(await marks_before(self.volume, block_set(self.wrong), point, "compared"))
            news = [(block, self.last[block] + 1, None) for block in self.wrong]
            self.expected += [row for row in news if row not in self.expected]

    async def repair(self) -> None:
        """What is marked and differs is put right, as of where the copy stands."""
        there = self.secondary
        assert there is not None
        right = self.open_blocks
        held = self.model.blocks
        await self._put({block: held[block] for block in right})
        write = there.agreed.write
        self.expected = [(b, since, write if until is None else until) for b, since, until in self.expected]
        self.wrong -= right

    # The judgement

    @property
    def unknown(self) -> set[int]:
        """Blocks of which some moment may be wrong that no comparison has seen."""
        return self.missed | (self.wrong - self.open_blocks)

    def suspect_at(self, write: int) -> set[int]:
        return {b for b, since, until in self.expected if since <= write < (OPEN if until is None else until)}

    async def judge(self, volume: OpenVolume, newest: int) -> None:
        resolver = MomentResolver(OpenHistory(volume))
        oldest = volume.oldest.write
        periods = volume.suspect_periods
        for write in sorted(self.model.moments):
            if not oldest <= write <= newest:
                continue
            expected = self.suspect_at(write)
            assert set(periods.blocks_at(WriteNumber(write)).blocks().tolist()) == expected, f"w{write}"
            name = ExportName("v", AtWrite(write))
            try:
                resolved = resolver.opened(name)
                assert not expected, f"w{write} is opened silently"
            except Refused:
                assert expected, f"w{write} is refused, and is good"
                resolved = resolver.opened(replace(name, options=frozenset({"suspect"})))
            wrong = await self._wrong_at(volume, resolved)
            seen = wrong - self.unknown
            assert seen <= expected, f"w{write}: {seen - expected} are wrong, and nothing says so"

    async def _wrong_at(self, volume: OpenVolume, resolved: Any) -> set[int]:
        size, blocks = self.model.moments[resolved.write]
        view = await open_view(volume, resolved, "test")
        try:
            buffer = bytearray(size)
            await view.reader.read(0, memoryview(buffer))
        finally:
            view.close()
        want = Model.content(size, blocks)
        return {
            b for b in range(BLOCKS) if buffer[b * BLOCK : (b + 1) * BLOCK] != want[b * BLOCK : (b + 1) * BLOCK]
        }


async def scenario(driver: Doubted, chance: random.Random) -> None:
    await driver.stand()
    for _ in range(14):
        chosen = {chance.randrange(BLOCKS) for _ in range(chance.randint(1, 6))}
        match chance.choice(("point", "point", "diverge", "compare", "repair", "kill", "restart", "fold")):
            case "point":
                await driver.point(*chosen)
            case "diverge":
                await driver.diverge(chosen)
            case "compare":
                await driver.compare()
            case "repair":
                await driver.repair()
            case "kill":
                await driver.crash_mirror()
            case "restart":
                await driver.reopen_mirror()
            case "fold":
                assert driver.secondary is not None
                await driver.secondary.folder.step(True)
                await driver.secondary.upkeep._forget_marks()
        there = driver.secondary
        assert there is not None and there.failure is None
        await driver.judge(there, there.agreed.write)
    await driver.diverge({1, 2, 3})
    await driver.compare()
    await driver.repair()
    await driver.point(3, 4)
    there = driver.secondary
    assert there is not None
    newest = there.agreed.write
    while await there.folder.step(True):
        await there.upkeep._forget_marks()
    await driver.judge(there, newest)
    await there.close()
    promoted = await open_volume(driver.host, str(driver.there), replace(THERE, promote=True))
    await driver.judge(promoted, newest)
    await promoted.close()
    await driver.volume.close()


def played(folder: Path, seed: int) -> None:
    async def whole() -> None:
        host = real_host()
        try:
            await scenario(Doubted(host, folder / f"v{seed}", BLOCKS * BLOCK), random.Random(seed))
        finally:
            await host.work.close()

    asyncio.run(whole())


@pytest.mark.parametrize("seed", SEEDS)
def test_b11_suspect_is_exactly_what_the_model_says(tmp_path: Path, seed: int) -> None:
    played(tmp_path, seed)


# Bugs, planted


def _one_map_early(*given: Any) -> Iterator[Any]:
    """The walk ends before the last map that is left to it."""
    yield from list(suspect_rows(*given))[:-1]


suspect_rows = walking.suspect_rows


def _before_its_own(differing: BlockSet, chain: Iterable[Any], *more: Any) -> Iterator[Any]:
    """A map's extent is taken to be what remains once its own changes have been subtracted."""
    return suspect_rows(differing, (replace(each, after=each.upto) for each in chain), *more)


def _in_process(job: Callable[..., Any]) -> Callable[..., Any]:
    """The walk runs in the helper process, where a planted bug is not: here it runs in this one."""

    async def marks(volume: Any, differing: BlockSet, point: Any, cause: str) -> Any:
        from revolume.host.real.disk import RealDisk

        await volume.log.footers.written()
        rows = job(RealDisk(), walking._spec(volume, differing, point, OPEN))
        return suspect_history.Marks(bytes(16), point.number, 1, cause, rows)

    return marks


PLANTS: dict[str, tuple[object, str, object]] = {
    "the walk stops one map too early": (walking, "suspect_rows", _one_map_early),
    "a map's own changes are taken out first": (walking, "suspect_rows", _before_its_own),
    "marks go with the repair": (suspect_history, "repaired_at", lambda rows, *more: NO_ROWS),
    "marks are lost when a copy is opened": (assemble, "load_marks", lambda *given: []),
    "a moment is opened silently": (MomentResolver, "opened", lambda self, asked: self.resolve(asked.moment)),
    "marks go with a fold": (
        suspect_history.SuspectHistory, "_spoken_of",
        lambda self, oldest: [] if oldest > BLOCKS else list(self.periods.marks),
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTS)
def test_b11_a_planted_bug_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    owner, name, broken = PLANTS[bug]
    monkeypatch.setattr(owner, name, broken)
    monkeypatch.setitem(globals(), "marks_before", _in_process(walking.walk_history))
    found = 0
    for seed in SEEDS:
        try:
            played(tmp_path, seed)
        except AssertionError:
            found += 1
            break
    assert found, f"nobody notices that {bug}"
