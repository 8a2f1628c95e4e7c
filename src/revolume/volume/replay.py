"""The live map out of the log: what recovery does with the columns.

Two stretches. Below the last point's cut every version simply goes into the overlay, in order; the partial
blocks that points carry go in afterwards, each only where nothing newer than its cut is known, since a
record lies behind writes that are newer than it. Above that cut is the open interval: it is put through the
same doors as live writes, so that the next point finds its journal, and the fragments fill the partial
buffer again.

At a mirror the first stretch is what the records of its points say (``chain/delta_maps.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, fragment_digest
from revolume.blocks.word import ADDRESS_MASK
from revolume.chain.delta_maps import delta_maps
from revolume.chain.point import Part, Point, changed_blocks, unpack_part
from revolume.chain.received import zeroed_elsewhere
from revolume.chain.versions import Span, newest, under_ranges
from revolume.errors import Damaged
from revolume.log.columns import Columns, Versions, lived_ms, only, resizes
from revolume.log.scan import SegmentReader
from revolume.log.segment import Segment
from revolume.log.transfer import BLOCK, Flag, Kind
from revolume.volume import facts
from revolume.volume.core import Core, LastPoint
from revolume.volume.label_clock import ClockStep
from revolume.volume.manifest import Horizon
from revolume.volume.stretches import agreed_span, position_below

U64 = npt.NDArray[np.uint64]
Pieces = list[tuple[Segment, Columns]]


def addresses(columns: Columns) -> U64:
    """Address of every transfer."""
    found: U64 = np.uint64(columns.base) + columns.rows["block"].astype(np.uint64)
    return found


async def replay(core: Core, pieces: Pieces, horizon: Horizon, upto: int | None = None) -> LastPoint:
    """Fill ``core``'s live map, points, sizes, transfer table and partial buffer; what the next point
    stands on. ``upto``: position of the last record that a secondary has agreed to; nothing behind that point is
    applied."""
    call = core.host.work.call
    points, records = await call(read_points, core.volume_id, pieces, horizon, upto)
    core.points[:] = points
    last_cut = points[-1].address if points else horizon.address
    begin = max(horizon.address, core.live.base.meta.address if core.live.base else 0)
    _stand_on_base(core)
    span = agreed_span(core, core.live.base, points[-1].number) if points else None
    if span is not None:
        await call(_from_records, core, pieces, span)
    else:
        for _, columns in pieces:
            await call(_below, core, columns, begin, last_cut)
        for record in records:
            if record.point.address > begin:
                _restate(core, record)
    core.live.interval.begin = last_cut
    core.live.interval.ranges_before = core.live.ranges
    for record in records:
        _note_old(core, record, last_cut)
    for segment, columns in pieces:
        if upto is None:
            _above(core, segment, columns, last_cut)
        _tabled(core, columns, last_cut)
    core.lost = await call(_lost, core, records)
    _sizes(core, pieces, horizon, None if upto is None else (points[-1].write if points else horizon.write))
    return _last(points, records, horizon)


def _stand_on_base(core: Core) -> None:
    base = core.live.base
    if base is not None:
        ranges = base.ranges().without_below(core.live.folded)
        core.live.layers = core.live.layers._replace(ranges=ranges, based=base.meta.address)


def _below(core: Core, columns: Columns, begin: int, cut: int) -> None:
    """Versions in [begin, cut) into the overlay, points' blocks excepted."""
    at = addresses(columns)
    chosen = (at >= np.uint64(begin)) & (at < np.uint64(cut)) & (columns.rows["kind"] == Kind.WRITES)
    if not chosen.any():
        return
    versions = only(columns, chosen).versions()
    live = core.live
    live.overlay.put(versions.blocks, versions.words, versions.digests)
    for start, end, word in _ranges(versions):
        live.ranges = live.ranges.with_range(start, end, word)


def _from_records(core: Core, pieces: Pieces, span: Span) -> None:
    """At a mirror: what the records of its points say, from the base on. (Zeroes of a point stand just below its
    cut, above blocks that were written behind them: they are put with holes.)"""
    live = core.live
    position = position_below(core, live.base)
    behind = [(s, c) for s, c in pieces if len(c.rows) and int(c.rows["position"].max()) > position]
    state = under_ranges(newest(delta_maps(behind, core.volume_id, span, position), 0, ADDRESS_MASK))
    live.overlay.put(state.blocks, state.words, state.digests)
    for start, end, _, word in sorted(state.ranges, key=lambda fact: fact[2]):
        inside = state.blocks[np.searchsorted(state.blocks, start) : np.searchsorted(state.blocks, end)]
        run = np.array([start], np.uint64), np.array([end - start], np.uint64)
        for first, stop in zip(*(column.tolist() for column in zeroed_elsewhere(run, inside)), strict=True):
            live.ranges = live.ranges.with_range(first, stop, word)


