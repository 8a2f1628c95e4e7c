"""What the primary has, read live: the digests of some blocks now, their content checked, and their content.

Clients go on writing. What is said of a block is what it was at some instant during the scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, digest_array
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.errors import Damaged
from revolume.history.block_scan import BlockScan
from revolume.volume.livemap.live_source import LiveSource
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.primary import Volume

U64 = npt.NDArray[np.uint64]
NOTHING: Final = np.zeros(0, np.uint64)
STEP_BLOCKS: Final = 1 << 12
"""Looked at between two turns of the loop."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """Some blocks from ``first`` on: their ``digests`` (uint64), 0 for zeroes; the blocks that can't be read as
    they were written (``damaged``, ascending), and the bytes of content that were read."""

    first: int
    digests: U64
    damaged: U64
    read_bytes: int


class LiveScanner:
    """Of an open primary. ``quick``: what is stored of digests is believed, no content is read."""

    def __init__(self, volume: Volume, quick: bool) -> None:
        self._volume = volume
        self._quick = quick
        source = LiveSource(volume.live, volume.image, volume.partials)
        self._scan = BlockScan(volume.log.work, source, volume.reader)

    async def scan(self, first: int, count: int) -> Scanned:
        """``count`` blocks from ``first`` on."""
        digests, damaged, read = [NOTHING], [NOTHING], 0
        for at in range(first, first + count, STEP_BLOCKS):
            blocks = block_numbers(at, min(STEP_BLOCKS, first + count - at))
            found = await self._scan.digests(blocks)
            if not self._quick:
                bad, size = await self._scan.damaged(blocks, found)
                damaged.append(bad)
                read += size
            digests.append(found)
            await self._volume.context.host.clock.sleep(0)
        return Scanned(first, np.concatenate(digests), np.concatenate(damaged), read)


class LiveReader:
    """Reads blocks of an open primary as they are now."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        source = LiveSource(volume.live, volume.image, volume.partials)
        self._scan = BlockScan(volume.log.work, source, volume.reader)

    async def read(self, blocks: U64) -> tuple[U64, U64, bytes, U64]:
        """Of these blocks, ascending: those that could be read, their digests, the content of those whose digest
        is not 0, and those that could not be read as they were written."""
        content = bytearray(len(blocks) * BLOCK)
        view, bad = memoryview(content), np.zeros(len(blocks), bool)
        starts, counts, _ = contiguous(blocks)
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            bad[start : start + count] = await self._run(int(blocks[start]), view[start * BLOCK :], count)
        bad |= await self._scan.digests(blocks) == np.uint64(LOST_DIGEST)
        digests = digest_array(view, len(blocks))
        digests[digests == np.uint64(ZERO_DIGEST)] = 0
        filled = np.frombuffer(content, np.uint8).reshape(-1, BLOCK)[~bad & (digests != 0)]
        return blocks[~bad], digests[~bad], filled.tobytes(), blocks[bad]

    async def _run(self, first: int, view: memoryview, count: int) -> list[bool]:
        try:
            await self._volume.read(first * BLOCK, view[: count * BLOCK])
            return [False] * count
        except Damaged:
            if count == 1:
                return [True]
        return [bad for each in range(count) for bad in await self._run(first + each, view[each * BLOCK :], 1)]
