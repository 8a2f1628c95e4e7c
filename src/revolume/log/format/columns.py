"""The columns of a segment: its transfers, entries and digests side by side, without the payload.

Scanning, folding, history and recovery ask "what changed, when, and where does it lie?" of thousands of
transfers at once. Reading the headers scattered over the log would cost a seek each, and decoding them one
by one would cost Python time each; as columns they are a few arrays. They are written behind the last
transfer as the segment's footer when it is sealed, and can always be rebuilt from the headers.

``versions`` unfolds them into what the maps want: whole-block versions, ranges of zeroes, fragments, each
with its write number ("as of"). Points carry partially modified blocks whole, as of the point's cut.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import DATA, PARTIAL, ZERO, pack_all
from revolume.blocks.extents import index_within
from revolume.blocks.geometry import BLOCK, fragments
from revolume.blocks.numbers import Address, WriteNumber
from revolume.log.format.transfer import KIND_SHIFT, LENGTH_MASK, EntryKind, Flag, Kind, Transfer

U64 = npt.NDArray[np.uint64]
NOTHING: U64 = np.zeros(0, np.uint64)

ROW = np.dtype(
    [
        ("position", "<u8"),
        ("write", "<u8"),
        ("time_ns", "<u8"),
        ("epoch", "<u8"),
        ("block", "<u4"),  # in the segment, where the transfer begins
        ("header_blocks", "<u4"),
        ("blocks", "<u4"),
        ("fragment_bytes", "<u4"),
        ("entries", "<u4"),
        ("digests", "<u4"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("lived_high", "<u2"),  # lived time of this node in ms, rounded up, 48 bits; 0 = not known
        ("lived_low", "<u4"),
    ]
)
ROW_STRUCT = struct.Struct("<QQQQIIIIIIBBHI")
LIVED_NS = 1_000_000
"""The unit of lived time in rows."""
RANGE_BLOCKS = 256
"""A zero or trim of so many whole blocks is one fact about a range; below, an entry per block."""

assert ROW.itemsize == ROW_STRUCT.size == 64


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of the transfers of one segment, in log order; immutable. ``rows``: one ``ROW`` for each transfer.
    ``offsets``, ``lengths`` (uint64): its entries, in bytes, with the entry's kind in a length's top byte.
    ``digests`` (uint64): of each whole block, then of each fragment. ``base``: the address of the segment's block
    0."""

    base: Address
    rows: npt.NDArray[np.void]
    offsets: U64
    lengths: U64
    digests: U64

    def versions(self) -> Versions:
        """All versions of blocks that these transfers made."""
        return _unfold(self)


@dataclass(frozen=True, slots=True)
class Versions:
    """What a run of transfers did to the volume: uint64 arrays, each in log order. A ``word`` is a location
    (``blocks/block_location.py``); ``asof`` is the number of the write, of what a point carries the point's cut.
    ``fragment_byte_addresses`` are address * 4096 + bytes; 0: the fragment is zeroes. Fragments of one write stand
    in the order of its blocks."""

    blocks: U64
    asof: U64
    words: U64
    digests: U64
    range_starts: U64
    range_ends: U64
    range_asof: U64
    range_words: U64
    fragment_blocks: U64
    fragment_asof: U64
    fragment_at: U64
    fragment_lengths: U64
    fragment_byte_addresses: U64
    fragment_words: U64
    fragment_digests: U64


