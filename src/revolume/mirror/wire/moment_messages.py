"""Earlier pinned moments that travel before a base: of each, the blocks that the next newer one, or the base, does
not have as they were. No I/O. Since version 3.

MOMENT (source -> target)
     0  Q  number of its point     8 Q write     16 Q position     24 Q time     32 Q size of the volume then
    40  Q  root, low     48 Q high     56 16s chain checksum behind its position
    72  I  rows, at most 256     76 I 1: that was all of this moment
    80     rows x (Q block, Q digest), blocks ascending; a digest of 0: the block read as zeroes, and no bytes
           follow for it; checksum (``frames.py``), then 4096 bytes for each other row
MOMENT_AT (target -> source)
     0  Q  frames of MOMENT that have been stored in this session

The oldest moment comes first. A block that is lost, or damaged and nobody has it, travels as zeroes
(``block_messages.py``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.mirror.wire.block_messages import (
    ROW,
    ROWS_MAX,
    BlockRows,
    ascending,
    content_holds,
    pack_rows,
    unpack_rows,
)
from revolume.mirror.wire.frames import CHECK_SIZE, FRAME_SIZE, ProtocolError

MOMENT: Final = struct.Struct("<7Q16sII")
MOMENT_BODY_MAX: Final = MOMENT.size + ROWS_MAX * (ROW.itemsize + BLOCK) + CHECK_SIZE
MOMENT_FRAMES_AHEAD: Final = 16
"""MOMENT frames that may be under way without a MOMENT_AT."""

assert MOMENT.size == 80


@dataclass(frozen=True, slots=True)
class PinnedMoment:
    """A pinned moment of the source, before the point of the base."""

    point: int
    write: WriteNumber
    position: Position
    time_ns: int
    size: int
    root: tuple[int, int]
    chain: bytes


def pack_moment(moment: PinnedMoment, rows: BlockRows, last: bool) -> bytes:
    """The control part of MOMENT."""
    head = MOMENT.pack(
        moment.point, moment.write, moment.position, moment.time_ns, moment.size, *moment.root, moment.chain,
        len(rows.blocks), last,
    )  # fmt: skip
    return head + pack_rows(rows.blocks, rows.digests)


def unpack_moment(frame: memoryview) -> tuple[PinnedMoment, BlockRows, bool]:
    """The moment, blocks of it with their content, which has the digests that are stated, and whether that was the
    last of them."""
    if len(frame) < FRAME_SIZE + MOMENT.size:
        raise ProtocolError("A message is not what its type says.")
    point, write, position, time_ns, size, low, high, chain, count, last = MOMENT.unpack_from(frame, FRAME_SIZE)
    rows = unpack_rows(frame, MOMENT.size, count)
    filled = rows.digests[rows.digests != 0]
    if len(rows.payload) != len(filled) * BLOCK or last > 1 or not (count or last) or not ascending(rows.blocks):
        raise ProtocolError("Blocks of an earlier moment do not add up to their frame.")
    if not content_holds(rows.payload, filled, zeroes=True):
        raise ProtocolError("A block of an earlier moment is not what its digest says.")
    moment = PinnedMoment(point, write, position, time_ns, size, (low, high), chain)
    return moment, rows, bool(last)
