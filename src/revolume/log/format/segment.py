"""A segment: a fixed-size, allocated and mostly zero-written file of the log, and the footer that seals it.

    block 0 …            transfers, one behind the other
    …                    unused (zeroes, or what an earlier use left; never valid under this use number)
    last blocks - 1      footer columns (see ``columns.py``), ending at the last block
    last block           trailer

A file is recycled by giving it a new use number; nothing is erased. What an earlier use left never
verifies, since every transfer's node header names the use number. The trailer is an index only: without a
valid one the headers are scanned.

Trailer (little endian, at the start of the last block)
     0  8s  magic "RVFOOT01"
     8  Q   use number
    16  16s volume id
    32  I   rows      36 I entries     40 I digests    44 I block behind the last transfer
    48  16s chain checksum before the first transfer
    64  16s chain checksum of the last transfer
    80  Q   highest durable position stated by a node header in here
    88  Q   highest manifest edit stated by a node header in here
    96  Q   XXH3-64 of the columns, seeded by the volume
   104  Q   XXH3-64 of bytes 0..104, seeded by the volume
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import xxhash

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position
from revolume.host.disk import File
from revolume.log.format.columns import Columns, ColumnsBuilder, unpack
from revolume.log.format.transfer import volume_seed

TRAILER = struct.Struct("<8sQ16sIIII16s16sQQQQ")
TRAILER_MAGIC = b"RVFOOT01"
SEGMENT_SUFFIX = ".seg"

assert TRAILER.size == 112


@dataclass(slots=True)
class Segment:
    """One use of one segment file. ``index`` names the file, ``use`` never repeats. ``written``: its blocks have
    been written before, so that syncing small writes into it is cheap; else they are allocated only."""

    index: int
    use: int
    blocks: int
    file: File
    written: bool = True

    @property
    def base(self) -> Address:
        """Address of block 0."""
        return self.use * self.blocks  # type: ignore[return-value]  # every append asks


@dataclass(frozen=True, slots=True)
class Footer:
    """A sealed segment's columns and what the trailer states about them."""

    columns: Columns
    end_block: int
    chain_before: bytes
    chain_after: bytes
    durable: Position
    edit: int


def segment_name(index: int) -> str:
    """File name of segment file ``index``."""
    return f"{index:08d}{SEGMENT_SUFFIX}"


def footer_blocks(columns_size: int) -> int:
    """Blocks that a footer takes, trailer included. ``columns_size``: bytes of its columns."""
    return -(-columns_size // BLOCK) + 1


def write_footer(
    segment: Segment,
    volume: bytes,
    builder: ColumnsBuilder,
    end_block: int,
    chains: tuple[bytes, bytes],
    stated: tuple[Position, int],
) -> None:
    """Seal the segment. ``chains``: before the first and after the last transfer; ``stated``: the highest
    durable position and manifest edit that its node headers name."""
    columns = builder.pack()
    seed = volume_seed(volume)
    counts = (len(builder.rows) // 64, len(builder.offsets), len(builder.digests), end_block)
    checksum = xxhash.xxh3_64_intdigest(columns, seed)
    trailer = TRAILER.pack(TRAILER_MAGIC, segment.use, volume, *counts, *chains, *stated, checksum, 0)[:104]
    trailer += xxhash.xxh3_64_intdigest(trailer, seed).to_bytes(8, "little")
    padding = bytes(-len(columns) % BLOCK)
    first = segment.blocks - footer_blocks(len(columns))
    segment.file.pwritev([columns, padding, trailer, bytes(BLOCK - len(trailer))], first * BLOCK)


def _trailer(segment: Segment, volume: bytes) -> tuple[Any, ...] | None:
    """The fields of the trailer, of whatever use of the file; None if it is missing or damaged."""
    last = bytearray(TRAILER.size)
    if segment.file.preadv([last], (segment.blocks - 1) * BLOCK) != TRAILER.size:
        return None
    fields = TRAILER.unpack_from(last)
    if fields[0] != TRAILER_MAGIC or fields[2] != volume:
        return None
    return fields if xxhash.xxh3_64_intdigest(bytes(last[:104]), volume_seed(volume)) == fields[12] else None


def trailer_edit(segment: Segment, volume: bytes) -> int:
    """The highest manifest edit that the file's trailer states, of whatever use of the file; 0 if it has none."""
    fields = _trailer(segment, volume)
    return 0 if fields is None else int(fields[10])


def read_footer(segment: Segment, volume: bytes) -> Footer | None:
    """The footer if this use of the segment was sealed and the footer is whole, else None."""
    fields, seed = _trailer(segment, volume), volume_seed(volume)
    if fields is None or fields[1] != segment.use:
        return None
    rows, entries, digests, end_block = fields[3:7]
    size = 64 * rows + 16 * entries + 8 * digests
    packed = bytearray(size)
    offset = (segment.blocks - footer_blocks(size)) * BLOCK
    if offset < 0 or segment.file.preadv([packed], offset) != size:
        return None
    if xxhash.xxh3_64_intdigest(packed, seed) != fields[11]:
        return None
    columns = unpack(bytes(packed), segment.base, rows, entries, digests)
    return Footer(columns, end_block, fields[7], fields[8], fields[9], fields[10])
