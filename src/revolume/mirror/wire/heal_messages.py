"""Blocks that one end asks the other for because its own are damaged. Both ends ask, and both answer. No I/O.

HEAL_ASK (both)
     0  Q  number of the question     8 I rows, 1 to 256     12 I what is asked for, 0: blocks
    16     rows x (Q block, Q digest, Q position, I index, I zero): a block, the digest that its content has, and
           the reference by which it travelled, position of the transfer and number of the whole block in it;
           position 0: not known, any version of the block that has the digest will do
or   8  I  1     12 I what is asked for, 1: a slice of a transfer
    16  Q  position of the transfer     24 Q offset in bytes     32 I bytes, 1 to 1 MiB     36 I zero: of its
           shared header and, right behind it, its fragments
HEALED (both)
     0  Q  number of the question     8 I rows, at most 256     12 I 0: blocks
    16     rows x (Q block, Q digest): those that were found, in the order of the question
           checksum (``frames.py``), then 4096 bytes for each row, which have its digest
or   8  I  bytes, at most as many as were asked for     12 I 1: a slice of a transfer
    16     checksum, then those bytes: fewer where the transfer ends, none where the other end does not have it.
           Whoever asked knows what they must be
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from revolume.blocks.digest import block_digests
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.mirror.wire.block_messages import ROW, ROWS_MAX, pack_rows, unpack_rows
from revolume.mirror.wire.frames import CHECK_SIZE, FRAME_SIZE, ProtocolError, body_of
from revolume.volume.heal.siblings import WANTED_MAX, Contents, Wanted
from revolume.volume.heal.transfer_slice import SLICE_MAX, WantedSlice

HEAL_HEAD: Final = struct.Struct("<QII")
WANTED: Final = np.dtype(
    [("block", "<u8"), ("digest", "<u8"), ("position", "<u8"), ("index", "<u4"), ("zero", "<u4")]
)
SLICE: Final = struct.Struct("<QQII")
BLOCKS_WANTED: Final = 0
SLICE_WANTED: Final = 1
HEAL_ASK_BODY_MAX: Final = HEAL_HEAD.size + WANTED_MAX * WANTED.itemsize + CHECK_SIZE
HEALED_BODY_MAX: Final = HEAL_HEAD.size + ROWS_MAX * (ROW.itemsize + BLOCK) + CHECK_SIZE

assert HEAL_HEAD.size == 16
assert WANTED.itemsize == 32
assert WANTED_MAX == ROWS_MAX
assert SLICE.size == 24
assert SLICE_MAX <= ROWS_MAX * BLOCK


def pack_heal_ask(number: int, wanted: Sequence[Wanted]) -> bytes:
    """The body of HEAL_ASK: 1 to 256 blocks."""
    rows = np.zeros(len(wanted), WANTED)
    for row, each in zip(rows, wanted, strict=True):
        row["block"], row["digest"] = each.block, each.digest
        row["position"], row["index"] = each.position, each.index
    return HEAL_HEAD.pack(number, len(wanted), BLOCKS_WANTED) + rows.tobytes()


def pack_slice_ask(number: int, wanted: WantedSlice) -> bytes:
    """The body of HEAL_ASK: a slice of a transfer."""
    return HEAL_HEAD.pack(number, 1, SLICE_WANTED) + SLICE.pack(wanted.position, wanted.offset, wanted.size, 0)


def unpack_heal_ask(body: memoryview) -> tuple[int, list[Wanted] | WantedSlice]:
    """The question's number, and what is asked for."""
    if len(body) < HEAL_HEAD.size:
        raise ProtocolError("A message is not what its type says.")
    number, count, what = HEAL_HEAD.unpack_from(body)
    if what == SLICE_WANTED:
        return number, _unpack_slice(body, count)
    if not 1 <= count <= WANTED_MAX or what or len(body) != HEAL_HEAD.size + WANTED.itemsize * count:
        raise ProtocolError("Blocks asked for do not add up to their frame.")
    rows = np.frombuffer(body, WANTED, count, HEAL_HEAD.size)
    if rows["zero"].any():
        raise ProtocolError("Blocks asked for do not add up to their frame.")
    columns = (rows[name].tolist() for name in ("block", "digest", "position", "index"))
    return number, [Wanted(b, d, Position(p), i) for b, d, p, i in zip(*columns, strict=True)]


def _unpack_slice(body: memoryview, count: int) -> WantedSlice:
    if count != 1 or len(body) != HEAL_HEAD.size + SLICE.size:
        raise ProtocolError("Slices asked for do not add up to their frame.")
    position, offset, size, zero = SLICE.unpack_from(body, HEAL_HEAD.size)
    if not 1 <= size <= SLICE_MAX or zero:
        raise ProtocolError("Slices asked for do not add up to their frame.")
    return WantedSlice(Position(position), offset, size)


def pack_healed(number: int, found: Contents) -> bytes:
    """The control part of HEALED; the contents follow in the same order."""
    keys = np.array(list(found), np.uint64).reshape(-1, 2)
    return HEAL_HEAD.pack(number, len(found), BLOCKS_WANTED) + pack_rows(keys[:, 0], keys[:, 1])


def pack_healed_slice(number: int, content: bytes) -> bytes:
    """The control part of HEALED; the content follows."""
    return HEAL_HEAD.pack(number, len(content), SLICE_WANTED)


def number_of(frame: memoryview) -> int:
    """The number of the question that a HEALED frame answers."""
    if len(frame) < FRAME_SIZE + HEAL_HEAD.size:
        raise ProtocolError("A message is not what its type says.")
    number, _, _ = HEAL_HEAD.unpack_from(frame, FRAME_SIZE)
    return int(number)


def unpack_healed(frame: memoryview, asked: Mapping[tuple[int, int], Wanted]) -> Contents:
    """What came of the blocks that were ``asked`` for, by block and digest, each with its digest."""
    _, count, what = HEAL_HEAD.unpack_from(frame, FRAME_SIZE)
    if what != BLOCKS_WANTED:
        raise ProtocolError("An answer to another question than was asked.")
    rows = unpack_rows(frame, HEAL_HEAD.size, count)
    keys = list(zip(rows.blocks.tolist(), rows.digests.tolist(), strict=True))
    if len(rows.payload) != count * BLOCK or len(set(keys)) != count:
        raise ProtocolError("Healed blocks do not add up to their frame.")
    if not asked.keys() >= set(keys):
        raise ProtocolError("Blocks to heal with that nobody asked for.")
    if block_digests(rows.payload, count) != rows.digests.tolist():
        raise ProtocolError("A block to heal with is not what its digest says.")
    contents = [bytes(rows.payload[at * BLOCK : (at + 1) * BLOCK]) for at in range(count)]
    return dict(zip(keys, contents, strict=True))


def unpack_healed_slice(frame: memoryview, asked: WantedSlice) -> bytes:
    """What came of the slice that was ``asked`` for. Nothing here says whether it is right."""
    _, count, what = HEAL_HEAD.unpack_from(frame, FRAME_SIZE)
    if what != SLICE_WANTED:
        raise ProtocolError("An answer to another question than was asked.")
    body_of(frame, HEAL_HEAD.size)
    content = frame[FRAME_SIZE + HEAL_HEAD.size + CHECK_SIZE :]
    if len(content) != count or count > asked.size:
        raise ProtocolError("Slices to heal with do not add up to their frame.")
    return bytes(content)
