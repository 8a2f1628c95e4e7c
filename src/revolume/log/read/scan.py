"""Reading the log: the transfer at a place, a segment's transfers along their chain, any transfer anywhere.

Nothing here decides: what a gap in the chain means is for ``tail.py`` to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, block_digests, fragment_digest
from revolume.blocks.geometry import fragments
from revolume.log.segment import Segment
from revolume.log.transfer import (
    BLOCK,
    KIND_SHIFT,
    LENGTH_MASK,
    LOCAL_MAGIC,
    LOCAL_SIZE,
    EntryKind,
    Flag,
    Kind,
    Local,
    Transfer,
    local_holds,
    unpack_local,
    unpack_proper,
    volume_seed,
)

WINDOW = 1 << 20
IN_BLOCK = BLOCK - 1
WRITE = int(EntryKind.WRITE)


@dataclass(frozen=True, slots=True)
class Found:
    """A valid transfer and where it begins."""

    segment: Segment
    block: int
    local: Local
    transfer: Transfer

    @property
    def address(self) -> int:
        """Address of its first block."""
        return self.segment.base + self.block

    @property
    def payload_block(self) -> int:
        """Block of the segment where the payload begins."""
        return self.block + self.transfer.header_blocks

    @property
    def end_block(self) -> int:
        """Block of the segment behind it."""
        return self.block + self.transfer.total_blocks


class SegmentReader:
    """Headers of one segment through a sliding window of so many bytes, so that small transfers share a read."""

    def __init__(self, segment: Segment, volume: bytes, window: int = WINDOW) -> None:
        self.segment = segment
        self._volume = volume
        self._seed = volume_seed(volume)
        self._size = window
        self._start = 0
        self._window = memoryview(b"")

    def _bytes(self, offset: int, size: int) -> memoryview:
        """``size`` bytes at ``offset``, fewer at the end of the file."""
        inside = offset - self._start
        if inside < 0 or inside + size > len(self._window):
            buffer = bytearray(max(size, self._size))
            got = self.segment.file.preadv([buffer], offset)
            self._start, self._window, inside = offset, memoryview(buffer)[:got], 0
        return self._window[inside : inside + size]

    def first_of_any_use(self) -> Found | None:
        """The valid transfer at the file's beginning, whichever use of it that was."""
        first = self._bytes(0, LOCAL_SIZE)
        local = unpack_local(first) if len(first) == LOCAL_SIZE else None
        if local is None:
            return None
        segment = replace(self.segment, use=local.use)
        return SegmentReader(segment, self._volume, self._size).at(0)

    def at(self, block: int) -> Found | None:
        """The valid transfer that begins at ``block``, else None."""
        if block >= self.segment.blocks:
            return None
        first = self._bytes(block * BLOCK, LOCAL_SIZE)
        if len(first) < LOCAL_SIZE:
            return None
        local = unpack_local(first)
        if local is None or local.use != self.segment.use or local.block != block:
            return None
        if block * BLOCK + LOCAL_SIZE + local.proper_size > self.segment.blocks * BLOCK:
            return None
        whole = self._bytes(block * BLOCK, LOCAL_SIZE + local.proper_size)
        transfer = unpack_proper(whole[LOCAL_SIZE:])
        if transfer is None or transfer.volume != self._volume:
            return None
        if not local_holds(whole[:LOCAL_SIZE], transfer.chain, self._seed):
            return None
        if block + transfer.total_blocks > self.segment.blocks:
            return None
        return Found(self.segment, block, local, transfer)

    def proper(self, found: Found) -> bytes:
        """The proper part of a transfer that was found here."""
        return bytes(self._bytes(found.block * BLOCK + LOCAL_SIZE, found.transfer.proper_size))

    def chain_from(self, block: int, previous: bytes, end_block: int | None = None) -> Iterator[Found]:
        """Valid transfers from ``block`` on whose chain continues ``previous``, and local records between them."""
        while end_block is None or block < end_block:
            found = self.at(block)
            if found is None or found.transfer.previous != previous:
                return
            yield found
            previous = chain_behind(found.transfer)
            block = found.end_block

    def anywhere(self) -> Iterator[Found]:
        """Every valid transfer at any block, chained or not: for judging a gap, and for salvage."""
        block = 0
        for candidate in self._magic_blocks():
            if candidate < block:
                continue
            found = self.at(candidate)
            if found is not None:
                yield found
                block = found.end_block

    def _magic_blocks(self) -> list[int]:
        magic = np.frombuffer(LOCAL_MAGIC, "<u8")[0]
        blocks: list[int] = []
        step = WINDOW // BLOCK
        for first in range(0, self.segment.blocks, step):
            view = self._bytes(first * BLOCK, min(step, self.segment.blocks - first) * BLOCK)
            whole = len(view) // BLOCK
            words = np.frombuffer(view[: whole * BLOCK], "<u8")[:: BLOCK // 8]
            blocks.extend((np.flatnonzero(words == magic) + first).tolist())
        return blocks


def chain_behind(transfer: Transfer) -> bytes:
    """The chain checksum that the next transfer continues."""
    return transfer.previous if transfer.kind == Kind.FIXUP else transfer.chain


def payload_holds(found: Found) -> bool:
    """Whether the payload on disk has the digests that the header states. (A lost block's payload is zeroes.)"""
    payload = bytearray(found.transfer.payload_bytes)
    if found.segment.file.preadv([payload], found.payload_block * BLOCK) != len(payload):
        return False
    return payload_agrees(found.transfer, memoryview(payload))


def payload_agrees(transfer: Transfer, view: memoryview) -> bool:
    """Whether these bytes are the payload whose digests the header states."""
    if len(transfer.digests) < transfer.blocks:
        return False
    whole = block_digests(view[: transfer.blocks * BLOCK], transfer.blocks)
    stated = transfer.digests.tolist()
    if whole != [ZERO_DIGEST if one == LOST_DIGEST else one for one in stated[: transfer.blocks]]:
        return False
    return _fragment_digests(transfer, view[transfer.blocks * BLOCK :]) == list(stated[transfer.blocks :])


def _fragment_digests(transfer: Transfer, view: memoryview) -> list[int]:
    digests, at = [], 0
    for offset, word in zip(transfer.offsets.tolist(), transfer.lengths.tolist(), strict=True):
        if not (offset | word) & IN_BLOCK or word >> KIND_SHIFT != WRITE:
            continue  # nothing but whole blocks
        for _, _, length in fragments(offset, word & LENGTH_MASK):
            digests.append(fragment_digest(view[at : at + length]))
            at += length
    return digests


def complete_prefix(found: Sequence[Found]) -> list[Found]:
    """Without a write at the end of which only the first parts arrived, and without such a point."""
    whole = list(found)
    while whole and whole[-1].transfer.flags & Flag.CONTINUED:
        whole.pop()
    return whole
