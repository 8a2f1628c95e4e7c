"""Records that a log holds, read by its columns: sealed points with their partial blocks, facts, clock steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position
from revolume.chain.point import Part, Point, stated_point, unpack_part
from revolume.errors import Damaged
from revolume.log.format.columns import Columns, Versions, lived_ms, select
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import Flag, Kind
from revolume.log.read.scan import SegmentReader
from revolume.volume.clocks.label_clock import ClockStep
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.unread import Cuts, Unread, record_damaged, unread_parts

U64 = npt.NDArray[np.uint64]
Pieces = list[tuple[Segment, Columns]]
RecordRow = tuple[Segment, Columns, int]
RECORD_WINDOW = 1 << 14
"""Records lie far apart: reading much around each would be for nothing."""


def addresses(columns: Columns) -> U64:
    """Address of every transfer."""
    found: U64 = np.uint64(columns.base) + columns.rows["block"].astype(np.uint64)
    return found


class Record:
    """A sealed point's record: the point and its partial blocks where they lie."""

    def __init__(self, point: Point, blocks: U64, words: U64, digests: U64) -> None:
        self.point = point
        self.blocks = blocks
        self.words = words
        self.digests = digests

    def with_blocks(self, point: Point, versions: Versions) -> Record:
        """The record with more blocks, or newer places of them."""
        other = ~np.isin(self.blocks, versions.blocks)
        return Record(
            point,
            np.append(self.blocks[other], versions.blocks),
            np.append(self.words[other], versions.words),
            np.append(self.digests[other], versions.digests),
        )


def read_points(
    volume: bytes,
    pieces: Pieces,
    horizon: Horizon,
    upto: Position | None = None,
    unread: list[Unread] | None = None,
) -> tuple[list[Point], list[Record]]:
    """All sealed points of the log, in order, with the partial blocks that their records carry. Records behind
    position ``upto`` are not looked at: nobody has found them to be true. Those that can't be read are left out
    and put into ``unread``; without it they are Damaged."""
    points: list[Point] = []
    records: list[Record] = []
    cuts = _CutPlaces(pieces)
    for rows in _by_record(pieces, upto):
        try:
            read = _read_record(volume, rows, cuts)
        except Damaged:
            if unread is None:
                raise
            unread += unread_parts(rows, Cuts(pieces))
            continue
        if read is not None and read.point.number >= horizon.point and read.point.address >= horizon.address:
            points.append(read.point)
            records.append(read)
    for segment, columns in pieces:
        _with_fixups(volume, segment, columns, points, records)
    return points, records


def _by_record(pieces: Pieces, upto: Position | None) -> Iterator[list[RecordRow]]:
    """The rows of the parts of each sealed record, and of any that was given up before it."""
    rows: list[RecordRow] = []
    for segment, columns in pieces:
        chosen = columns.rows["kind"] == Kind.POINT
        if upto is not None:
            chosen &= columns.rows["position"] <= np.uint64(upto)
        for row in np.flatnonzero(chosen).tolist():
            rows.append((segment, columns, row))
            if int(columns.rows["flags"][row]) & Flag.SEALS:
                yield rows
                rows = []


def _read_record(volume: bytes, rows: Sequence[RecordRow], cuts: _CutPlaces) -> Record | None:
    """The record that the last of these rows seals; None if its first parts are missing."""
    parts: list[tuple[Part, Versions]] = []
    for segment, columns, row in rows:
        part, versions, epoch = _part(SegmentReader(segment, volume, RECORD_WINDOW), columns, row)
        parts = [*parts, (part, versions)] if part.part else [(part, versions)]
    if len(parts) != part.parts:
        return None
    lived = int(lived_ms(columns.rows[row : row + 1])[0])
    cut = cuts.address(part.position)
    record = Address(int(addresses(columns)[row]))
    stated = [each for each, _ in parts]
    point = stated_point(stated, epoch=epoch, address=cut, record=record, lived_ms=lived)
    return _record(point, [v for _, v in parts])


