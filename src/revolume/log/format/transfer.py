"""A transfer: the unit of group commit, of checksumming, of sending and of reference.

On disk a transfer begins at a block boundary of a segment and never crosses the segment's end:

    block 0      node header, 64 bytes: this node's own, has its own checksum, is never sent
    byte 64      shared header: fixed fields, entry columns, digests, body; what the chain checksum covers
    padding      zeroes to the next block boundary; left out on the link
    payload      whole blocks in entry order, block-aligned; then fragments, packed, padded to a block

Why two parts: every node stores the same transfers at places of its own. What differs between nodes
(the place, how far that node was durable) must be protected too, but may not enter the chain checksum,
which has to be equal everywhere. The payload is covered by its digests, and the digests by the chain.

A transfer is valid where both checksums hold, volume and use number are the expected ones, the stated
place is the place where it was found, and the previous chain checksum is the one of the transfer before.
That tells a torn, a stale (recycled segment), a misdirected and a flipped record apart from a good one.

Node header (little endian, 64 bytes)
     0  8s  magic "RVLOCAL1"
     8  Q   use number of the segment
    16  I   block in the segment where this transfer begins
    20  I   bytes of the shared header
    24  Q   durable position of this node when it was written
    32  Q   number of the last manifest edit of this node
    40  Q   write number of the horizon of this node
    48  Q   lived time of this node when it was written, ns; 0: not known (written by an older version)
    56  Q   XXH3-64 of bytes 0..56 and the shared header's chain checksum, seeded by the volume

Shared header (136 bytes fixed)
     0  4s  magic "RVTR"
     4  H   format version, 1
     6  B   kind
     7  B   flags
     8  I   bytes of the shared header, columns and body included
    12  I   whole blocks in the payload
    16  I   fragment bytes in the payload
    20  I   entries
    24  I   digests: one for each whole block, then one for each fragment
    28  I   bytes of the body
    32  16s volume id
    48  16s reign id of the epoch
    64  Q   epoch
    72  Q   position
    80  Q   write number of the first entry; of kinds without writes: the newest write before it,
            of points: the write number of the cut
    88  Q   wall time, ns since 1970, never less than that of the transfer before, unless that is a clock step
    96  8x  zero
   104  16s chain checksum of the transfer before
   120  16s chain checksum: XXH3-128 of bytes 0..120 and of everything behind byte 136
   136      entries x Q offset in bytes; entries x Q length in bytes, the entry's kind in the top byte;
            digests x Q; body
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.errors import Damaged

U64 = npt.NDArray[np.uint64]

NODE_HEADER = struct.Struct("<8sQIIQQQQ")
NODE_HEADER_SIZE = 64
NODE_HEADER_MAGIC = b"RVLOCAL1"
SHARED_HEADER = struct.Struct("<4sHBBIIIIII16s16sQQQQ8x16s16s")
SHARED_HEADER_SIZE = 136
SHARED_HEADER_MAGIC = b"RVTR"
FORMAT = 1
CHAIN_OFFSET = 120
KIND_SHIFT = 56
LENGTH_MASK = (1 << KIND_SHIFT) - 1
EMPTY_CHAIN = bytes(16)
HEADER_MAX = 64 << 20

assert NODE_HEADER.size == NODE_HEADER_SIZE - 8
assert SHARED_HEADER.size == SHARED_HEADER_SIZE


class Kind(IntEnum):
    """What a transfer carries. LOCAL_BLOCKS is a local record: blocks that one node was sent whole, as of a point.
    It stands outside the chain (its position and previous chain checksum are those of the transfer before it, and
    the next transfer goes on as if it were not there) and is never sent. Its body is the point's number (Q)."""

    WRITES = 1
    POINT = 2
    RESTORE = 3
    FACT = 4
    LOCAL_BLOCKS = 5


_KINDS = frozenset(Kind)


class Flag(IntFlag):
    """CONTINUED: the last write goes on in the next transfer. SEALS: the last transfer of a point. UNDIVIDED: its
    writes are part of one change of many places, which the first transfer without this flag completes: none of
    their numbers is a moment of the volume. (An older release does not know it, and opens those too.)"""

    NONE = 0
    CONTINUED = 1
    SEALS = 2
    UNDIVIDED = 4


class EntryKind(IntEnum):
    """What an entry does to the bytes [offset, offset + length); RESIZE makes offset the size."""

    WRITE = 1
    ZERO = 2
    TRIM = 3
    RESIZE = 4


@dataclass(frozen=True, slots=True)
class NodeHeader:
    """The node header: where and when this node wrote the transfer."""

    use: int
    block: int
    shared_header_size: int
    durable: Position
    edit: int
    horizon: WriteNumber
    lived_ns: int = 0


