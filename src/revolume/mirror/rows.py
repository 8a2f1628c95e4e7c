"""Blocks that travel one by one: the base, and blocks asked for whole. No I/O.

BASE (source -> target)
     0  I  rows, at most 256     4 I zero     8 Q the base is complete below this block once these are stored
    16     rows x (Q block, Q digest), blocks ascending
           checksum (``frames.py``), then rows x 4096 bytes
NEED (target -> source)
     0  Q  number of the point     8 I blocks, 1 to 256     12 I zero     16 blocks x Q
WHOLE (source -> target); flag 1: that point is not retained any more, and there are no rows
     0  Q  number of the point     8 I rows     12 I zero
    16     rows x (Q block, Q digest); a digest of 0: the block reads as zeroes, and no bytes follow for it
           checksum, then 4096 bytes for each other row

A block's content must have its row's digest. The one exception is a block that the source calls lost
(``blocks/digest.py``): its digest is taken for no bytes, zeroes travel in their place.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, digest_array
from revolume.log.transfer import BLOCK
from revolume.mirror.frames import CHECK_SIZE, FRAME_SIZE, Broken, body_of

U64 = npt.NDArray[np.uint64]

ROWS_MAX: Final = 256
ROW: Final = np.dtype([("block", "<u8"), ("digest", "<u8")])
BASE: Final = struct.Struct("<IIQ")
NEED: Final = struct.Struct("<QII")
GONE: Final = 1
BASE_BODY_MAX: Final = BASE.size + ROWS_MAX * (ROW.itemsize + BLOCK) + CHECK_SIZE
WHOLE_BODY_MAX: Final = NEED.size + ROWS_MAX * (ROW.itemsize + BLOCK) + CHECK_SIZE
NEED_BODY_MAX: Final = NEED.size + ROWS_MAX * 8 + CHECK_SIZE

assert ROW.itemsize == 16
assert BASE.size == NEED.size == 16


@dataclass(frozen=True, slots=True)
class Rows:
    """Blocks, their digests, and the content of those that have any."""

    blocks: U64
    digests: U64
    payload: memoryview


def _packed(blocks: U64, digests: U64) -> bytes:
    rows = np.empty(len(blocks), ROW)
    rows["block"], rows["digest"] = blocks, digests
    return rows.tobytes()


def pack_base(blocks: U64, digests: U64, next_block: int) -> bytes:
    """The control part of BASE."""
    return BASE.pack(len(blocks), 0, next_block) + _packed(blocks, digests)


def unpack_base(frame: memoryview) -> tuple[Rows, int]:
    """The rows of a whole frame, and the block below which they complete the base."""
    count, _, next_block = _head(BASE, frame)
    rows = _rows(frame, BASE.size, count)
    if len(rows.payload) != count * BLOCK:
        raise Broken("Blocks of the base do not add up to their frame.")
    if count and (not _ascending(rows.blocks) or int(rows.blocks[-1]) >= next_block):
        raise Broken("Blocks of the base are out of order.")
    return rows, next_block


def pack_need(point: int, blocks: Sequence[int]) -> bytes:
    """NEED."""
    return NEED.pack(point, len(blocks), 0) + np.array(blocks, "<u8").tobytes()


def unpack_need(body: memoryview) -> tuple[int, list[int]]:
    """The point, and the blocks that are asked for."""
    if len(body) < NEED.size:
        raise Broken("A message is not what its type says.")
    point, count, _ = NEED.unpack_from(body)
    if not 1 <= count <= ROWS_MAX or len(body) != NEED.size + 8 * count:
        raise Broken("Blocks asked for do not add up to their frame.")
    blocks = np.frombuffer(body, "<u8", count, NEED.size)
    if not _ascending(blocks):
        raise Broken("Blocks asked for are out of order.")
    return point, blocks.tolist()


def pack_whole(point: int, blocks: U64, digests: U64) -> bytes:
    """The control part of WHOLE."""
    return NEED.pack(point, len(blocks), 0) + _packed(blocks, digests)


def unpack_whole(frame: memoryview) -> tuple[int, Rows]:
    """The point, and the blocks with their content, which has the digests that are stated."""
    point, count, _ = _head(NEED, frame)
    rows = _rows(frame, NEED.size, count)
    filled = rows.digests[rows.digests != 0]
    if len(rows.payload) != len(filled) * BLOCK or not _ascending(rows.blocks):
        raise Broken("Whole blocks do not add up to their frame.")
    if not content_holds(rows.payload, filled):
        raise Broken("A whole block is not what its digest says.")
    return point, rows


def content_holds(payload: memoryview, digests: U64) -> bool:
    """Whether each block has its digest, or is one that is called lost."""
    wrong = digest_array(payload, len(digests)) != digests
    return not bool((wrong & (digests != np.uint64(LOST_DIGEST))).any())


def _head(fixed: struct.Struct, frame: memoryview) -> tuple[int, int, int]:
    if len(frame) < FRAME_SIZE + fixed.size:
        raise Broken("A message is not what its type says.")
    a, b, c = fixed.unpack_from(frame, FRAME_SIZE)
    return a, b, c


def _rows(frame: memoryview, fixed: int, count: int) -> Rows:
    if count > ROWS_MAX:
        raise Broken(f"{count} blocks in one frame; {ROWS_MAX} are allowed.")
    size = fixed + count * ROW.itemsize
    body = body_of(frame, size)
    rows = np.frombuffer(body, ROW, count, fixed)
    payload = frame[FRAME_SIZE + size + CHECK_SIZE :]
    return Rows(rows["block"].astype(np.uint64), rows["digest"].astype(np.uint64), payload)


def _ascending(blocks: U64) -> bool:
    return bool((blocks[1:] > blocks[:-1]).all())