def _note_old(core: Core, record: Record, cut: int) -> None:
    """Blocks of a record that lie above the last cut although they are not newer than it."""
    known, _ = core.live.overlay.get(record.blocks)
    old = (known == record.words) & ((record.words & np.uint64(ADDRESS_MASK)) >= np.uint64(cut))
    core.live.interval.was(record.blocks[old], record.words[old], record.digests[old])


def _ranges(versions: Versions) -> Iterator[tuple[int, int, int]]:
    return zip(
        versions.range_starts.tolist(),
        versions.range_ends.tolist(),
        versions.range_words.tolist(),
        strict=True,
    )


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
    volume: bytes, pieces: Pieces, horizon: Horizon, upto: int | None = None
) -> tuple[list[Point], list[Record]]:
    """All sealed points of the log, in order, with the partial blocks that their records carry. Records behind
    position ``upto`` are not looked at: nobody has found them to be true."""
    points: list[Point] = []
    records: list[Record] = []
    parts: list[tuple[Part, Versions]] = []
    cuts = _CutPlaces(pieces)
    for segment, columns in pieces:
        reader = SegmentReader(segment, volume)
        chosen = columns.rows["kind"] == Kind.POINT
        if upto is not None:
            chosen &= columns.rows["position"] <= np.uint64(upto)
        for row in np.flatnonzero(chosen).tolist():
            part, versions, epoch, sealing = _part(reader, columns, row)
            parts = [*parts, (part, versions)] if part.part else [(part, versions)]
            if not sealing or len(parts) != part.parts:
                continue
            cut = cuts.address(part.position)
            lived = int(lived_ms(columns.rows[row : row + 1])[0])
            point = _point([each for each, _ in parts], epoch, cut, addresses(columns)[row], lived)
            if point.number >= horizon.point and point.address >= horizon.address:
                points.append(point)
                records.append(_record(point, [v for _, v in parts]))
    for segment, columns in pieces:
        _with_fixups(volume, segment, columns, points, records)
    return points, records


def _with_fixups(
    volume: bytes, segment: Segment, columns: Columns, points: list[Point], records: list[Record]
) -> None:
    """Blocks that a mirror was sent whole belong to the record of the point that they were asked for."""
    reader = SegmentReader(segment, volume)
    for row in np.flatnonzero(columns.rows["kind"] == Kind.FIXUP).tolist():
        found = reader.at(int(columns.rows["block"][row]))
        if found is None:
            raise _record_damaged(segment, int(columns.rows["block"][row]))
        number = int.from_bytes(found.transfer.body, "little")
        chosen = np.zeros(len(columns.rows), bool)
        chosen[row] = True
        versions = only(columns, chosen).versions()
        for index, point in enumerate(points):
            if point.number == number:
                points[index] = replace(point, record=found.address)
                records[index] = records[index].with_blocks(points[index], versions)


def records_behind(pieces: Pieces, position: int) -> list[tuple[Kind, int, int]]:
    """(kind, position, address) of every part of a point and every fact behind a position."""
    found: list[tuple[Kind, int, int]] = []
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


def read_steps(
    volume: bytes, pieces: Pieces, horizon: Horizon, upto: int | None = None
) -> list[ClockStep]:
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

    def address(self, position: int) -> int:
        """The address of the first transfer behind ``position``."""
        return int(self._addresses[int(np.searchsorted(self._positions, position, side="right"))])


def _record_damaged(segment: Segment, block: int) -> Damaged:
    return Damaged(
        "point-damaged",
        f"A consistency point's record in segment file {segment.index}, block {block}, is damaged.",
        "Restore the directory from a mirror or a backup, or use 'revolume salvage'.",
    )


def _part(reader: SegmentReader, columns: Columns, row: int) -> tuple[Part, Versions, int, bool]:
    block = int(columns.rows["block"][row])
    found = reader.at(block)
    part = unpack_part(found.transfer.body) if found is not None else None
    if found is None or part is None:
        raise _record_damaged(reader.segment, block)
    chosen = np.zeros(len(columns.rows), bool)
    chosen[row] = True
    versions = only(columns, chosen).versions()
    return part, versions, found.transfer.epoch, bool(found.transfer.flags & Flag.SEALS)


def _point(parts: Sequence[Part], epoch: int, address: int, record: int, lived: int) -> Point:
    part = parts[0]
    return Point(
        part.number, part.previous, part.position, part.write, part.time_ns, epoch, part.digest, part.root,
        part.chain, changed_blocks(parts), address, int(record), lived,
    )  # fmt: skip


def _record(point: Point, versions: list[Versions]) -> Record:
    return Record(
        point,
        np.concatenate([v.blocks for v in versions]),
        np.concatenate([v.words for v in versions]),
        np.concatenate([v.digests for v in versions]),
    )