class ColumnsBuilder:
    """Collects the columns of the open segment, transfer by transfer."""

    __slots__ = ("base", "digests", "lengths", "offsets", "rows")

    def __init__(self, base: Address) -> None:
        self.base = base
        self.rows = bytearray()
        self.offsets: array[int] = array("Q")
        self.lengths: array[int] = array("Q")
        self.digests: array[int] = array("Q")

    def add(self, row: tuple[int, ...], offsets: array[int], lengths: array[int], digests: array[int]) -> None:
        """``row`` in the order of ROW; ``lengths`` with the entry's kind in the top byte."""
        self.rows += ROW_STRUCT.pack(*row)
        self.offsets.extend(offsets)
        self.lengths.extend(lengths)
        self.digests.extend(digests)

    def add_transfer(self, transfer: Transfer, block: int, lived_ns: int) -> None:
        """Add a decoded transfer that begins at ``block`` of the segment. ``lived_ns``: the lived time in its node
        header."""
        row = (
            transfer.position, transfer.write, transfer.time_ns, transfer.epoch, block,
            transfer.header_blocks, transfer.blocks, transfer.fragment_bytes,
            len(transfer.offsets), len(transfer.digests), transfer.kind, transfer.flags, *lived_row(lived_ns),
        )  # fmt: skip
        self.rows += ROW_STRUCT.pack(*row)
        self.offsets.frombytes(transfer.offsets.tobytes())
        self.lengths.frombytes(transfer.lengths.tobytes())
        self.digests.frombytes(transfer.digests.tobytes())

    @property
    def size(self) -> int:
        """Bytes that these columns take in a footer."""
        return len(self.rows) + 8 * (len(self.offsets) + len(self.lengths) + len(self.digests))

    def pack(self) -> bytes:
        """The footer's columns: rows, offsets, lengths, digests."""
        return b"".join((self.rows, self.offsets.tobytes(), self.lengths.tobytes(), self.digests.tobytes()))

    def freeze(self) -> Columns:
        """A copy that later additions do not touch."""
        entries, digests = len(self.offsets), len(self.digests)
        return unpack(self.pack(), self.base, len(self.rows) // 64, entries, digests)


def unpack(packed: bytes, base: Address, rows: int, entries: int, digests: int) -> Columns:
    """Columns from the bytes of a footer with the given counts."""
    numbers = np.frombuffer(packed, "<u8", 2 * entries + digests, 64 * rows)
    return Columns(
        base,
        np.frombuffer(packed, ROW, rows),
        numbers[:entries],
        numbers[entries : 2 * entries],
        numbers[2 * entries :],
    )


def lived_row(lived_ns: int) -> tuple[int, int]:
    """The last fields of a row: lived time in ms, rounded up, its high and its low part."""
    lived_ms = -(-lived_ns // LIVED_NS)
    return lived_ms >> 32 & 0xFFFF, lived_ms & 0xFFFFFFFF


def lived_ms(rows: npt.NDArray[np.void]) -> U64:
    """Lived time of these transfers at this node, in ms; 0 = not known."""
    lived: U64 = rows["lived_high"].astype(np.uint64) << np.uint64(32) | rows["lived_low"]
    return lived


def end_address(columns: Columns) -> Address:
    """The address after the last of these transfers. There must be at least one."""
    last = columns.rows[-1]
    size = int(last["header_blocks"]) + int(last["blocks"]) - -int(last["fragment_bytes"]) // BLOCK
    return Address(columns.base + int(last["block"]) + size)


def select(columns: Columns, chosen: npt.NDArray[np.bool_]) -> Columns:
    """The columns of the transfers for which ``chosen`` (bool, one for each row) is true."""
    rows = columns.rows
    entries = np.repeat(chosen, rows["entries"])
    digests = np.repeat(chosen, rows["digests"])
    return Columns(
        columns.base, rows[chosen], columns.offsets[entries], columns.lengths[entries], columns.digests[digests]
    )


def moments(rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """A mask (bool, one for each row): transfers whose writes' numbers are moments of the volume."""
    whole: npt.NDArray[np.bool_] = (rows["kind"] == Kind.WRITES) & (rows["flags"] & Flag.UNDIVIDED == 0)
    return whole


def exclusive_cumsum(counts: U64) -> U64:
    """The sum of the counts before each, not including it."""
    before: U64 = np.cumsum(counts) - counts
    return before


@dataclass(frozen=True, slots=True)
class _Entries:
    """Entry columns joined with their transfer's row."""

    row: npt.NDArray[np.int64]
    kind: U64
    offset: U64
    end: U64
    asof: U64
    first: U64
    count: U64


def _join(columns: Columns) -> _Entries:
    rows = columns.rows
    row = np.repeat(np.arange(len(rows)), rows["entries"])
    kind = columns.lengths >> np.uint64(KIND_SHIFT)
    end = columns.offsets + (columns.lengths & np.uint64(LENGTH_MASK))
    within = index_within(rows["entries"].astype(np.uint64))
    within[((rows["kind"] == Kind.POINT) | (rows["kind"] == Kind.LOCAL_BLOCKS))[row]] = 0
    first = (columns.offsets + np.uint64(BLOCK - 1)) // np.uint64(BLOCK)
    last = end // np.uint64(BLOCK)
    count = np.where(last > first, last - first, np.uint64(0))
    count[kind == EntryKind.RESIZE] = 0
    return _Entries(row, kind, columns.offsets, end, rows["write"][row] + within, first, count)


def _unfold(columns: Columns) -> Versions:
    entries = _join(columns)
    blocks, asof, words, digests, at = _written(columns, entries)
    zero = (entries.kind == EntryKind.ZERO) | (entries.kind == EntryKind.TRIM)
    if not zero.any():
        return Versions(blocks, asof, words, digests, *(NOTHING,) * 4, *_fragments(columns, entries))
    zeroed = _zeroed(columns, entries, zero)
    merged = [np.concatenate(pair) for pair in zip((blocks, asof, words, digests, at), zeroed, strict=True)]
    order = np.argsort(merged.pop(), kind="stable")
    blocks, asof, words, digests = (column[order] for column in merged)
    return Versions(blocks, asof, words, digests, *_ranges(columns, entries, zero), *_fragments(columns, entries))


def _payload_base(columns: Columns) -> U64:
    rows = columns.rows
    base: U64 = np.uint64(columns.base) + rows["block"].astype(np.uint64) + rows["header_blocks"]
    return base


def _transfer_words(columns: Columns, kind: int) -> U64:
    return pack_all(kind, np.uint64(columns.base) + columns.rows["block"].astype(np.uint64))


def _written(columns: Columns, entries: _Entries) -> tuple[U64, U64, U64, U64, U64]:
    """Whole blocks written: block, as of, word, digest, and the entry's index for ordering."""
    chosen = np.flatnonzero((entries.kind == EntryKind.WRITE) & (entries.count > 0))
    counts = entries.count[chosen]
    repeats = counts.astype(np.int64)
    steps = index_within(counts)
    row = np.repeat(entries.row[chosen], repeats)
    whole = _index_in_transfer(columns, row)
    digest_start = exclusive_cumsum(columns.rows["digests"].astype(np.uint64))
    return (
        np.repeat(entries.first[chosen], repeats) + steps,
        np.repeat(entries.asof[chosen], repeats),
        pack_all(DATA, _payload_base(columns)[row] + whole),
        columns.digests[(digest_start[row] + whole).astype(np.int64)],
        np.repeat(chosen, repeats).astype(np.uint64),
    )


def _index_in_transfer(columns: Columns, row: npt.NDArray[np.int64]) -> U64:
    """For blocks in log order with their transfer's row: 0, 1, … within each transfer."""
    per_row = np.bincount(row, minlength=len(columns.rows)).astype(np.uint64)
    return index_within(per_row)


def _zeroed(columns: Columns, entries: _Entries, zero: npt.NDArray[np.bool_]) -> tuple[U64, U64, U64, U64, U64]:
    chosen = np.flatnonzero(zero & (entries.count > 0) & (entries.count < RANGE_BLOCKS))
    counts = entries.count[chosen]
    repeats = counts.astype(np.int64)
    total = int(counts.sum())
    return (
        np.repeat(entries.first[chosen], repeats) + index_within(counts),
        np.repeat(entries.asof[chosen], repeats),
        np.repeat(_transfer_words(columns, ZERO)[entries.row[chosen]], repeats),
        np.zeros(total, np.uint64),
        np.repeat(chosen, repeats).astype(np.uint64),
    )


def _ranges(columns: Columns, entries: _Entries, zero: npt.NDArray[np.bool_]) -> tuple[U64, U64, U64, U64]:
    chosen = np.flatnonzero(zero & (entries.count >= RANGE_BLOCKS))
    first = entries.first[chosen]
    return (
        first,
        first + entries.count[chosen],
        entries.asof[chosen],
        _transfer_words(columns, ZERO)[entries.row[chosen]],
    )


def _fragments(columns: Columns, entries: _Entries) -> tuple[U64, U64, U64, U64, U64, U64, U64]:
    mask = np.uint64(BLOCK - 1)
    ragged = ((entries.offset | entries.end) & mask) != 0
    chosen = np.flatnonzero(ragged & (entries.kind != EntryKind.RESIZE) & (entries.end > entries.offset))
    if not len(chosen):
        return (NOTHING,) * 7
    found: list[tuple[int, ...]] = []
    rows = columns.rows
    payload = ((_payload_base(columns) + rows["blocks"]) * np.uint64(BLOCK)).tolist()
    whole = exclusive_cumsum(rows["digests"].astype(np.uint64)) + rows["blocks"]
    digest_at = whole.astype(np.int64).tolist()
    words = _transfer_words(columns, PARTIAL).tolist()
    written = (entries.kind == EntryKind.WRITE)[chosen]
    of_entries = entries.row[chosen], written, entries.offset[chosen], entries.end[chosen], entries.asof[chosen]
    for row, is_write, offset, end, asof in zip(*(column.tolist() for column in of_entries), strict=True):
        for block, at, length in fragments(offset, end - offset):
            place = digest = 0
            if is_write:
                place, digest = payload[row], int(columns.digests[digest_at[row]])
                payload[row] += length
                digest_at[row] += 1
            found.append((block, asof, at, length, place, words[row], digest))
    table = np.array(found, np.uint64).reshape(len(found), 7)
    return tuple(table[:, i].copy() for i in range(7))  # type: ignore[return-value]


def resizes(columns: Columns) -> list[tuple[WriteNumber, int]]:
    """(write number, new size) of every resize, in order."""
    entries = _join(columns)
    chosen = np.flatnonzero(entries.kind == EntryKind.RESIZE)
    return list(zip(entries.asof[chosen].tolist(), entries.offset[chosen].tolist(), strict=True))
