"""Sectors that say what they are: a lost, stale, torn or misplaced write shows in the bytes themselves.

512 bytes, 64-bit numbers: magic, the sector's own address, the operation that wrote it, and a pattern made from
both to the end. An operation's number is never used twice, so whoever reads a sector knows which write he sees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SECTOR = 512
LANES = SECTOR // 8
MAGIC = 0x5EC70A11D0C0FFEE
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_PATTERN = np.arange(3, 2 * LANES - 3, 2, dtype=np.uint64)
Words = NDArray[np.uint64]


def made(first: int, count: int, number: int) -> bytes:
    """The content of consecutive sectors, written by one operation."""
    return _made(first, np.full(count, number, np.uint64)).tobytes()


def _made(first: int, numbers: Words) -> Words:
    words = np.empty((len(numbers), LANES), np.uint64)
    addresses = np.arange(first, first + len(numbers), dtype=np.uint64)
    words[:, 0] = MAGIC
    words[:, 1] = addresses
    words[:, 2] = numbers
    words[:, 3:] = ((numbers * _GOLDEN) ^ (addresses + np.uint64(1)))[:, None] * _PATTERN
    return words


def numbers_of(first: int, data: bytes | bytearray) -> tuple[list[int], list[int]]:
    """The operation that wrote each sector (0: it reads as zeroes), and the sectors that are nobody's."""
    words = np.frombuffer(data, np.uint64).reshape(-1, LANES)
    zero = ~words.any(axis=1)
    numbers = np.where(zero, np.uint64(0), words[:, 2])
    sound = zero | (words == _made(first, numbers)).all(axis=1)
    return numbers.tolist(), (first + np.flatnonzero(~sound)).tolist()