def _restate(core: Core, record: Record) -> None:
    """A point's partial blocks, where nothing newer than its cut is known."""
    if not len(record.blocks):
        return
    live = core.live
    known, _ = live.overlay.get(record.blocks)
    mask = np.uint64((1 << 62) - 1)
    newest = np.maximum(known & mask, live.ranges.get(record.blocks) & mask)
    stale = newest < np.uint64(record.point.address)
    live.overlay.put(record.blocks[stale], record.words[stale], record.digests[stale])


def _above(core: Core, segment: Segment, columns: Columns, cut: int) -> None:
    """The open interval again, a segment at a time."""
    writes = (addresses(columns) >= np.uint64(cut)) & (columns.rows["kind"] == Kind.WRITES)
    if writes.any():
        _again(core, segment, only(columns, writes).versions())


def _tabled(core: Core, columns: Columns, cut: int) -> None:
    """The transfers of the open interval into the transfer table."""
    at = addresses(columns)
    chosen = at >= np.uint64(cut)
    rows = columns.rows[chosen]
    payload = at[chosen] + rows["header_blocks"]
    for row in zip(payload.tolist(), rows["position"].tolist(), rows["epoch"].tolist(), strict=True):
        core.writer.table.add(*row)


def _again(core: Core, segment: Segment, versions: Versions) -> None:
    live, partials = core.live, core.partials
    if len(partials):
        for block in versions.blocks.tolist():
            partials.overwritten(block, 1)
    if len(versions.blocks):
        live.put(versions.blocks, versions.words, versions.digests)
    for start, end, word in _ranges(versions):
        partials.overwritten(start, end - start)
        live.put_range(start, end, word)
    for index in np.flatnonzero(versions.fragment_asof > _whole_asof(versions)).tolist():
        _fragment(core, segment, versions, index)


def _whole_asof(versions: Versions) -> U64:
    """For each fragment the newest write that overwrote its block whole, 0 = none here."""
    whole: dict[int, int] = dict(zip(versions.blocks.tolist(), versions.asof.tolist(), strict=True))
    found = np.array([whole.get(b, 0) for b in versions.fragment_blocks.tolist()], np.uint64)
    for start, end, asof in zip(versions.range_starts, versions.range_ends, versions.range_asof, strict=True):
        inside = (versions.fragment_blocks >= start) & (versions.fragment_blocks < end)
        found[inside] = np.maximum(found[inside], asof)
    return found


def _fragment(core: Core, segment: Segment, versions: Versions, index: int) -> None:
    block, word = int(versions.fragment_blocks[index]), int(versions.fragment_words[index])
    length, place = int(versions.fragment_lengths[index]), int(versions.fragment_byte_addresses[index])
    piece = bytearray(length)
    if place:
        segment.file.preadv([piece], place - segment.base * BLOCK)
        if fragment_digest(piece) != int(versions.fragment_digests[index]):
            raise Damaged(
                "log-block-damaged",
                f"A fragment of block {block} in segment file {segment.index} is not what was written.",
                "Restore the directory from a mirror or a backup, or use 'revolume salvage'.",
            )
    number = int(versions.fragment_asof[index])
    core.partials.write(block, int(versions.fragment_at[index]), bytes(piece), number)
    core.live.put(np.array([block], np.uint64), np.array([word], np.uint64), np.zeros(1, np.uint64))


def _lost(core: Core, records: list[Record]) -> set[int]:
    """Blocks that a point called lost and that have not been overwritten since."""
    called = [record.blocks[record.digests == np.uint64(LOST_DIGEST)] for record in records]
    blocks: U64 = np.unique(np.concatenate(called)) if called else np.zeros(0, np.uint64)
    if not len(blocks):
        return set()
    words, digests = core.live.lookup(blocks)
    core.live.settle(blocks, words, digests, False)
    return set(blocks[digests == np.uint64(LOST_DIGEST)].tolist())


def _sizes(core: Core, pieces: Pieces, horizon: Horizon, upto: int | None) -> None:
    core.sizes[:] = [(0, horizon.size)]
    for _, columns in pieces:
        core.sizes += [
            (write, size)
            for write, size in resizes(columns)
            if write > horizon.write and (upto is None or write <= upto)
        ]
    core.size = core.sizes[-1][1]


def _last(points: list[Point], records: list[Record], horizon: Horizon) -> LastPoint:
    if not points:
        return LastPoint(horizon.point, (horizon.root_low, horizon.root_high))
    order = np.argsort(records[-1].blocks)
    return LastPoint(
        points[-1].number, points[-1].root, records[-1].blocks[order], records[-1].digests[order]
    )


__all__ = ["read_steps", "records_behind", "replay"]
