"""The suspect walk against sets and dictionaries, and over the log of a real volume."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.block_set import BlockSet
from revolume.blocks.numbers import WriteNumber
from revolume.chain.newest_first import Changes
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.resync.suspect_history import as_far_as_readable, marks_before
from revolume.resync.suspect_walk import suspect_rows
from revolume.volume.suspect.suspect_rows import OPEN, ROW, blocks_of, joined, rows_at
from tests.volume.driver import BLOCK, Driver

blocks = st.frozensets(st.integers(0, 40), max_size=25)
chains = st.lists(blocks, max_size=8)


def block_set(numbers: frozenset[int] | set[int]) -> BlockSet:
    return BlockSet.of_blocks(np.array(sorted(numbers), np.uint64))


def numbers(found: BlockSet) -> set[int]:
    return set(found.blocks().tolist())


@settings(max_examples=400, deadline=None)
@given(blocks, chains, st.lists(st.integers(1, 5), min_size=9, max_size=9), st.integers(1, 3))
def test_b11_each_map_is_selected_and_its_changes_are_taken_out(
    differing: frozenset[int], chain: list[frozenset[int]], lengths: list[int], pieces: int
) -> None:
    """``chain`` is newest first. A map's suspect extent is what remains before its own changes are subtracted."""
    cuts = np.cumsum(np.array(lengths[: len(chain) + 1])).tolist()  # ascending: of the horizon, then of each point
    newest_first = list(zip(chain, zip(cuts[-2::-1], cuts[:0:-1], strict=True), strict=True))
    maps = [
        Changes(WriteNumber(after), WriteNumber(upto), block_set({b for b in changed if b % pieces == piece}))
        for changed, (after, upto) in newest_first
        for piece in range(pieces)
    ]
    rows = joined(suspect_rows(block_set(differing), maps))
    left = set(differing)
    for changed, (after, upto) in newest_first:
        for write in range(after + 1, upto + 1):
            assert numbers(blocks_of(rows_at(rows, WriteNumber(write)))) == left, f"w{write}"
        left -= changed
    for write in range(cuts[0] + 1):
        assert numbers(blocks_of(rows_at(rows, WriteNumber(write)))) == left, "the image"
    assert numbers(blocks_of(rows_at(rows, WriteNumber(OPEN - 1)))) == set(differing)
    assert not len(rows_at(rows, OPEN))


def test_it_looks_no_further_than_something_remains() -> None:
    looked = list[int]()

    def chain() -> object:
        for upto in (30, 20, 10):
            looked.append(upto)
            yield Changes(WriteNumber(upto - 10), WriteNumber(upto), block_set({1, 2}))

    rows = joined(suspect_rows(block_set({1}), chain()))  # type: ignore[arg-type]
    assert looked == [30, 20] and rows.tolist() == [(1, 1, 21, OPEN)]
    assert rows.dtype == ROW


def walked(folder: Path, seed: int, fold_at: int | None, snapshot_at: int | None) -> None:
    """Random writes and points; the walk over the log says of each block the interval in which it changed last."""

    async def scenario() -> None:
        chance, host = random.Random(seed), real_host()
        driver = Driver(host, folder / "v", 256 * BLOCK)
        await driver.open()
        changed: dict[int, int] = {}  # block: the write before the interval in which it changed last
        before = 0
        for step in range(30):
            ops, touched = changes(chance)
            await driver.change(ops)
            if step == snapshot_at:
                await driver.volume.snapshot("pinned")
            else:
                await driver.volume.point_maker.cut()
            for block in touched:
                changed[block] = before
            before = driver.volume.write
            if step == fold_at:
                while await driver.fold():
                    pass
        point = driver.volume.points()[-1]
        horizon = driver.volume.folder.horizon.write
        oldest = min([horizon, *(r.moment.write for r in driver.volume.manifest.state.rescues)])
        differing = set(chance.sample(range(256), 60)) | set(list(changed)[:40])
        marks = await marks_before(driver.volume, block_set(differing), point, "a test")
        have = {block: since_of(marks.rows, block) for block in differing}
        assert have == {
            block: changed[block] + 1 if changed.get(block, -1) >= horizon else have[block] for block in differing
        }
        told = 0
        for block in differing:
            if changed.get(block, -1) < oldest:
                assert have[block] == 0, "the image"
            elif changed[block] < horizon:
                assert have[block] in (0, *range(oldest + 1, changed[block] + 2)), "never too late"
                told += have[block] > 0
        assert told > 0 or snapshot_at is None, "what was rescued for a pinned moment says since when"
        assert marks.point == point.number and marks.reign == driver.volume.manifest.state.epochs[-1].reign
        assert not len(driver.volume.holders), "the history is held no longer than the walk lasts"
        await driver.volume.close()
        await host.work.close()

    asyncio.run(scenario())


def changes(chance: random.Random) -> tuple[list[tuple[int, int, bytes | int]], set[int]]:
    ops, touched = list[tuple[int, int, bytes | int]](), set[int]()
    for _ in range(chance.randint(1, 6)):
        first, count = chance.randrange(250), chance.randint(1, 6)
        offset, length = first * BLOCK, count * BLOCK
        if chance.random() < 0.3:
            offset, length = offset + 512, 1024
        data: bytes | int = chance.randbytes(length) if chance.random() < 0.7 else length
        ops.append((OP_WRITE if isinstance(data, bytes) else OP_ZERO, offset, data))
        touched |= set(range(offset // BLOCK, -(-(offset + length) // BLOCK)))
    return ops, touched


def since_of(rows: np.ndarray, block: int) -> int:
    hit = (rows["first"] <= block) & (block < rows["first"] + rows["count"])
    assert hit.sum() == 1
    return int(rows["since"][hit][0])


def test_over_a_real_log(tmp_path: Path) -> None:
    for seed in range(4):
        walked(tmp_path / f"{seed}", seed, None, None)


def test_over_a_log_that_was_folded_and_what_was_rescued_before(tmp_path: Path) -> None:
    for seed in range(4):
        walked(tmp_path / f"{seed}", seed, 20, 8)


def test_what_the_disk_does_not_give_ends_the_chain() -> None:
    """What remains is suspect from the beginning. Out of descriptors nothing is known of the disk."""

    def failing(number: int) -> Iterator[Changes]:
        yield Changes(WriteNumber(10), WriteNumber(20), block_set({1}))
        raise OSError(number, os.strerror(number))

    rows = joined(suspect_rows(block_set({1, 2}), as_far_as_readable(failing(errno.EIO))))
    assert rows.tolist() == [(1, 1, 11, OPEN), (2, 1, 0, OPEN)]
    with pytest.raises(OSError, match="Too many open files"):
        list(as_far_as_readable(failing(errno.EMFILE)))
