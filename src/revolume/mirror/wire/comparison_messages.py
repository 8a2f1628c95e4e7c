"""The comparison of a copy with its source, and the blocks that put the copy right: since version 7. No I/O.

COMPARE_OPEN (source -> target): hold this point open, to be compared
     0  Q  number of the point     8 Q position     16 16s chain checksum behind it
    32  I  1: what is stored of digests is believed, no content is read     36 I zero
COMPARE_OPENED (target -> source)
     0  Q  number of the point     8 I 0: it is open     1: it is not, and why, as UTF-8 at 16     12 I zero
           also in place of COMPARED, where it can't be held open any more
COMPARE_ASK (source -> target)
     0  Q  number of the question     8 Q first block     16 I blocks     20 I 0: sums by region     1: digests
COMPARED (target -> source)
     0  Q  number of the question     8 Q bytes of content that were read, for a question about sums
    16  I  rows     20 I damaged blocks
    24     rows x (Q low, Q high): the volume root's own sum over each region's blocks, or rows x Q digest, 0 for
           a block that reads as zeroes
           damaged x Q block: what is stored of these is not what their digests say, ascending
FIXUP (source -> target): blocks of a batch, which are kept in memory until FIXUP_AT
     0  Q  number of the batch     8 I rows, 1 to 256     12 I zero
    16     rows x (Q block, Q digest), blocks ascending; a digest of 0: the block reads as zeroes, and no bytes
           follow for it; checksum (``frames.py``), then 4096 bytes for each other row
FIXUP_AT (source -> target): the batch belongs to this point, whose record follows
     0  Q  number of the batch     8 Q number of the point     16 Q position     24 16s chain checksum behind it
    40  I  blocks that lose     44 I zero     48 Q each: they differed too, and clients have changed them since,
           whether they came with the batch or not; ascending
FIXED (target -> source): the point is agreed, and the batch is part of it, durably
     0  Q  number of the batch     8 Q number of the point     16 Q blocks of the batch that were stored,
           the first of those that did not lose; the others had no room
COMPARE_END (source -> target): nothing more is asked of that point
     0  Q  number of the point

A region is 1024 blocks, the last one of a volume less; a question about sums begins and ends with one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.numbers import Position
from revolume.blocks.root import Root
from revolume.mirror.wire.block_messages import (
    ROW,
    ROWS_MAX,
    BlockRows,
    ascending,
    content_holds,
    pack_rows,
    unpack_rows,
)
from revolume.mirror.wire.codec import Pin, exact, strict
from revolume.mirror.wire.frames import CHECK_SIZE, FRAME_SIZE, ProtocolError

U64 = npt.NDArray[np.uint64]

REGION_BLOCKS: Final = 1024
SUMS_BLOCKS_MAX: Final = 64 * REGION_BLOCKS
"""Blocks in one question about sums."""
DIGESTS_BLOCKS_MAX: Final = 4 * REGION_BLOCKS
BATCH_BLOCKS_MAX: Final = 4096
"""Blocks of a batch: what a target keeps in memory."""
WHY_BYTES_MAX: Final = 1024
BLOCKS_END: Final = 1 << 51
"""No volume has a block of this number."""

OPEN: Final = struct.Struct("<QQ16sII")
OPENED: Final = struct.Struct("<QII")
ASK: Final = struct.Struct("<QQII")
COMPARED: Final = struct.Struct("<QQII")
SUM_ROW: Final = np.dtype([("low", "<u8"), ("high", "<u8")])
FIXUP: Final = struct.Struct("<QII")
FIXUP_AT: Final = struct.Struct("<QQQ16sII")
FIXED: Final = struct.Struct("<QQQ")
END: Final = struct.Struct("<Q")

OPEN_BODY_MAX: Final = OPEN.size + CHECK_SIZE
OPENED_BODY_MAX: Final = OPENED.size + WHY_BYTES_MAX + CHECK_SIZE
ASK_BODY_MAX: Final = ASK.size + CHECK_SIZE
COMPARED_BODY_MAX: Final = (
    COMPARED.size
    + DIGESTS_BLOCKS_MAX * 8
    + SUMS_BLOCKS_MAX // REGION_BLOCKS * 16
    + SUMS_BLOCKS_MAX * 8
    + CHECK_SIZE
)
FIXUP_BODY_MAX: Final = FIXUP.size + ROWS_MAX * (ROW.itemsize + 4096) + CHECK_SIZE
FIXUP_AT_BODY_MAX: Final = FIXUP_AT.size + BATCH_BLOCKS_MAX * 8 + CHECK_SIZE
FIXED_BODY_MAX: Final = FIXED.size + CHECK_SIZE
END_BODY_MAX: Final = END.size + CHECK_SIZE

assert OPEN.size == 40
assert OPENED.size == 16
assert ASK.size == COMPARED.size == 24
assert FIXUP_AT.size == 48


@dataclass(frozen=True, slots=True)
class CompareOpen:
    """COMPARE_OPEN."""

    point: Pin
    quick: bool


@dataclass(frozen=True, slots=True)
class CompareOpened:
    """COMPARE_OPENED. ``why_not``: "" if the point is open."""

    point: int
    why_not: str


@dataclass(frozen=True, slots=True)
class CompareAsk:
    """COMPARE_ASK: sums by region, or digests block by block, of ``blocks`` from ``first`` on."""

    question: int
    first: int
    blocks: int
    digests: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """COMPARED. Of ``sums`` and ``digests`` (uint64, one for each block) one is empty. ``damaged``: block numbers,
    ascending."""

    question: int
    read_bytes: int
    sums: tuple[Root, ...]
    digests: U64
    damaged: U64


@dataclass(frozen=True, slots=True)
class FixupAt:
    """FIXUP_AT. ``losers``: blocks that are right by what clients wrote, ascending: those of them that came with
    the batch are not taken."""

    batch: int
    point: Pin
    losers: U64


@dataclass(frozen=True, slots=True)
class Fixed:
    """FIXED."""

    batch: int
    point: int
    stored: int


def pack_compare_open(message: CompareOpen) -> bytes:
    """The body of COMPARE_OPEN."""
    pin = message.point
    return OPEN.pack(pin.number, pin.position, pin.chain, message.quick, 0)


@strict
def unpack_compare_open(body: memoryview) -> CompareOpen:
    """COMPARE_OPEN."""
    exact(body, OPEN.size)
    number, position, chain, quick, _ = OPEN.unpack(body)
    if quick > 1:
        raise ValueError(f"{quick} is no way to compare")
    return CompareOpen(Pin(number, Position(position), chain), bool(quick))


def pack_compare_opened(message: CompareOpened) -> bytes:
    """The body of COMPARE_OPENED."""
    why = message.why_not.encode()[:WHY_BYTES_MAX]
    return OPENED.pack(message.point, bool(why), 0) + why


@strict
def unpack_compare_opened(body: memoryview) -> CompareOpened:
    """COMPARE_OPENED."""
    point, refused, _ = OPENED.unpack_from(body)
    why = bytes(body[OPENED.size :]).decode(errors="replace")
    if refused > 1 or len(body) > OPENED.size + WHY_BYTES_MAX or bool(why) != bool(refused):
        raise ValueError("it does not say whether the point is open")
    return CompareOpened(point, why)


def pack_compare_ask(message: CompareAsk) -> bytes:
    """The body of COMPARE_ASK."""
    return ASK.pack(message.question, message.first, message.blocks, message.digests)


@strict
def unpack_compare_ask(body: memoryview) -> CompareAsk:
    """COMPARE_ASK."""
    exact(body, ASK.size)
    question, first, blocks, kind = ASK.unpack(body)
    most = (SUMS_BLOCKS_MAX, DIGESTS_BLOCKS_MAX)[kind] if kind <= 1 else 0
    if not 1 <= blocks <= most or first + blocks > BLOCKS_END or (kind == 0 and first % REGION_BLOCKS):
        raise ValueError(f"no question is about {blocks} blocks from {first} on")
    return CompareAsk(question, first, blocks, kind == 1)


def pack_compared(message: Compared) -> bytes:
    """The body of COMPARED."""
    rows: npt.NDArray[np.void] | U64 = message.digests.astype("<u8")
    if message.sums:
        rows = np.array(list(message.sums), SUM_ROW)
    damaged = message.damaged.astype("<u8")
    head = COMPARED.pack(message.question, message.read_bytes, len(rows), len(damaged))
    return head + rows.tobytes() + damaged.tobytes()


def unpack_compared(body: memoryview, asked: CompareAsk) -> Compared:
    """COMPARED, which has to answer ``asked``: as many rows as there are, of blocks that were asked for."""
    if len(body) < COMPARED.size:
        raise ProtocolError("A message is not what its type says.")
    question, read_bytes, rows, damaged = COMPARED.unpack_from(body)
    expected = asked.blocks if asked.digests else -(-asked.blocks // REGION_BLOCKS)
    size = rows * (8 if asked.digests else SUM_ROW.itemsize)
    if question != asked.question or rows != expected or len(body) != COMPARED.size + size + damaged * 8:
        raise ProtocolError("An answer about other blocks than those asked for.")
    blocks = np.frombuffer(body, "<u8", damaged, COMPARED.size + size).astype(np.uint64)
    if damaged and (not ascending(blocks) or blocks[0] < asked.first or blocks[-1] >= asked.first + asked.blocks):
        raise ProtocolError("Damaged blocks that were not asked for.")
    if asked.digests:
        digests = np.frombuffer(body, "<u8", rows, COMPARED.size).astype(np.uint64)
        return Compared(question, read_bytes, (), digests, blocks)
    sums = tuple((int(low), int(high)) for low, high in np.frombuffer(body, SUM_ROW, rows, COMPARED.size).tolist())
    return Compared(question, read_bytes, sums, np.zeros(0, np.uint64), blocks)


def pack_fixup(batch: int, blocks: U64, digests: U64) -> bytes:
    """The control part of FIXUP."""
    return FIXUP.pack(batch, len(blocks), 0) + pack_rows(blocks, digests)


def unpack_fixup(frame: memoryview) -> tuple[int, BlockRows]:
    """The batch, and blocks of it with their content, which has the digests that are stated."""
    if len(frame) < FRAME_SIZE + FIXUP.size:
        raise ProtocolError("A message is not what its type says.")
    batch, count, _ = FIXUP.unpack_from(frame, FRAME_SIZE)
    rows = unpack_rows(frame, FIXUP.size, count)
    filled = rows.digests[rows.digests != 0]
    if not count or len(rows.payload) != len(filled) * 4096 or not ascending(rows.blocks):
        raise ProtocolError("Blocks that put the copy right do not add up to their frame.")
    if int(rows.blocks[-1]) >= BLOCKS_END or not content_holds(rows.payload, filled):
        raise ProtocolError("A block that puts the copy right is not what its digest says.")
    return batch, rows


def pack_fixup_at(message: FixupAt) -> bytes:
    """The body of FIXUP_AT."""
    pin = message.point
    head = FIXUP_AT.pack(message.batch, pin.number, pin.position, pin.chain, len(message.losers), 0)
    return head + message.losers.astype("<u8").tobytes()


@strict
def unpack_fixup_at(body: memoryview) -> FixupAt:
    """FIXUP_AT."""
    batch, number, position, chain, count, _ = FIXUP_AT.unpack_from(body)
    exact(body, FIXUP_AT.size + 8 * count)
    losers = np.frombuffer(body, "<u8", count, FIXUP_AT.size).astype(np.uint64)
    if count > BATCH_BLOCKS_MAX or not ascending(losers):
        raise ValueError("the blocks that lose are in no order")
    return FixupAt(batch, Pin(number, Position(position), chain), losers)


def pack_fixed(message: Fixed) -> bytes:
    """The body of FIXED."""
    return FIXED.pack(message.batch, message.point, message.stored)


@strict
def unpack_fixed(body: memoryview) -> Fixed:
    """FIXED."""
    exact(body, FIXED.size)
    return Fixed(*FIXED.unpack(body))


def pack_compare_end(point: int) -> bytes:
    """The body of COMPARE_END."""
    return END.pack(point)


@strict
def unpack_compare_end(body: memoryview) -> int:
    """COMPARE_END: the number of the point."""
    exact(body, END.size)
    (point,) = END.unpack(body)
    return int(point)
