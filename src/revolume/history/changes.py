"""When bytes last changed: the writes of the retained log that touched a range, newest first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from revolume.blocks.numbers import WriteNumber
from revolume.log.format.columns import Columns
from revolume.log.format.transfer import KIND_SHIFT, LENGTH_MASK, EntryKind, Kind

LIMIT_MAX: Final = 10_000
_WORDS: Final = {EntryKind.WRITE: "write", EntryKind.ZERO: "zero", EntryKind.TRIM: "trim"}


@dataclass(frozen=True, slots=True)
class Change:
    """A write that changed the bytes [``offset``, ``offset`` + ``length``), of which only a part may lie in the
    range that was asked for. ``how``: write, zero, trim or restore."""

    write: WriteNumber
    time_ns: int
    how: str
    offset: int
    length: int


def changes(newest_first: Iterable[Columns], start: int, end: int, after: WriteNumber, limit: int) -> list[Change]:
    """At most ``limit`` changes of the bytes [start, end) by writes behind ``after``, newest first. The columns
    are those of the log's segments, newest first."""
    found: list[Change] = []
    for columns in newest_first:
        found += _changes_in(columns, start, end, after, limit - len(found))
        if len(found) >= limit or _all_before(columns, after):
            break
    return found


def _all_before(columns: Columns, after: WriteNumber) -> bool:
    """Whether an older segment can hold nothing that was asked for."""
    writes = columns.rows[columns.rows["kind"] == Kind.WRITES]
    return len(writes) > 0 and int(writes["write"][0]) <= after


def _changes_in(columns: Columns, start: int, end: int, after: WriteNumber, limit: int) -> list[Change]:
    rows = columns.rows
    counts = rows["entries"].astype(np.int64)
    row_of = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
    kinds = columns.lengths >> np.uint64(KIND_SHIFT)
    lengths = columns.lengths & np.uint64(LENGTH_MASK)
    transfer = rows["kind"][row_of]
    restores = transfer == Kind.RESTORE
    numbers = rows["write"][row_of] + np.where(restores, 0, within).astype(np.uint64)
    touched = (columns.offsets < np.uint64(end)) & (columns.offsets + lengths > np.uint64(start))
    touched &= (kinds != EntryKind.RESIZE) & (restores | (transfer == Kind.WRITES)) & (numbers > np.uint64(after))
    return [
        Change(
            write=WriteNumber(int(numbers[at])),
            time_ns=int(rows["time_ns"][row_of[at]]),
            how="restore" if restores[at] else _WORDS.get(EntryKind(int(kinds[at])), "write"),
            offset=int(columns.offsets[at]),
            length=int(lengths[at]),
        )
        for at in np.flatnonzero(touched)[::-1][:limit].tolist()
    ]
