"""The point that a diverged copy has in common with another, in the copy's own log; and where the log is cut.

A number alone proves nothing: both sides have given out the same numbers since. Position and chain checksum of the
point's cut prove everything up to there. What follows up to the end of the point's record is common too: a record
that seals that cut was made once, by whoever was the primary then, and whoever has sealed it holds all of it. So
the log is cut right behind the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.point import Point
from revolume.errors import Damaged, Refused
from revolume.log.format.columns import Columns, resizes, select
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import Flag, Kind
from revolume.log.read.recovery import highest_write
from revolume.log.read.scan import FoundTransfer, SegmentReader, chain_behind
from revolume.volume.livemap.point_records import Pieces, addresses, read_points
from revolume.volume.metadata.manifest_state import Horizon, Mark, Rescue, State

ANEW = "Make this copy anew, in an empty directory; what it wrote alone can be copied out of it before."


@dataclass(frozen=True, slots=True)
class CommonPoint:
    """A consistency point that two copies have in common: number, and position and chain checksum of its cut.
    ``record``: they have its record in common too, and what lies before that; else the log is cut at the point's
    own cut, where the image is the point."""

    number: int
    position: Position
    chain: bytes
    record: bool = True


@dataclass(frozen=True, slots=True)
class CutPlace:
    """Where the log is cut: right behind the transfer that ``end`` names, which lies in the segment of use number
    ``use`` and ends before its block ``end_block``. ``use`` None: nothing behind the horizon is kept. ``point``:
    the common point. ``rescues``: where the image has left that, what was rescued since; the log then begins anew
    behind the point."""

    point: Horizon
    end: Mark
    use: int | None
    end_block: int
    rescues: tuple[Rescue, ...] = ()

    @property
    def position(self) -> Position:
        """Of the last transfer that is kept."""
        return self.end.position


def _without_record(state: State, common: CommonPoint) -> bool:
    horizon = state.horizon
    here = (horizon.point, horizon.position, horizon.chain) == (common.number, common.position, common.chain)
    return here and not common.record


def _at_cut(point: Horizon) -> CutPlace:
    """Nothing of the log is kept: the image is the point."""
    return CutPlace(point, Mark(point.position, Address(0), point.chain, point.write, point.time_ns), None, 0)


def cut_place(state: State, pieces: Pieces, common: CommonPoint) -> CutPlace:
    """Where the log, whole in ``pieces``, is cut so that the copy stands at ``common``. Refused: it can't be
    taken back to there. Reads the log's records."""
    if _without_record(state, common):
        return _at_cut(state.horizon)
    if common.position < state.horizon.position or common.number < state.horizon.point:
        return _left_behind(state, common)
    points, _ = read_points(state.volume, pieces, state.horizon, None, [])
    found = next((point for point in points if point.number == common.number), None)
    point = _common(state, common, found, pieces)
    if state.folding > point.write:
        raise _passed(state, common)
    if point.point > state.agreed.point:
        raise Refused(
            "point-not-agreed",
            f"{state.name} has not agreed to cp{point.point} yet: it stands at cp{state.agreed.point}.",
            "Name a point that it has agreed to.",
        )
    if found is None:
        return _at_cut(point)
    return _behind_record(state, pieces, point, found.record)


def _common(state: State, common: CommonPoint, found: Point | None, pieces: Pieces) -> Horizon:
    """The common point as the copy knows it. Refused: it has another of that number, or none."""
    horizon = state.horizon
    if found is not None and found.number != horizon.point:
        here = Horizon(
            point=found.number, write=found.write, position=found.position, address=found.address,
            time_ns=found.time_ns, size=_size_at(state, pieces, found.write), root_low=found.root[0],
            root_high=found.root[1], chain=found.chain,
        )  # fmt: skip
    else:
        here = horizon
    if (here.point, here.position, here.chain) != (common.number, common.position, common.chain):
        raise Refused(
            "not-common",
            f"{state.name} has no point cp{common.number} at position {common.position} that is the other copy's.",
            ANEW,
        )
    return here


def _size_at(state: State, pieces: Pieces, upto: WriteNumber) -> int:
    sizes = [
        size for _, columns in pieces for write, size in resizes(columns) if state.horizon.write < write <= upto
    ]
    return sizes[-1] if sizes else state.horizon.size


def _left_behind(state: State, common: CommonPoint) -> CutPlace:
    rescues = rescued_since(state, common)
    if not rescues:
        raise _passed(state, common)
    point = rescues[0].moment
    mark = Mark(point.position, Address(0), point.chain, point.write, point.time_ns)
    return CutPlace(point, mark, None, 0, rescues)


def rescued_since(state: State, common: CommonPoint) -> tuple[Rescue, ...]:
    """What was rescued for the common point and for every newer moment, if the image has left it and it is pinned;
    else nothing."""
    moments = [(each.moment.point, each.moment.position, each.moment.chain) for each in state.rescues]
    wanted = (common.number, common.position, common.chain)
    return state.rescues[moments.index(wanted) :] if wanted in moments else ()


def _passed(state: State, common: CommonPoint) -> Refused:
    """The image has gone beyond it, and it is not pinned."""
    return Refused(
        "branch-point-passed",
        f"The image of {state.name} has gone beyond cp{common.number} (it stands at cp{state.horizon.point}): "
        "the copy can't be taken back to there.",
        ANEW,
    )


def _behind_record(state: State, pieces: Pieces, point: Horizon, record: Address) -> CutPlace:
    segment, columns = next(
        (segment, columns) for segment, columns in pieces if segment.base <= record < segment.base + segment.blocks
    )
    row = int(np.flatnonzero(addresses(columns) == np.uint64(record))[0])
    _refuse_later_blocks(state, columns, row, point)
    found = _read(state, segment, int(columns.rows["block"][row]))
    kept = select(columns, np.arange(len(columns.rows)) <= row)
    before = [each for other, each in pieces if other.use < segment.use]
    write = max(state.horizon.write, *(highest_write(each) for each in (*before, kept)))
    transfer = found.transfer
    mark = Mark(transfer.position, Address(0), chain_behind(transfer), write, transfer.time_ns)
    return CutPlace(point, mark, segment.use, found.end_block)


def _refuse_later_blocks(state: State, columns: Columns, row: int, point: Horizon) -> None:
    """Blocks that the copy was sent whole for the point may lie behind transfers that nobody has proved common."""
    rows = columns.rows
    while row and rows["kind"][row] == Kind.LOCAL_BLOCKS:
        row -= 1
    seals = rows["kind"][row] == Kind.POINT and int(rows["flags"][row]) & Flag.SEALS
    if not seals or int(rows["write"][row]) != point.write:
        raise Refused(
            "blocks-behind-point",
            f"Blocks of cp{point.point} came to {state.name} behind what it would have to give up.",
            ANEW,
        )


def _read(state: State, segment: Segment, block: int) -> FoundTransfer:
    found = SegmentReader(segment, state.volume).at(block)
    if found is None:
        raise Damaged(
            "record-damaged",
            f"A record in segment file {segment.index}, block {block}, can't be read.",
            "Run 'revolume check' on the stopped volume.",
        )
    return found


def writes_behind(pieces: Sequence[Columns], position: Position) -> int:
    """How many writes these transfers made behind a position."""
    return sum(_writes(columns, position) for columns in pieces)


def _writes(columns: Columns, position: Position) -> int:
    rows = columns.rows
    return int(rows["entries"][(rows["kind"] == Kind.WRITES) & (rows["position"] > np.uint64(position))].sum())
