"""What a primary's log changed between its points, newest first.

The log is read from its end to its beginning, a segment at a time, so memory is bound by one segment however long
the history is. The changes of an interval may come in several pieces, one behind the other: whatever lies in more
than one segment. Only writes count. What a point carries whole was written in part before its cut, and blocks that
were stored for a repair are not changes of the volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.numbers import WriteNumber
from revolume.chain.versions import LogRange, segment_columns
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.log.format.columns import Columns, Versions, select
from revolume.log.format.segment import Segment, segment_name
from revolume.log.format.transfer import Kind

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Changes:
    """Blocks that were written, wholly or in part, or zeroed by the writes in (``after``, ``upto``]."""

    after: WriteNumber
    upto: WriteNumber
    blocks: BlockSet


def changes_newest_first(directory: Directory, log_range: LogRange, volume: bytes, cuts: U64) -> Iterator[Changes]:
    """The changes of the intervals between ``cuts``: write numbers (uint64, strictly ascending), the first of
    which is the horizon's, the others those of points. Damaged: a transfer is missing, and what follows, which is
    older, is not known."""
    following = 0
    for spec in reversed(log_range.segments):
        file = directory.open(segment_name(spec.index), write=False)
        try:
            columns = segment_columns(Segment(spec.index, spec.use, spec.blocks, file), volume, spec.end)
        finally:
            file.close()
        following = _continued(columns, following)
        yield from _by_interval(columns, cuts)
    if following > log_range.after + 1:
        raise _missing(following)


def _continued(columns: Columns, following: int) -> int:
    """The position of the first transfer, the last of which comes before ``following`` (0: not known)."""
    positions = columns.rows["position"][columns.rows["kind"] != Kind.LOCAL_BLOCKS]
    if not len(positions):
        return following
    if (np.diff(positions) != 1).any() or (following and int(positions[-1]) + 1 != following):
        raise _missing(following or int(positions[-1]))
    return int(positions[0])


def _missing(position: int) -> Damaged:
    return Damaged("log-damaged", f"A transfer of the log before position {position} can't be found.")


def _by_interval(columns: Columns, cuts: U64) -> Iterator[Changes]:
    rows = columns.rows
    last = rows["write"] + np.maximum(rows["entries"], 1) - 1
    chosen = (rows["kind"] == Kind.WRITES) & (last > cuts[0]) & (rows["write"] <= cuts[-1])
    versions = select(columns, chosen).versions()
    starts, ends, asof = _intervals(versions)
    interval = cuts.searchsorted(asof, "left").astype(np.int64) - 1
    for at in np.unique(interval)[::-1].tolist():
        if 0 <= at < len(cuts) - 1:
            here = interval == at
            blocks = BlockSet.of_intervals(starts[here], ends[here])
            yield Changes(WriteNumber(int(cuts[at])), WriteNumber(int(cuts[at + 1])), blocks)


def _intervals(versions: Versions) -> tuple[U64, U64, U64]:
    """First block, the one behind the last, and the write, of everything that was changed."""
    singles = np.concatenate([versions.blocks, versions.fragment_blocks])
    starts = np.concatenate([singles, versions.range_starts])
    ends = np.concatenate([singles + np.uint64(1), versions.range_ends])
    return starts, ends, np.concatenate([versions.asof, versions.fragment_asof, versions.range_asof])
