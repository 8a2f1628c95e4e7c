"""The open interval's journal, and the point that is composed of it: against a dict of blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks import root as roots
from revolume.blocks.block_location import DATA, PARTIAL, ZERO, pack
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST, fragment_digest
from revolume.blocks.ranges import Ranges
from revolume.log.format.transfer_table import TableView
from revolume.volume.livemap.interval import Interval
from revolume.volume.points.compose import LowerLayers, compose

U64 = np.uint64
TOP, BEGIN, PER_TRANSFER = 20, 1000, 4
Image = dict[int, int]
"""Block → digest, at the cut before; what is not there reads as zeroes."""


class Digests:
    """The image's digests, as far as composing asks for them."""

    def __init__(self, held: Image) -> None:
        self._held = held

    def get(self, blocks: np.ndarray, nowait: bool) -> np.ndarray:
        return np.array([self._held.get(block, 0) for block in blocks.tolist()], U64)

    def within(self, start: int, end: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        blocks = np.array([block for block in sorted(self._held) if start <= block < end], U64)
        yield blocks, self.get(blocks, False)


def column(*numbers: int) -> np.ndarray:
    return np.array(numbers, U64)


def root_of(image: Image) -> roots.Root:
    return roots.add(roots.EMPTY, column(*image), column(*image.values()))


changes = st.lists(
    st.tuples(st.sampled_from(["data", "zero", "partial", "range"]), st.integers(0, TOP), st.integers(0, TOP)),
    max_size=30,
)


def played(done: list[tuple[str, int, int]]) -> tuple[Interval, dict[int, tuple[int, int]]]:
    """The journal of these changes, as the live map keeps it, and the location and digest that each block has."""
    interval, now = Interval(BEGIN, Ranges()), dict[int, tuple[int, int]]()
    for step, (kind, block, other) in enumerate(done):
        address = BEGIN + step * PER_TRANSFER
        if kind == "range":
            start, end = min(block, other), max(block, other) + 1
            interval.ranges.append((start, end, pack(ZERO, address)))
            now |= {each: (pack(ZERO, address), 0) for each in range(start, end)}
            continue
        location = pack({"data": DATA, "zero": ZERO, "partial": PARTIAL}[kind], address)
        digest = step + 5 if kind == "data" else 0
        if block not in now or len(interval.blocks) % 2:  # the first note counts, others may follow
            interval.note_old(column(block), column(0), column(0))
        interval.note_changed(column(block), column(location), column(digest))
        now[block] = (location, digest)
    return interval, now


@settings(max_examples=60, deadline=None)
@given(changes)
def test_the_journal_as_a_delta_map(done: list[tuple[str, int, int]]) -> None:
    interval, now = played(done)
    delta = interval.delta_map()
    zeroed = {block: (word, 0) for start, end, word in delta.zeroes for block in range(start, end)}
    columns = (delta.blocks.tolist(), delta.locations.tolist(), delta.digests.tolist())
    assert zeroed | {b: (location, digest) for b, location, digest in zip(*columns, strict=True)} == now
    single = sorted({block for kind, block, _ in done if kind != "range"})
    assert interval.changed_blocks().tolist() == single
    assert interval.empty == (not done)


def test_two_intervals_as_one() -> None:
    """The old values of the first count, the new ones of the second."""
    first, second = Interval(10, Ranges()), Interval(20, Ranges().with_range(0, 1, pack(ZERO, 5)))
    for interval, number in ((first, 1), (second, 2)):
        interval.note_old(column(7), column(pack(DATA, number)), column(number))
        interval.note_changed(column(7), column(pack(DATA, 10 * number)), column(10 * number))
    second.ranges.append((3, 5, pack(ZERO, 25)))
    both = first.followed_by(second)
    assert (both.begin, both.count, len(both.ranges_before)) == (10, 2, 0)
    assert both.delta_map().digests.tolist() == [20] and both.old_values().digests.tolist() == [1]
    assert list(both.delta_map().zeroes) == [(3, 5, pack(ZERO, 25))]


@settings(max_examples=60, deadline=None)
@given(changes, st.dictionaries(st.integers(0, TOP), st.integers(2, 99), max_size=15))
def test_a_point_states_what_changed_and_the_root_moves_by_it(
    done: list[tuple[str, int, int]], image: Image
) -> None:
    interval, now = played(done)
    contents = {b: None if b % 2 else bytes([b]) for b, (at, _) in now.items() if at >> 62 == PARTIAL}
    first = np.arange(BEGIN, BEGIN + (len(done) + 1) * PER_TRANSFER, PER_TRANSFER, U64)
    table = TableView(first, np.arange(1, len(first) + 1, dtype=U64), np.ones(len(first), U64))
    none = np.zeros(0, U64)
    below = LowerLayers(None, Digests(image), 0, none, none)  # type: ignore[arg-type]
    point = compose(interval, table, contents, root_of(image), below)
    held = {block: digest for block, (at, digest) in now.items() if at >> 62 == DATA}
    lost = {b: LOST_DIGEST if c is None else fragment_digest(c) for b, c in contents.items()}
    assert dict(zip(point.partials.blocks.tolist(), point.partials.digests.tolist(), strict=True)) == lost
    addresses = sorted(at & (1 << 62) - 1 for block, (at, _) in now.items() if block in held)
    references = point.references
    named = first[references.positions.astype(int) - 1] + references.blocks
    assert named.tolist() == addresses and references.runs.tolist() == [1] * len(named)
    assert point.root == root_of({b: d for b, d in image.items() if b not in now} | held | lost)
    anywhere = np.full(len(held) + len(lost), pack(DATA, 1), U64)
    whole = DeltaMap.of(column(*held, *lost), anywhere, column(*held.values(), *lost.values()))
    zeroes = Ranges(point.zeroes.starts, point.zeroes.ends, np.full(len(point.zeroes), pack(ZERO, 1), U64))
    assert point.digest == whole.with_zeroes(zeroes).interval_digest()
    single = {block for block, (at, _) in now.items() if at >> 62 == ZERO}
    assert single <= set(point.zeroes.blocks().tolist()) <= set(now)