def _with_fixups(
    volume: bytes, segment: Segment, columns: Columns, points: list[Point], records: list[Record]
) -> None:
    """Blocks that a mirror was sent whole belong to the record of the point that they were asked for."""
    reader = SegmentReader(segment, volume)
    for row in np.flatnonzero(columns.rows["kind"] == Kind.LOCAL_BLOCKS).tolist():
        found = reader.at(int(columns.rows["block"][row]))
        if found is None:
            raise record_damaged(segment.index, int(columns.rows["block"][row]))
        number = int.from_bytes(found.transfer.body, "little")
        chosen = np.zeros(len(columns.rows), bool)
        chosen[row] = True
        versions = select(columns, chosen).versions()
        for index, point in enumerate(points):
            if point.number == number:
                points[index] = replace(point, record=found.address)
                records[index] = records[index].with_blocks(points[index], versions)


def newest_seal(columns: Sequence[Columns]) -> Position:
    """The position of the last transfer that seals a point; 0: there is none."""
    newest = 0
    for each in columns:
        rows = each.rows[(each.rows["kind"] == Kind.POINT) & (each.rows["flags"] & np.uint64(Flag.SEALS) != 0)]
        newest = max(newest, int(rows["position"].max(initial=0)))
    return Position(newest)


def records_behind(pieces: Pieces, position: Position) -> list[tuple[Kind, Position, Address]]:
    """(kind, position, address) of every part of a point and every fact behind a position."""
    found: list[tuple[Kind, Position, Address]] = []
    for _, columns in pieces:
        kinds = columns.rows["kind"]
        chosen = ((kinds == Kind.POINT) | (kinds == Kind.FACT)) & (columns.rows["position"] > position)
        rows = columns.rows[chosen]
        found += [
            (Kind(kind), at, address)
            for kind, at, address in zip(
                rows["kind"].tolist(), rows["position"].tolist(), addresses(columns)[chosen].tolist(), strict=True
            )
        ]
    return found


def read_steps(volume: bytes, pieces: Pieces, horizon: Horizon, upto: Position | None = None) -> list[ClockStep]:
    """The clock steps that facts of the log state, behind the horizon and up to position ``upto``."""
    steps: list[ClockStep] = []
    for segment, columns in pieces:
        rows, reader = columns.rows, SegmentReader(segment, volume, BLOCK)
        chosen = (rows["kind"] == Kind.FACT) & (rows["position"] > np.uint64(horizon.position))
        if upto is not None:
            chosen &= rows["position"] <= np.uint64(upto)
        for block in rows["block"][chosen].tolist():
            found = reader.at(block)
            fact = facts.unpack(found.transfer.body) if found is not None else None
            if found is not None and isinstance(fact, facts.ClockStepped):
                steps.append(ClockStep(found.transfer.write, found.transfer.position, fact.from_ns, fact.to_ns))
    return steps


class _CutPlaces:
    """Where in this node's log a position's successor lies: the address of a cut."""

    def __init__(self, pieces: Pieces) -> None:
        self._positions = np.concatenate([c.rows["position"] for _, c in pieces] or [np.zeros(0, np.uint64)])
        self._addresses = np.concatenate([addresses(c) for _, c in pieces] or [np.zeros(0, np.uint64)])

    def address(self, position: Position) -> Address:
        """The address of the first transfer behind ``position``."""
        return Address(int(self._addresses[int(np.searchsorted(self._positions, position, side="right"))]))


def _part(reader: SegmentReader, columns: Columns, row: int) -> tuple[Part, Versions, int]:
    block = int(columns.rows["block"][row])
    found = reader.at(block)
    part = unpack_part(found.transfer.body) if found is not None else None
    if found is None or part is None:
        raise record_damaged(reader.segment.index, block)
    chosen = np.zeros(len(columns.rows), bool)
    chosen[row] = True
    versions = select(columns, chosen).versions()
    return part, versions, found.transfer.epoch


def _record(point: Point, versions: list[Versions]) -> Record:
    return Record(
        point,
        np.concatenate([v.blocks for v in versions]),
        np.concatenate([v.words for v in versions]),
        np.concatenate([v.digests for v in versions]),
    )
