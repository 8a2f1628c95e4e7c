"""Reading from a disk that refuses some of it: one bad sector costs its block and no more."""

from __future__ import annotations

import errno
from typing import cast

import numpy as np

from revolume.blocks.digest import block_digests
from revolume.blocks.geometry import BLOCK
from revolume.host.disk import File
from revolume.offline.walk.tolerant_read import read, runs


class Bad:
    """A file whose block n is full of n + 1, and of which some blocks can't be read."""

    def __init__(self, blocks: int, refused: set[int]) -> None:
        self._data = b"".join(bytes([block + 1]) * BLOCK for block in range(blocks))
        self._refused = refused

    def preadv(self, buffers: list[memoryview], offset: int) -> int:
        (buffer,) = buffers
        if self._refused & set(range(offset // BLOCK, -(-(offset + len(buffer)) // BLOCK))):
            raise OSError(errno.EIO, "bad sector")
        found = self._data[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        return len(found)


def bad(blocks: int, *refused: int) -> File:
    return cast(File, Bad(blocks, set(refused)))


def digests_of(*blocks: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    data = b"".join(bytes([block + 1]) * BLOCK for block in blocks)
    return np.array(block_digests(memoryview(data), len(blocks)), np.uint64)


def test_a_refused_block_is_zeroes_and_is_named() -> None:
    refused: list[int] = []
    data = read(bad(4, 2), BLOCK, 3 * BLOCK, refused)
    assert bytes(data) == bytes([2]) * BLOCK + bytes(BLOCK) + bytes([4]) * BLOCK
    assert refused == [1]


def test_behind_the_end_are_zeroes() -> None:
    assert bytes(read(bad(1), 0, 2 * BLOCK)) == bytes([1]) * BLOCK + bytes(BLOCK)


def test_neighbours_are_one_run_and_wrong_blocks_are_told() -> None:
    blocks = np.array([0, 1, 2, 5], np.uint64)
    stated = digests_of(0, 1, 2, 5)
    stated[1] = 77
    found = list(runs(bad(8, 2), blocks, stated))
    told = [(run.first, run.count, run.wrong, run.refused) for run in found]
    assert told == [(0, 3, [1, 2], [2]), (5, 1, [], [])]
