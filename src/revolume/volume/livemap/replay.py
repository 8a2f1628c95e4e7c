"""The live map out of the log: what recovery does with the columns.

Two stretches. Below the last point's cut every version simply goes into the overlay, in order; the partial
blocks that points carry go in afterwards, each only where nothing newer than its cut is known, since a
record lies behind writes that are newer than it. Above that cut is the open interval: it is put through the
same doors as live writes, so that the next point finds its journal, and the fragments fill the partial
buffer again.

At a mirror the first stretch is what the records of its points say (``chain/point_deltas.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK
from revolume.blocks.block_set import BlockSet
from revolume.blocks.digest import LOST_DIGEST, fragment_digest
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.point import Point
from revolume.chain.point_deltas import point_deltas
from revolume.chain.versions import EVERY_WRITE, NO_WRITE, Span, newest
from revolume.errors import Damaged
from revolume.host.work import Work
from revolume.log.format.columns import Columns, Versions, resizes, select
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import Kind
from revolume.log.format.transfer_table import TransferTable
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.log_ranges import agreed_span, position_below
from revolume.volume.livemap.partial_blocks import PartialBlocks
from revolume.volume.livemap.point_records import Pieces, Record, addresses, read_points
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.points.retained_points import LastPoint
from revolume.volume.unread import Unread, record_damaged

U64 = npt.NDArray[np.uint64]


class BaseWithoutPoint(Exception):
    """The record of the base map's point can't be read: what lies behind the last point that can is read anew, so
    the map must be left out."""


@dataclass(frozen=True, slots=True)
class ReplayTarget:
    """What replaying fills. ``mirror``: the records of its points say what its log changed; ``mirrored``: there
    are mirrors, whose copies continue from the newest point."""

    volume_id: bytes
    live: LiveMap
    partials: PartialBlocks
    table: TransferTable
    mirror: bool
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the log says besides where blocks lie: the retained points and what the next one is computed from, the
    blocks that are still lost, (write, size in bytes) for each change of the volume's size, and the parts of
    points' records that can't be read."""

    points: list[Point]
    last: LastPoint
    lost: set[int]
    sizes: list[tuple[WriteNumber, int]]
    unread: list[Unread]


async def replay(
    target: ReplayTarget, pieces: Pieces, horizon: Horizon, work: Work, upto: Position | None = None
) -> Replayed:
    """Fill live map, transfer table and partial buffer. ``upto``: position of the last record that a secondary has
    agreed to; nothing behind that point is applied. Damaged: a record can't be read that this copy needs;
    BaseWithoutPoint: the base map must be left out."""
    call, live = work.call, target.live
    left_out: list[Unread] | None = None if target.mirror else []
    points, records = await call(read_points, target.volume_id, pieces, horizon, upto, left_out)
    unread = [part for part in left_out or [] if part.write > horizon.write]
    last_cut = points[-1].address if points else horizon.address
    _check_unread(unread, target, last_cut)
    carried = _carried(unread, last_cut)
    begin = max(horizon.address, live.base.meta.address if live.base else Address(0))
    _stand_on_base(live)
    if points and target.mirror:
        base = live.base.meta if live.base is not None else None
        span = agreed_span(horizon, base, points[-1].number)
        position = position_below(points, horizon, base)
        await call(_from_records, target, pieces, span, position)
    else:
        for _, columns in pieces:
            await call(_below, live, columns, begin, last_cut)
        for record in [*records, *carried]:
            if record.point.address > begin:
                _restate(live, record)
    live.interval.begin = last_cut
    live.interval.ranges_before = live.ranges
    for record in records:
        _note_old(live, record, last_cut)
    for segment, columns in pieces:
        if upto is None:
            _above(target, segment, columns, last_cut)
        _tabled(target.table, columns, last_cut)
    lost = await call(_lost, live, [*records, *carried])
    last_write = points[-1].write if points else horizon.write
    sizes = _sizes(pieces, horizon, None if upto is None else last_write)
    return Replayed(points, _last(points, records, horizon), lost, sizes, unread)


def _check_unread(unread: Sequence[Unread], target: ReplayTarget, last_cut: Address) -> None:
    newest, base = [part for part in unread if part.cut > last_cut], target.live.base
    if newest and target.mirrored:
        raise record_damaged(newest[-1].file, newest[-1].block)
    if unread and base is not None and base.meta.address > last_cut:
        raise BaseWithoutPoint


def _stand_on_base(live: LiveMap) -> None:
    base = live.base
    if base is not None:
        ranges = base.ranges().without_below(live.folded)
        live.layers = live.layers._replace(ranges=ranges, based=base.meta.address)


def _below(live: LiveMap, columns: Columns, begin: Address, cut: Address) -> None:
    """Versions in [begin, cut) into the overlay, points' blocks excepted."""
    at = addresses(columns)
    chosen = (at >= np.uint64(begin)) & (at < np.uint64(cut)) & (columns.rows["kind"] == Kind.WRITES)
    if not chosen.any():
        return
    versions = select(columns, chosen).versions()
    live.overlay.put(versions.blocks, versions.words, versions.digests)
    for start, end, word in _ranges(versions):
        live.ranges = live.ranges.with_range(start, end, word)


