"""From versions to a map: which version of each block is the newest as of a write.

The base of every derived map: the live map's base, a moment's point-in-time map, what a fold writes into the
image. Order is by write number, not by place: a consistency point carries blocks *as of its cut*, and lies
in the log behind writes that are newer.

Streams: segments are taken one after the other; what has been superseded is dropped as it goes, so memory
is bound by the blocks that changed and not by the length of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from revolume.blocks.ranges import Ranges
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.log.columns import Columns, ColumnsBuilder, Versions, end_address
from revolume.log.scan import SegmentReader
from revolume.log.segment import Segment, read_footer, segment_name
from revolume.log.transfer import Kind

U64 = npt.NDArray[np.uint64]
NOTHING = np.zeros(0, np.uint64)
GATHER = 1 << 18


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
class Stretch:
    """The part of the log that a job is about: every transfer behind position ``after`` of which something
    lies below address ``end``. ``segments``, oldest use first, are those in which they lie. ``agreed``: at a
    mirror, the points whose records say what changed (``delta_maps.py``)."""

    segments: tuple[SegmentSpec, ...]
    after: int
    end: int
    agreed: Span | None = None


@dataclass(frozen=True, slots=True)
class Fragment:
    """Bytes [at, at + length) of a block, written by write ``asof``; ``place`` is address · 4096 + bytes in
    the log, 0 = zeroes."""

    block: int
    asof: int
    at: int
    length: int
    place: int
    word: int
    digest: int


@dataclass(slots=True)
class Newest:
    """The newest version of every block changed. Arrays sorted by block; ``fragments`` in write order, only
    those newer than their block's newest whole version."""

    blocks: U64
    asof: U64
    words: U64
    digests: U64
    ranges: list[tuple[int, int, int, int]] = field(default_factory=list)  # start, end, asof, word
    fragments: list[Fragment] = field(default_factory=list)
    write: int = 0

    def zero_ranges(self) -> Ranges:
        """The zero ranges as a set, newest on top."""
        ordered = sorted(self.ranges, key=lambda fact: fact[2])
        return Ranges().with_ranges([(start, end, word) for start, end, _, word in ordered])


def load_stretch(directory: Directory, stretch: Stretch, volume: bytes) -> Iterator[Columns]:
    """The stretch's columns, segment by segment. Damaged: a transfer is missing. A map that left one out would
    show older blocks as if they were the newest."""
    return (columns for _, columns in load_pieces(directory, stretch, volume))


def load_pieces(directory: Directory, stretch: Stretch, volume: bytes) -> Iterator[tuple[Segment, Columns]]:
    """The same with the segments, each open until the next is asked for."""
    last, reached = stretch.after, 0
    for spec in stretch.segments:
        file = directory.open(segment_name(spec.index), write=False)
        try:
            segment = Segment(spec.index, spec.use, spec.blocks, file)
            columns = segment_columns(segment, volume, spec.end)
            if not len(columns.rows):
                continue
            positions = columns.rows["position"][columns.rows["kind"] != Kind.FIXUP]
            if len(positions):
                if int(positions[0]) > last + 1 or (np.diff(positions) != 1).any():
                    raise _transfer_missing(f"behind position {last}")
                last = max(last, int(positions[-1]))
            reached = end_address(columns)
            yield segment, columns
        finally:
            file.close()
    if reached < stretch.end:
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
            builder.add_transfer(found.transfer, found.block, found.local.lived_ns)
    return builder.freeze()


def newest(parts: Iterable[Versions], after: int, upto: int) -> Newest:
    """The newest version of every block among those written after write ``after`` and up to ``upto``."""
    result = Newest(NOTHING, NOTHING, NOTHING, NOTHING)
    for batch in _gathered(_chosen(parts, after, upto)):
        _take(result, batch)
    result.fragments.sort(key=lambda f: f.asof)
    _drop_superseded(result)
    return result


