"""Rows of a mark: a run of blocks that is not to be trusted, from a write on and up to another.

A row says of its blocks that what this copy has as of the moment at write w is suspect if ``since <= w < until``.
Columns of a structured array, because a comparison may find very many; its arithmetic is that of block sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.extents import merged_intervals
from revolume.blocks.numbers import WriteNumber
from revolume.volume.suspect.suspicion import OPEN as OPEN

Rows = npt.NDArray[np.void]
U64 = npt.NDArray[np.uint64]

ROW: Final = np.dtype([("first", "<u8"), ("count", "<u8"), ("since", "<u8"), ("until", "<u8")])
NO_ROWS: Final[Rows] = np.zeros(0, ROW)

assert ROW.itemsize == 32


def rows_of(blocks: BlockSet, since: WriteNumber, until: WriteNumber) -> Rows:
    """A row for each run of ``blocks``; none where no write lies in ``since`` to ``until``."""
    if since >= until:
        return NO_ROWS
    rows = np.zeros(len(blocks), ROW)
    rows["first"], rows["count"], rows["since"], rows["until"] = blocks.starts, blocks.counts, since, until
    return rows


def joined(parts: Iterable[Rows]) -> Rows:
    """All rows of several arrays, one behind the other, each row once."""
    return np.unique(np.concatenate([NO_ROWS, *parts]))


def blocks_of(rows: Rows) -> BlockSet:
    """The blocks that any of these rows names."""
    return BlockSet.of_intervals(
        rows["first"].astype(np.uint64), (rows["first"] + rows["count"]).astype(np.uint64)
    )


def rows_at(rows: Rows, write: WriteNumber) -> Rows:
    """Those that the moment at ``write`` lies in."""
    at = np.uint64(write)
    found: Rows = rows[(rows["since"] <= at) & (at < rows["until"])]
    return found


def periods_of(rows: Rows) -> tuple[U64, U64]:
    """The writes that any row covers, as intervals [start, end), ascending and apart."""
    return merged_intervals(rows["since"].astype(np.uint64), rows["until"].astype(np.uint64))


def repaired_at(rows: Rows, blocks: BlockSet, write: WriteNumber) -> Rows:
    """The rows once ``blocks`` were repaired as of ``write``: what was open of them ends there."""
    is_open = rows["until"] == np.uint64(OPEN)
    parts = [rows[~is_open]]
    for since in map(WriteNumber, np.unique(rows["since"][is_open]).tolist()):
        held = blocks_of(rows[is_open & (rows["since"] == since)])
        parts.append(rows_of(held.intersection(blocks), since, write))
        parts.append(rows_of(held.difference(blocks), since, OPEN))
    return joined(parts)


def reopened_at(rows: Rows, write: WriteNumber) -> Rows:
    """The rows of a copy that has gone back to ``write``: what was repaired later is as it was, open; what begins
    later is gone."""
    kept = rows[rows["since"] <= np.uint64(write)].copy()
    kept["until"][kept["until"] > np.uint64(write)] = OPEN
    return joined([kept])


def sound(rows: Rows) -> bool:
    """Whether each row names blocks and writes: nothing empty, nothing beyond what numbers may be."""
    most = np.uint64(OPEN)
    return bool(
        (
            (rows["count"] > 0) & (rows["first"] < most) & (rows["count"] < most) & (rows["since"] < rows["until"])
            & (rows["until"] <= most)
        ).all()
    )  # fmt: skip
