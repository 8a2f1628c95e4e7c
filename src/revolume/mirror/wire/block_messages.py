"""Blocks that travel one by one: the base, and blocks asked for whole. No I/O.

BASE (source -> target)
     0  I  rows, at most 256     4 I zero     8 Q the base is complete below this block once these are stored
    16     rows x (Q block, Q digest), blocks ascending; in a difference a digest of 0: the block reads as zeroes,
           and no bytes follow for it
           checksum (``frames.py``), then 4096 bytes for each other row
REQUEST_BLOCKS (target -> source)
     0  Q  number of the point     8 I blocks, 1 to 256     12 I zero     16 blocks x Q
BLOCKS (source -> target); flag 1: that point is not retained any more, and there are no rows
     0  Q  number of the point     8 I rows     12 I zero
    16     rows x (Q block, Q digest); a digest of 0: the block reads as zeroes, and no bytes follow for it
           checksum, then 4096 bytes for each other row

A block's content must have its row's digest. The one exception is a block that the source calls lost
(``blocks/digest.py``): its digest is taken for no bytes, zeroes travel in their place. In BASE and MOMENT, since
version 7, zeroes travel as well in place of a block that is damaged at the source and that nobody can heal, with
the digest that it should have: the copy has a block there that is an error to read, and can be healed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, digest_array
from revolume.blocks.geometry import BLOCK
from revolume.mirror.wire.frames import CHECK_SIZE, FRAME_SIZE, ProtocolError, body_of

U64 = npt.NDArray[np.uint64]

ROWS_MAX: Final = 256
ROW: Final = np.dtype([("block", "<u8"), ("digest", "<u8")])
BASE: Final = struct.Struct("<IIQ")
BLOCK_REQUEST: Final = struct.Struct("<QII")
BASE_FRAMES_AHEAD: Final = 16
"""BASE frames that may be under way without a BASE_AT."""
GONE: Final = 1
"""Flag of BLOCKS: the point is not retained any more."""
BASE_BODY_MAX: Final = BASE.size + ROWS_MAX * (ROW.itemsize + BLOCK) + CHECK_SIZE
BLOCKS_BODY_MAX: Final = BLOCK_REQUEST.size + ROWS_MAX * (ROW.itemsize + BLOCK) + CHECK_SIZE
BLOCK_REQUEST_BODY_MAX: Final = BLOCK_REQUEST.size + ROWS_MAX * 8 + CHECK_SIZE

assert ROW.itemsize == 16
assert BASE.size == BLOCK_REQUEST.size == 16


@dataclass(frozen=True, slots=True)
class BlockRows:
    """Blocks, their digests, and the content of those that have any."""

    blocks: U64
    digests: U64
    payload: memoryview


def pack_rows(blocks: U64, digests: U64) -> bytes:
    """Block numbers and digests, as they stand behind the fixed part of a frame."""
    rows = np.empty(len(blocks), ROW)
    rows["block"], rows["digest"] = blocks, digests
    return rows.tobytes()


def pack_base(blocks: U64, digests: U64, next_block: int) -> bytes:
    """The control part of BASE."""
    return BASE.pack(len(blocks), 0, next_block) + pack_rows(blocks, digests)


def unpack_base(frame: memoryview, zeroes: bool = False) -> tuple[BlockRows, int]:
    """The rows of a whole frame, and the block below which they complete the base, or the difference, in which
    there may be ``zeroes``."""
    count, _, next_block = _head(BASE, frame)
    rows = unpack_rows(frame, BASE.size, count)
    filled = int((rows.digests != 0).sum()) if zeroes else count
    if len(rows.payload) != filled * BLOCK:
        raise ProtocolError("Blocks of the base do not add up to their frame.")
    if count and (not ascending(rows.blocks) or int(rows.blocks[-1]) >= next_block):
        raise ProtocolError("Blocks of the base are out of order.")
    return rows, next_block


def pack_block_request(point: int, blocks: Sequence[int]) -> bytes:
    """The body of REQUEST_BLOCKS: ``blocks`` ascending, 1 to 256 of them."""
    return BLOCK_REQUEST.pack(point, len(blocks), 0) + np.array(blocks, "<u8").tobytes()


def unpack_block_request(body: memoryview) -> tuple[int, list[int]]:
    """The point, and the blocks that are asked for."""
    if len(body) < BLOCK_REQUEST.size:
        raise ProtocolError("A message is not what its type says.")
    point, count, _ = BLOCK_REQUEST.unpack_from(body)
    if not 1 <= count <= ROWS_MAX or len(body) != BLOCK_REQUEST.size + 8 * count:
        raise ProtocolError("Blocks asked for do not add up to their frame.")
    blocks = np.frombuffer(body, "<u8", count, BLOCK_REQUEST.size)
    if not ascending(blocks):
        raise ProtocolError("Blocks asked for are out of order.")
    return point, blocks.tolist()


def pack_blocks(point: int, blocks: U64, digests: U64) -> bytes:
    """The control part of BLOCKS."""
    return BLOCK_REQUEST.pack(point, len(blocks), 0) + pack_rows(blocks, digests)


def unpack_blocks(frame: memoryview) -> tuple[int, BlockRows]:
    """The point, and the blocks with their content, which has the digests that are stated."""
    point, count, _ = _head(BLOCK_REQUEST, frame)
    rows = unpack_rows(frame, BLOCK_REQUEST.size, count)
    filled = rows.digests[rows.digests != 0]
    if len(rows.payload) != len(filled) * BLOCK or not ascending(rows.blocks):
        raise ProtocolError("Whole blocks do not add up to their frame.")
    if not content_holds(rows.payload, filled):
        raise ProtocolError("A whole block is not what its digest says.")
    return point, rows


def content_holds(payload: memoryview, digests: U64, zeroes: bool = False) -> bool:
    """Whether each block has its digest, or is one that is called lost; or is ``zeroes``, if they may stand for
    one that is damaged."""
    found = digest_array(payload, len(digests))
    wrong = (found != digests) & (digests != np.uint64(LOST_DIGEST))
    if zeroes:
        wrong &= found != np.uint64(ZERO_DIGEST)
    return not bool(wrong.any())


def _head(fixed: struct.Struct, frame: memoryview) -> tuple[int, int, int]:
    if len(frame) < FRAME_SIZE + fixed.size:
        raise ProtocolError("A message is not what its type says.")
    a, b, c = fixed.unpack_from(frame, FRAME_SIZE)
    return a, b, c


def unpack_rows(frame: memoryview, fixed: int, count: int) -> BlockRows:
    """``count`` rows behind the ``fixed`` bytes of a frame's body, and the payload behind their checksum."""
    if count > ROWS_MAX:
        raise ProtocolError(f"{count} blocks in one frame; {ROWS_MAX} are allowed.")
    size = fixed + count * ROW.itemsize
    body = body_of(frame, size)
    rows = np.frombuffer(body, ROW, count, fixed)
    payload = frame[FRAME_SIZE + size + CHECK_SIZE :]
    return BlockRows(rows["block"].astype(np.uint64), rows["digest"].astype(np.uint64), payload)


def ascending(blocks: U64) -> bool:
    """Whether block numbers ascend strictly."""
    return bool((blocks[1:] > blocks[:-1]).all())