def _chosen(parts: Iterable[Versions], after: int, upto: int) -> Iterator[Versions]:
    for v in parts:
        whole = (v.asof > after) & (v.asof <= upto)
        ranged = (v.range_asof > after) & (v.range_asof <= upto)
        ragged = (v.fragment_asof > after) & (v.fragment_asof <= upto)
        yield Versions(
            v.blocks[whole], v.asof[whole], v.words[whole], v.digests[whole],
            v.range_starts[ranged], v.range_ends[ranged], v.range_asof[ranged], v.range_words[ranged],
            v.fragment_blocks[ragged], v.fragment_asof[ragged], v.fragment_at[ragged],
            v.fragment_lengths[ragged], v.fragment_byte_addresses[ragged], v.fragment_words[ragged],
            v.fragment_digests[ragged],
        )  # fmt: skip


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


def _take(result: Newest, batch: list[Versions]) -> None:
    blocks = np.concatenate([result.blocks, *(v.blocks for v in batch)])
    asof = np.concatenate([result.asof, *(v.asof for v in batch)])
    words = np.concatenate([result.words, *(v.words for v in batch)])
    digests = np.concatenate([result.digests, *(v.digests for v in batch)])
    order = _by_block_and_age(blocks, asof)
    ordered = blocks[order]
    last = np.ones(len(order), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    chosen = order[last]
    result.blocks, result.asof = blocks[chosen], asof[chosen]
    result.words, result.digests = words[chosen], digests[chosen]
    for v in batch:
        result.ranges += zip(
            v.range_starts.tolist(), v.range_ends.tolist(), v.range_asof.tolist(), v.range_words.tolist(),
            strict=True,
        )  # fmt: skip
        result.fragments += [
            Fragment(*row)
            for row in zip(
                v.fragment_blocks.tolist(), v.fragment_asof.tolist(), v.fragment_at.tolist(),
                v.fragment_lengths.tolist(), v.fragment_byte_addresses.tolist(), v.fragment_words.tolist(),
                v.fragment_digests.tolist(), strict=True,
            )
        ]  # fmt: skip
    _drop_superseded(result)


def _by_block_and_age(blocks: U64, asof: U64) -> npt.NDArray[np.int64]:
    """Their order by block, of one block by write, of one write as they stand. One sort of single numbers (block,
    place) is several times as fast as a stable sort by two keys."""
    by_age = None
    if (asof[1:] < asof[:-1]).any():
        by_age = np.argsort(asof, kind="stable")
        blocks = blocks[by_age]
    bits = max(1, (len(blocks) - 1).bit_length())
    if len(blocks) and int(blocks.max()) >> (64 - bits):
        order = np.argsort(blocks, kind="stable")
    else:
        keys = blocks << np.uint64(bits) | np.arange(len(blocks), dtype=np.uint64)
        keys.sort()
        order = (keys & np.uint64((1 << bits) - 1)).astype(np.int64)
    return order if by_age is None else by_age[order]


def _drop_superseded(result: Newest) -> None:
    """Fragments older than a whole version, or than a zero range over them, are of no more use."""
    if not result.fragments:
        return
    blocks = np.array([f.block for f in result.fragments], np.uint64)
    asof = np.array([f.asof for f in result.fragments], np.uint64)
    whole = asof_of(result, blocks)
    keep = (asof > whole).tolist()
    result.fragments = [f for f, kept in zip(result.fragments, keep, strict=True) if kept]


def asof_of(result: Newest, blocks: U64) -> U64:
    """The write number of the newest whole version (or zero range) of each block, 0 = none."""
    found = np.zeros(len(blocks), np.uint64)
    if len(result.blocks):
        at = np.minimum(np.searchsorted(result.blocks, blocks), len(result.blocks) - 1)
        hit = result.blocks[at] == blocks
        found[hit] = result.asof[at[hit]]
    for start, end, asof, _ in result.ranges:
        inside = (blocks >= np.uint64(start)) & (blocks < np.uint64(end))
        found[inside] = np.maximum(found[inside], np.uint64(asof))
    return found


def under_ranges(result: Newest) -> Newest:
    """The same without blocks that a newer zero range covers."""
    if not result.ranges:
        return result
    covered = np.zeros(len(result.blocks), np.uint64)
    for start, end, asof, _ in result.ranges:
        low, high = np.searchsorted(result.blocks, [start, end])
        covered[low:high] = np.maximum(covered[low:high], np.uint64(asof))
    keep = covered <= result.asof
    result.blocks, result.asof = result.blocks[keep], result.asof[keep]
    result.words, result.digests = result.words[keep], result.digests[keep]
    return result
