"""What a point changed, as its record says it: the references looked up, the partial blocks, the zeroes.

A volume that is or was a mirror has its log from elsewhere: references that don't hold are dropped, as they
were when it agreed to the point, and blocks that it was sent whole take their place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from revolume.chain.point import Part
from revolume.chain.received import received
from revolume.log.columns import Columns
from revolume.offline.references import Transfers
from revolume.offline.walked import Walked

U64 = npt.NDArray[np.uint64]
Parts = list[tuple[Part, Columns]]
"""A point's record, part by part, and where each lies."""
NOTHING = np.zeros(0, np.uint64)


class Delta(NamedTuple):
    """In ascending order of blocks."""

    blocks: U64
    digests: U64
    zeroes: tuple[U64, U64]  # (first blocks, counts)


def own_delta(parts: Parts, table: Transfers) -> Delta | str:
    """Of a point that was cut here. A sentence: what is wrong."""
    blocks: list[U64] = []
    digests: list[U64] = []
    for part, columns in parts:
        found = table.resolve(part)
        if found is None:
            return "a reference names a transfer or a block that is not in the log"
        partial = columns.versions()
        blocks += [found[0], partial.blocks]
        digests += [found[1], partial.digests]
    first, count = (np.concatenate([part.zeroes[i] for part, _ in parts]) for i in (0, 1))
    return _ordered(np.concatenate(blocks), np.concatenate(digests), (first, count))


def received_delta(parts: Parts, walked: Walked, table: Transfers, before: tuple[int, int]) -> Delta | str:
    """Of a point that came over the link; ``before``: position and write of the one before it."""
    positions = [int(columns.rows["position"][0]) for _, columns in parts]
    pieces = [c for c in walked.pieces if _overlaps(c, before[0], positions[-1])]
    got = received([part for part, _ in parts], pieces, table.view(), before, positions)
    if got.wrong:
        return got.wrong
    blocks, digests = _sent_whole(walked.fixed.get(parts[0][0].number, []))
    if len(np.setdiff1d(got.refused, blocks)):
        return "blocks have no reference that holds, and did not come whole either"
    needed = np.isin(blocks, got.refused)
    return _ordered(
        np.concatenate([got.blocks, got.partial_blocks, blocks[needed]]),
        np.concatenate([got.digests, got.partial_digests, digests[needed]]),
        got.zeroes,
    )


def _sent_whole(fixed: list[Columns]) -> tuple[U64, U64]:
    """(blocks, digests). Of what was asked for twice, what came last holds."""
    versions = [columns.versions() for columns in fixed]
    blocks, last = np.unique(np.concatenate([NOTHING, *(v.blocks for v in versions)])[::-1], return_index=True)
    return blocks, np.concatenate([NOTHING, *(v.digests for v in versions)])[::-1][last]


def _ordered(blocks: U64, digests: U64, zeroes: tuple[U64, U64]) -> Delta:
    order = np.argsort(blocks)
    return Delta(blocks[order], digests[order], zeroes)


def _overlaps(columns: Columns, first: int, last: int) -> bool:
    positions = columns.rows["position"]
    return bool(len(positions)) and int(positions[0]) <= last and first <= int(positions[-1])