def _from_records(target: ReplayTarget, pieces: Pieces, span: Span, position: Position) -> None:
    """At a mirror: what the records of its points say, from the base on, which stands at ``position``. (Zeroes of
    a point stand just below its cut, above blocks that were written behind them: they are put with holes.)"""
    live = target.live
    behind = [(s, c) for s, c in pieces if len(c.rows) and int(c.rows["position"].max()) > position]
    delta = newest(point_deltas(behind, target.volume_id, span, position), NO_WRITE, EVERY_WRITE).delta
    live.overlay.put(delta.blocks, delta.locations, delta.digests)
    zeroes = delta.zeroes.without(BlockSet.of_blocks(delta.blocks))
    live.ranges = live.ranges.with_ranges(list(zeroes))


def _note_old(live: LiveMap, record: Record, cut: Address) -> None:
    """Blocks of a record that lie above the last cut although they are not newer than it."""
    known, _ = live.overlay.get(record.blocks)
    old = (known == record.words) & ((record.words & np.uint64(ADDRESS_MASK)) >= np.uint64(cut))
    live.interval.note_old(record.blocks[old], record.words[old], record.digests[old])


def _ranges(versions: Versions) -> Iterator[tuple[int, int, int]]:
    return zip(
        versions.range_starts.tolist(),
        versions.range_ends.tolist(),
        versions.range_words.tolist(),
        strict=True,
    )


def _carried(unread: Sequence[Unread], last_cut: Address) -> list[Record]:
    """The blocks that such records carry, below the last point that stands; above it the log's writes are put
    through the doors again."""
    return [
        Record(
            Point(
                number=0, previous=0, position=Position(0), write=part.write, time_ns=part.time_ns, epoch=0,
                digest=0, root=(0, 0), chain=bytes(16), changed_blocks=0, address=part.cut,
            ),
            part.versions.blocks, part.versions.words, part.versions.digests,
        )
        for part in unread
        if part.cut <= last_cut
    ]  # fmt: skip


def _restate(live: LiveMap, record: Record) -> None:
    """A point's partial blocks, where nothing newer than its cut is known."""
    if not len(record.blocks):
        return
    known, _ = live.overlay.get(record.blocks)
    mask = np.uint64(ADDRESS_MASK)
    newest = np.maximum(known & mask, live.ranges.get(record.blocks) & mask)
    stale = newest < np.uint64(record.point.address)
    live.overlay.put(record.blocks[stale], record.words[stale], record.digests[stale])


def _above(target: ReplayTarget, segment: Segment, columns: Columns, cut: Address) -> None:
    """The open interval again, a segment at a time."""
    writes = (addresses(columns) >= np.uint64(cut)) & (columns.rows["kind"] == Kind.WRITES)
    if writes.any():
        _again(target, segment, select(columns, writes).versions())


def _tabled(table: TransferTable, columns: Columns, cut: Address) -> None:
    """The transfers of the open interval into the transfer table."""
    at = addresses(columns)
    chosen = at >= np.uint64(cut)
    rows = columns.rows[chosen]
    payload = at[chosen] + rows["header_blocks"]
    for row in zip(payload.tolist(), rows["position"].tolist(), rows["epoch"].tolist(), strict=True):
        table.add(*row)


def _again(target: ReplayTarget, segment: Segment, versions: Versions) -> None:
    live, partials = target.live, target.partials
    if len(partials):
        for block in partials.blocks.keys() & set(versions.blocks.tolist()):
            partials.overwritten(block, 1)
    if len(versions.blocks):
        live.put(versions.blocks, versions.words, versions.digests)
    for start, end, word in _ranges(versions):
        partials.overwritten(start, end - start)
        live.put_range(start, end, word)
    for index in np.flatnonzero(versions.fragment_asof > _whole_asof(versions)).tolist():
        _fragment(target, segment, versions, index)


def _whole_asof(versions: Versions) -> U64:
    """For each fragment the newest write that overwrote its block whole, 0 = none here."""
    whole: dict[int, int] = dict(zip(versions.blocks.tolist(), versions.asof.tolist(), strict=True))
    found = np.array([whole.get(b, 0) for b in versions.fragment_blocks.tolist()], np.uint64)
    for start, end, asof in zip(versions.range_starts, versions.range_ends, versions.range_asof, strict=True):
        inside = (versions.fragment_blocks >= start) & (versions.fragment_blocks < end)
        found[inside] = np.maximum(found[inside], asof)
    return found


def _fragment(target: ReplayTarget, segment: Segment, versions: Versions, index: int) -> None:
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
    target.partials.write(block, int(versions.fragment_at[index]), bytes(piece), number)
    target.live.put(np.array([block], np.uint64), np.array([word], np.uint64), np.zeros(1, np.uint64))


def _lost(live: LiveMap, records: list[Record]) -> set[int]:
    """Blocks that a point called lost and that have not been overwritten since."""
    called = [record.blocks[record.digests == np.uint64(LOST_DIGEST)] for record in records]
    blocks: U64 = np.unique(np.concatenate(called)) if called else np.zeros(0, np.uint64)
    if not len(blocks):
        return set()
    words, digests = live.lookup(blocks)
    live.settle(blocks, words, digests, False)
    return set(blocks[digests == np.uint64(LOST_DIGEST)].tolist())


def _sizes(pieces: Pieces, horizon: Horizon, upto: WriteNumber | None) -> list[tuple[WriteNumber, int]]:
    return [
        (write, size)
        for _, columns in pieces
        for write, size in resizes(columns)
        if write > horizon.write and (upto is None or write <= upto)
    ]


def _last(points: list[Point], records: list[Record], horizon: Horizon) -> LastPoint:
    if not points:
        return LastPoint(horizon.point, (horizon.root_low, horizon.root_high))
    order = np.argsort(records[-1].blocks)
    return LastPoint(points[-1].number, points[-1].root, records[-1].blocks[order], records[-1].digests[order])
