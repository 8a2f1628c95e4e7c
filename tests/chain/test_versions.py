"""The newest version of every block, against a model that writes bytes one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.block_location import DATA, PARTIAL, ZERO, pack
from revolume.chain import versions as module
from revolume.chain.versions import NewestVersions, newest
from revolume.log.format.columns import Versions

U64 = np.uint64
TOP = 12
FRAGMENT_BYTES = 16


@dataclass
class Script:
    """What was written, in the log's order, and what a reader has to find as of a write."""

    rows: dict[str, list[tuple[int, ...]]] = field(default_factory=lambda: {"whole": [], "range": [], "part": []})

    def versions(self, first: int, last: int) -> Versions:
        """The rows of the writes [first, last)."""
        chosen = {
            kind: np.array([row for row in rows if first <= row[-1] < last], U64).reshape(-1, width)
            for (kind, rows), width in zip(self.rows.items(), (5, 5, 8), strict=True)
        }
        columns = [table[:, at] for table in chosen.values() for at in range(table.shape[1] - 1)]
        return Versions(*columns)

    def expected(self, after: int, upto: int) -> tuple[dict[int, tuple[int, int]], list[int]]:
        """(block → location and digest, blocks with fragments that count, in write order)."""
        held: dict[int, tuple[int, int]] = {}
        fragments: list[tuple[int, int]] = []
        events = sorted((row[-1], kind, row) for kind, rows in self.rows.items() for row in rows)
        for asof, kind, row in events:
            if not after < asof <= upto:
                continue
            if kind == "part":
                fragments.append((row[0], asof))
                continue
            blocks = [row[0]] if kind == "whole" else range(row[0], row[1])
            for block in blocks:
                held[block] = (row[2], row[3]) if kind == "whole" else (row[3], 0)
            fragments = [each for each in fragments if each[0] not in blocks]
        return held, [block for block, _ in fragments]


numbers = st.integers(0, TOP)
writes = st.one_of(
    st.tuples(st.just("whole"), numbers, numbers),
    st.tuples(st.just("zero"), numbers, numbers),
    st.tuples(st.just("range"), numbers, numbers),
    st.tuples(st.just("part"), numbers, numbers),
)


def scripted(done: list[tuple[str, int, int]]) -> Script:
    """Rows end with the write's number, by which a run of them is chosen."""
    script = Script()
    for asof, (kind, block, other) in enumerate(done, start=1):
        if kind == "range":
            start, end = min(block, other), max(block, other) + 1
            script.rows["range"].append((start, end, asof, pack(ZERO, asof), asof))
        elif kind == "part":
            word = pack(PARTIAL, asof)
            row = (block, asof, 0, FRAGMENT_BYTES, asof * FRAGMENT_BYTES, word, asof * 3, asof)
            script.rows["part"].append(row)
        else:
            location = pack(DATA if kind == "whole" else ZERO, asof)
            digest = asof * 7 if kind == "whole" else 0
            script.rows["whole"].append((block, asof, location, digest, asof))
    return script


def found_by(result: NewestVersions) -> dict[int, tuple[int, int]]:
    delta = result.delta
    zeroed = {block: (word, 0) for start, end, word in delta.zeroes for block in range(start, end)}
    columns = (delta.blocks.tolist(), delta.locations.tolist(), delta.digests.tolist())
    return zeroed | {block: (location, digest) for block, location, digest in zip(*columns, strict=True)}


@pytest.mark.parametrize("gather", [1, 4, 1 << 18])
@settings(max_examples=50, deadline=None)
@given(st.lists(writes, max_size=30), st.integers(0, 30), st.integers(0, 30), st.integers(1, 30))
def test_the_newest_of_every_block(
    gather: int, done: list[tuple[str, int, int]], after: int, upto: int, piece: int
) -> None:
    """Whole blocks, zeroes, large zeroes and fragments over each other, in batches of every size."""
    script = scripted(done)
    pieces = [script.versions(first, first + piece) for first in range(1, len(done) + 1, piece)]
    kept, module.GATHER = module.GATHER, gather
    try:
        result = newest(pieces, after, upto)
        late_first = newest(pieces[::-1], after, upto)  # a point's record lies behind newer writes
    finally:
        module.GATHER = kept
    held, fragments = script.expected(after, upto)
    assert found_by(result) == found_by(late_first) == held
    assert [fragment.block for fragment in result.fragments] == fragments
    assert [fragment.asof for fragment in late_first.fragments] == [f.asof for f in result.fragments]
