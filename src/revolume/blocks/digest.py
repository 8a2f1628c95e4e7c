"""The digest of a block: XXH3-64 of its 4096 bytes.

0 is reserved to mean *zero block*: a map that holds 0 says that the block reads as zeroes without its data
being looked at. A real digest of 0 (one in 2^64) is therefore stored as 1. A block of zero bytes that was
written as data keeps its computed digest, ``ZERO_DIGEST``; whoever sums digests treats it and 0 alike.

``LOST_DIGEST`` is what a consistency point says of a block whose content nobody can tell any more: a part of
it was written over a version that can't be read. No bytes are taken for it, so every read of it is an error
(so would be a real digest of that value, one in 2^64).

The loop below is the fastest found: the slice objects are made once, so that a block costs one view and
one hash. Measured per block, 64 at a time: 0.115 µs; slicing with computed bounds 0.142, ``map`` over
``__getitem__`` 0.128, ``struct.iter_unpack`` (copies) 0.163.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from revolume.blocks.geometry import BLOCK

Buffer = bytes | bytearray | memoryview

ZERO_DIGEST = xxh3_64_intdigest(bytes(BLOCK))
LOST_DIGEST = (1 << 64) - 1

_PIECE_BLOCKS = 1024
_SLICES = tuple(slice(at * BLOCK, (at + 1) * BLOCK) for at in range(_PIECE_BLOCKS))
_FIRST = {count: _SLICES[:count] for count in range(65)}

assert ZERO_DIGEST > 1


def block_digests(view: memoryview, count: int) -> list[int]:
    """The digest of each of the first ``count`` blocks of ``view`` (single bytes)."""
    assert len(view) >= count * BLOCK
    if count > 64:
        return _many(view, count)
    found = [xxh3_64_intdigest(view[piece]) for piece in _FIRST[count]]
    if 0 in found:
        return [digest or 1 for digest in found]
    return found


def digest_array(view: memoryview, count: int) -> npt.NDArray[np.uint64]:
    """The digest of each of the first ``count`` blocks of ``view`` (single bytes), as uint64."""
    return np.array(block_digests(view, count), np.uint64)


def fragment_digest(view: Buffer) -> int:
    """The digest of any bytes, by the same rule."""
    return xxh3_64_intdigest(view) or 1


def _many(view: memoryview, count: int) -> list[int]:
    found: list[int] = []
    for first in range(0, count, _PIECE_BLOCKS):
        piece = view[first * BLOCK : min(count, first + _PIECE_BLOCKS) * BLOCK]
        slices = _SLICES[: len(piece) // BLOCK]
        found += [xxh3_64_intdigest(piece[part]) for part in slices]
    if 0 in found:
        return [digest or 1 for digest in found]
    return found
