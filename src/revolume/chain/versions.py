"""From versions to a map: which version of each block is the newest as of a write.

The base of every derived map: the live map's base, a moment's point-in-time map, what a fold writes into the
image. Order is by write number, not by place: a consistency point carries blocks *as of its cut*, and lies
in the log behind writes that are newer.

Streams: segments are taken one after the other; what has been superseded is dropped as it goes, so memory
is bound by the blocks that changed and not by the length of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.blocks.ordering import ascends, stable_order
from revolume.blocks.ranges import Ranges
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.log.format.columns import Columns, ColumnsBuilder, Versions, end_address, select
from revolume.log.format.segment import Segment, read_footer, segment_name
from revolume.log.format.transfer import Kind
from revolume.log.read.scan import SegmentReader

U64 = npt.NDArray[np.uint64]
NOTHING = np.zeros(0, np.uint64)
GATHER = 1 << 18
NO_WRITE, EVERY_WRITE = WriteNumber(0), WriteNumber((1 << 63) - 1)
"""Bounds of write numbers that leave nothing out."""


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """A segment for a job in another process: file, use number, blocks, where it ends if closed early."""

    index: int
    use: int
    blocks: int
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """The points numbered above ``after``, up to ``upto``."""

    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class LogRange:
    """The part of the log that a job is about: every transfer behind position ``after`` of which something
    lies below address ``end``. ``segments``, oldest use first, are those in which they lie. ``agreed``: at a
    mirror, the points whose records say what changed (``point_deltas.py``)."""

    segments: tuple[SegmentSpec, ...]
    after: Position
    end: Address
    agreed: Span | None = None


@dataclass(frozen=True, slots=True)
class Fragment:
    """Bytes [at, at + length) of a block, written by write ``asof``; ``place`` is address · 4096 + bytes in
    the log, 0 = zeroes."""

    block: int
    asof: WriteNumber
    at: int
    length: int
    place: int
    word: int
    digest: int


@dataclass(frozen=True, slots=True)
class NewestVersions:
    """What a stretch of the log changed. ``delta``: the newest whole version of every block, and zero ranges; no
    entry lies under a range that is newer. ``fragments``, in write order: bytes that were written over those."""

    delta: DeltaMap
    fragments: tuple[Fragment, ...] = ()


def load_range(directory: Directory, log_range: LogRange, volume: bytes) -> Iterator[Columns]:
    """The range's columns, segment by segment. Damaged: a transfer is missing. A map that left one out would
    show older blocks as if they were the newest."""
    return (columns for _, columns in load_segments(directory, log_range, volume))


def load_segments(directory: Directory, log_range: LogRange, volume: bytes) -> Iterator[tuple[Segment, Columns]]:
    """Each segment of the range with its columns, oldest first; a segment is open until the next is asked for.
    Damaged: a transfer is missing."""
    last, reached = log_range.after, 0
    for spec in log_range.segments:
        file = directory.open(segment_name(spec.index), write=False)
        try:
            segment = Segment(spec.index, spec.use, spec.blocks, file)
            columns = segment_columns(segment, volume, spec.end)
            if not len(columns.rows):
                continue
            positions = columns.rows["position"][columns.rows["kind"] != Kind.LOCAL_BLOCKS]
            if len(positions):
                if int(positions[0]) > last + 1 or (np.diff(positions) != 1).any():
                    raise _transfer_missing(f"behind position {last}")
                last = max(last, Position(int(positions[-1])))
            reached = end_address(columns)
            yield segment, columns
        finally:
            file.close()
    if reached < log_range.end:
        raise _transfer_missing(f"behind position {last}")


def _transfer_missing(where: str) -> Damaged:
    return Damaged(
        "log-damaged",
        f"A transfer of the log {where} can't be found where it was written.",
        "Run 'revolume check' on the stopped volume for the whole extent.",
    )


def segment_columns(segment: Segment, volume: bytes, end: int | None) -> Columns:
    """A segment's columns: from its footer, or from its headers where it has none."""
    footer = read_footer(segment, volume)
    return footer.columns if footer is not None else scanned_columns(segment, volume, end)


def scanned_columns(segment: Segment, volume: bytes, end: int | None) -> Columns:
    """Columns from the headers, along the chain from whatever the first transfer says came before it."""
    reader, builder = SegmentReader(segment, volume), ColumnsBuilder(segment.base)
    first = reader.at(0)
    if first is not None:
        for found in reader.chain_from(0, first.transfer.previous, end):
            builder.add_transfer(found.transfer, found.block, found.node_header.lived_ns)
    return builder.freeze()


def newest_in(pieces: Iterable[Columns], after: WriteNumber, upto: WriteNumber) -> NewestVersions:
    """The newest version of every block among those that these transfers made in ``(after, upto]``."""
    return newest((columns.versions() for columns in of_writes(pieces, after, upto)), after, upto)


def of_writes(pieces: Iterable[Columns], after: WriteNumber, upto: WriteNumber) -> Iterator[Columns]:
    """The transfers of ``pieces`` that may have made versions as of the writes ``(after, upto]``: to unfold the
    others costs more than to look at their rows."""
    for columns in pieces:
        rows = columns.rows
        first, last = rows["write"], rows["write"] + np.maximum(rows["entries"], 1) - 1
        chosen = (last > after) & (first <= upto)
        if chosen.all():
            yield columns
        elif chosen.any():
            yield select(columns, chosen)


