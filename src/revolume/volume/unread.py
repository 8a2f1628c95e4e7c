"""Records of consistency points that can't be read although the log around them stands.

Only the history of a primary needs them: its live content, and every view, comes from the log's writes and from
the whole blocks that a record carries. The segment's footer knows these too: which blocks, where they lie, their
digests. So the volume opens without the record. What is lost is the point: it can't be named by its number or
compared, and a mirror that lacks it can't be sent it. The next point covers its interval too.

A mirror stands on its points' records; there one that can't be read is damage. So it is at a primary that has
mirrors, if no newer point stands: its next point would not follow on what they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from revolume.blocks.numbers import Address, WriteNumber
from revolume.errors import Damaged
from revolume.log.format.columns import Columns, Versions, select
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import Kind


@dataclass(frozen=True, slots=True)
class Unread:
    """One part of such a record as the footer knows it; ``cut``: an address behind everything that the point
    covers, and before everything newer."""

    file: int
    block: int
    write: WriteNumber
    time_ns: int
    cut: Address
    versions: Versions

    @property
    def sentence(self) -> str:
        """For events and status."""
        return (
            f"the record of the consistency point as of w{self.write} is damaged (segment file {self.file}, block "
            f"{self.block}): every write is there, but the point can't be named or compared"
        )


class Cuts:
    """Where in the log the first write behind a write number lies."""

    def __init__(self, pieces: Iterable[tuple[Segment, Columns]]) -> None:
        writes, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for _, columns in pieces:
            rows = columns.rows[columns.rows["kind"] == Kind.WRITES]
            writes.append(rows["write"].astype(np.uint64))
            places.append(np.uint64(columns.base) + rows["block"].astype(np.uint64))
        self._writes, self._places = np.concatenate(writes), np.concatenate(places)

    def behind(self, write: WriteNumber, record: Address) -> Address:
        """That address, and not behind the record, which begins at ``record``."""
        at = int(np.searchsorted(self._writes, np.uint64(write), side="right"))
        return min(record, Address(int(self._places[at]))) if at < len(self._places) else record


def unread_parts(rows: Sequence[tuple[Segment, Columns, int]], cuts: Cuts) -> list[Unread]:
    """All parts of one record, some of which can't be read."""
    return [_unread(segment, columns, row, cuts) for segment, columns, row in rows]


def _unread(segment: Segment, columns: Columns, row: int, cuts: Cuts) -> Unread:
    chosen = np.zeros(len(columns.rows), bool)
    chosen[row] = True
    entry = columns.rows[row]
    block, write = int(entry["block"]), WriteNumber(int(entry["write"]))
    return Unread(
        file=segment.index,
        block=block,
        write=write,
        time_ns=int(entry["time_ns"]),
        cut=cuts.behind(write, Address(columns.base + block)),
        versions=select(columns, chosen).versions(),
    )


def suspect(unread: Sequence[Unread], horizon_write: WriteNumber) -> str:
    """The newest of those that history still needs, in a sentence; empty if there is none."""
    return next((part.sentence for part in reversed(unread) if part.write > horizon_write), "")


def record_damaged(file: int, block: int) -> Damaged:
    """A record that can't be read where one has to be."""
    return Damaged(
        "point-damaged",
        f"A consistency point's record in segment file {file}, block {block}, is damaged.",
        "Restore the directory from a mirror or a backup, or use 'revolume salvage'.",
    )