@dataclass(slots=True)
class Transfer:
    """A decoded shared header: what every node of a lineage agrees on. Never changed after it is made; not frozen,
    because making a frozen one costs five microseconds and they are made by the hundred thousand."""

    kind: Kind
    flags: Flag
    blocks: int
    fragment_bytes: int
    volume: bytes
    reign: bytes
    epoch: int
    position: Position
    write: WriteNumber
    time_ns: int
    previous: bytes
    chain: bytes
    offsets: U64
    lengths: U64
    digests: U64
    body: bytes
    shared_header_size: int

    @property
    def header_blocks(self) -> int:
        """Blocks taken by node header and shared header."""
        return header_blocks(self.shared_header_size)

    @property
    def payload_bytes(self) -> int:
        """Bytes of the payload, padding left out."""
        return self.blocks * BLOCK + self.fragment_bytes

    @property
    def total_blocks(self) -> int:
        """Blocks taken by the whole transfer on disk."""
        return self.header_blocks + self.blocks + -(-self.fragment_bytes // BLOCK)


def header_blocks(shared_header_size: int) -> int:
    """Blocks that both headers take. ``shared_header_size``: bytes of the shared header."""
    return -(-(NODE_HEADER_SIZE + shared_header_size) // BLOCK)


def volume_seed(volume: bytes) -> int:
    """The seed that ties checksums to one volume: a foreign record never verifies."""
    return int.from_bytes(volume[:8], "little")


def pack_shared_header(
    kind: int,
    flags: int,
    blocks: int,
    fragment_bytes: int,
    identity: tuple[bytes, bytes, int],
    position: Position,
    write: WriteNumber,
    time_ns: int,
    previous: bytes,
    columns: bytes,
    counts: tuple[int, int, int],
) -> tuple[bytes, bytes]:
    """The shared header and its chain checksum.

    ``columns`` is offsets, lengths, digests and body, packed; ``counts`` their numbers: entries,
    digests, bytes of the body. ``identity`` is (volume id, reign id, epoch).
    """
    volume, reign, epoch = identity
    size = SHARED_HEADER_SIZE + len(columns)
    fixed = SHARED_HEADER.pack(
        SHARED_HEADER_MAGIC, FORMAT, kind, flags, size, blocks, fragment_bytes, *counts,
        volume, reign, epoch, position, write, time_ns, previous, EMPTY_CHAIN,
    )  # fmt: skip
    chain = xxhash.xxh3_128_digest(fixed[:CHAIN_OFFSET] + columns)
    return b"".join((fixed[:CHAIN_OFFSET], chain, columns)), chain


def pack_node_header(
    seed: int,
    use: int,
    block: int,
    shared_header_size: int,
    stated: tuple[Position, int, WriteNumber, int],
    chain: bytes,
) -> bytes:
    """The node header, 64 bytes. ``stated``: durable position, manifest edit, horizon, lived time in ns."""
    fields = NODE_HEADER.pack(NODE_HEADER_MAGIC, use, block, shared_header_size, *stated)
    return fields + xxhash.xxh3_64_intdigest(fields + chain, seed).to_bytes(8, "little")


def unpack_node_header(view: memoryview) -> NodeHeader | None:
    """The node header if these 64 bytes look like one, else None. Its checksum covers the chain checksum as well:
    verify it with ``node_header_holds`` once the shared header is known."""
    magic, use, block, shared_header_size, durable, edit, horizon, lived_ns = NODE_HEADER.unpack_from(view)
    if magic != NODE_HEADER_MAGIC or not SHARED_HEADER_SIZE <= shared_header_size <= HEADER_MAX:
        return None
    return NodeHeader(use, block, shared_header_size, durable, edit, horizon, lived_ns)


def node_header_holds(view: memoryview, chain: bytes, seed: int) -> bool:
    """Whether the node header's checksum agrees with its bytes and with the chain checksum of its transfer."""
    stated = int.from_bytes(view[56:64], "little")
    return xxhash.xxh3_64_intdigest(bytes(view[:56]) + chain, seed) == stated


def unpack_shared_header(view: memoryview) -> Transfer | None:
    """The shared header if its checksum and its counts hold, else None. The columns refer to ``view``'s memory.
    Damaged (``newer-format``): it was written in a format or with a kind that this version does not know."""
    if len(view) < SHARED_HEADER_SIZE:
        return None
    fields = SHARED_HEADER.unpack_from(view)
    if fields[0] != SHARED_HEADER_MAGIC or not SHARED_HEADER_SIZE <= fields[4] <= len(view):
        return None
    if (
        xxhash.xxh3_128_digest(bytes(view[:CHAIN_OFFSET]) + bytes(view[SHARED_HEADER_SIZE : fields[4]]))
        != fields[17]
    ):
        return None
    if fields[1] != FORMAT:
        raise _newer(f"The log was written in format {fields[1]}; this version reads format {FORMAT}.")
    if fields[2] not in _KINDS:
        raise _newer(f"The log holds a transfer of kind {fields[2]}, which this version does not know.")
    return _decode(fields, view)


def _newer(cause: str) -> Damaged:
    return Damaged("newer-format", cause, "Open it with the version that wrote it, or a newer one.")


def _decode(fields: tuple[Any, ...], view: memoryview) -> Transfer | None:
    size, blocks, fragment_bytes, entries, digests, body = fields[4:10]
    if SHARED_HEADER_SIZE + 16 * entries + 8 * digests + body != size:
        return None
    columns = np.frombuffer(view, "<u8", 2 * entries + digests, SHARED_HEADER_SIZE)
    return Transfer(
        Kind(fields[2]),
        Flag(fields[3]),
        blocks,
        fragment_bytes,
        fields[10],
        fields[11],
        fields[12],
        fields[13],
        fields[14],
        fields[15],
        fields[16],
        fields[17],
        columns[:entries],
        columns[entries : 2 * entries],
        columns[2 * entries :],
        bytes(view[size - body : size]),
        size,
    )