def newest(parts: Iterable[Versions], after: WriteNumber, upto: WriteNumber) -> NewestVersions:
    """The newest version of every block among those written after write ``after`` and up to ``upto``."""
    gathering = _Gathering()
    for batch in _gathered(_chosen(parts, after, upto)):
        gathering.take(batch)
    return gathering.result()


def _chosen(parts: Iterable[Versions], after: WriteNumber, upto: WriteNumber) -> Iterator[Versions]:
    for v in parts:
        yield Versions(
            *_within(v.asof, after, upto, v.blocks, v.asof, v.words, v.digests),
            *_within(v.range_asof, after, upto, v.range_starts, v.range_ends, v.range_asof, v.range_words),
            *_within(
                v.fragment_asof, after, upto,
                v.fragment_blocks, v.fragment_asof, v.fragment_at, v.fragment_lengths,
                v.fragment_byte_addresses, v.fragment_words, v.fragment_digests,
            ),
        )  # fmt: skip


def _within(asof: U64, after: WriteNumber, upto: WriteNumber, *columns: U64) -> Iterable[U64]:
    """The entries of ``columns`` whose write is in ``(after, upto]``."""
    chosen = (asof > after) & (asof <= upto)
    return columns if chosen.all() else (column[chosen] for column in columns)


def _gathered(parts: Iterable[Versions]) -> Iterator[list[Versions]]:
    batch: list[Versions] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += len(part.blocks) + len(part.fragment_blocks)
        if size >= GATHER:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Gathering:
    """The newest versions so far, each with its write number, by which the newest is told."""

    def __init__(self) -> None:
        self._blocks, self._asof, self._locations, self._digests = NOTHING, NOTHING, NOTHING, NOTHING
        self._ranges: list[tuple[int, int, int, int]] = []  # start, end, write, location
        self._fragments: list[Fragment] = []

    def take(self, batch: list[Versions]) -> None:
        """Some more versions; what they supersede is dropped."""
        blocks = np.concatenate([self._blocks, *(v.blocks for v in batch)])
        asof = np.concatenate([self._asof, *(v.asof for v in batch)])
        locations = np.concatenate([self._locations, *(v.words for v in batch)])
        digests = np.concatenate([self._digests, *(v.digests for v in batch)])
        order = _by_block_and_age(blocks, asof)
        ordered = blocks[order]
        last = np.ones(len(order), bool)
        last[:-1] = ordered[1:] != ordered[:-1]
        chosen = order[last]
        self._blocks, self._asof = blocks[chosen], asof[chosen]
        self._locations, self._digests = locations[chosen], digests[chosen]
        for versions in batch:
            self._ranges += _ranges_of(versions)
            self._fragments += _fragments_of(versions)
        self._drop_superseded()

    def result(self) -> NewestVersions:
        """All that has been taken, as a delta map and fragments."""
        fragments = tuple(sorted(self._fragments, key=lambda fragment: fragment.asof))
        ordered = sorted(self._ranges, key=lambda fact: fact[2])
        zeroes = Ranges().with_ranges([(start, end, location) for start, end, _, location in ordered])
        delta = DeltaMap(self._blocks, self._locations, self._digests)
        if ordered:
            delta = delta.entries(self._range_writes(self._blocks) <= self._asof).with_zeroes(zeroes)
        return NewestVersions(delta, fragments)

    def _drop_superseded(self) -> None:
        """Fragments older than a whole version, or than a zero range over them, are of no more use."""
        if not self._fragments:
            return
        blocks = np.array([f.block for f in self._fragments], np.uint64)
        asof = np.array([f.asof for f in self._fragments], np.uint64)
        keep = (asof > self._whole_writes(blocks)).tolist()
        self._fragments = [f for f, kept in zip(self._fragments, keep, strict=True) if kept]

    def _whole_writes(self, blocks: U64) -> U64:
        """The write number of the newest whole version (or zero range) of each block, 0 = none."""
        found = self._range_writes(blocks)
        if len(self._blocks):
            at = np.minimum(np.searchsorted(self._blocks, blocks), len(self._blocks) - 1)
            hit = self._blocks[at] == blocks
            found[hit] = np.maximum(found[hit], self._asof[at[hit]])
        return found

    def _range_writes(self, blocks: U64) -> U64:
        """The write number of the newest zero range over each block, 0 = none."""
        found = np.zeros(len(blocks), np.uint64)
        ascending = ascends(blocks)
        for start, end, asof, _ in self._ranges:
            if ascending:
                covered = found[slice(*blocks.searchsorted(np.array([start, end], np.uint64)))]
                np.maximum(covered, np.uint64(asof), out=covered)
            else:
                inside = (blocks >= np.uint64(start)) & (blocks < np.uint64(end))
                found[inside] = np.maximum(found[inside], np.uint64(asof))
        return found


def _ranges_of(versions: Versions) -> Iterator[tuple[int, int, int, int]]:
    columns = (versions.range_starts, versions.range_ends, versions.range_asof, versions.range_words)
    return zip(*(column.tolist() for column in columns), strict=True)


def _fragments_of(versions: Versions) -> Iterator[Fragment]:
    columns = (
        versions.fragment_blocks, versions.fragment_asof, versions.fragment_at, versions.fragment_lengths,
        versions.fragment_byte_addresses, versions.fragment_words, versions.fragment_digests,
    )  # fmt: skip
    return (Fragment(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def _by_block_and_age(blocks: U64, asof: U64) -> npt.NDArray[np.int64]:
    """Their order by block, of one block by write, of one write as they stand."""
    if not (asof[1:] < asof[:-1]).any():
        return stable_order(blocks)
    by_age = np.argsort(asof, kind="stable")
    return by_age[stable_order(blocks[by_age])]
