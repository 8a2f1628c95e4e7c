"""Reading the log: the transfer at a place, a segment's transfers along their chain, any transfer anywhere.

Nothing here decides: what a gap in the chain means is for ``recovery.py`` to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, block_digests, fragment_digest
from revolume.blocks.geometry import BLOCK, fragments
from revolume.blocks.numbers import Address
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import (
    KIND_SHIFT,
    LENGTH_MASK,
    NODE_HEADER_MAGIC,
    NODE_HEADER_SIZE,
    EntryKind,
    Flag,
    Kind,
    NodeHeader,
    Transfer,
    node_header_holds,
    unpack_node_header,
    unpack_shared_header,
    volume_seed,
)

WINDOW = 1 << 20
IN_BLOCK = BLOCK - 1
WRITE = int(EntryKind.WRITE)


@dataclass(frozen=True, slots=True)
class FoundTransfer:
    """A valid transfer, with its node header, and the block of the segment where it begins."""

    segment: Segment
    block: int
    node_header: NodeHeader
    transfer: Transfer

    @property
    def address(self) -> Address:
        """Address of its first block."""
        return Address(self.segment.base + self.block)

    @property
    def payload_block(self) -> int:
        """Block of the segment where the payload begins."""
        return self.block + self.transfer.header_blocks

    @property
    def end_block(self) -> int:
        """Block of the segment behind it."""
        return self.block + self.transfer.total_blocks


class SegmentReader:
    """Reads the headers of one segment through a sliding window of ``window`` bytes, so that small transfers share
    a read."""

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
            rest = self.segment.blocks * BLOCK - offset
            buffer = bytearray(max(size, min(self._size, rest)))
            got = self.segment.file.preadv([buffer], offset)
            self._start, self._window, inside = offset, memoryview(buffer)[:got], 0
        return self._window[inside : inside + size]

    def first_of_any_use(self) -> FoundTransfer | None:
        """The valid transfer at the file's beginning, whichever use of it that was."""
        first = self._bytes(0, NODE_HEADER_SIZE)
        node_header = unpack_node_header(first) if len(first) == NODE_HEADER_SIZE else None
        if node_header is None:
            return None
        segment = replace(self.segment, use=node_header.use)
        return SegmentReader(segment, self._volume, self._size).at(0)

    def at(self, block: int) -> FoundTransfer | None:
        """The valid transfer that begins at ``block``, else None. Its columns refer to the window's memory."""
        if block >= self.segment.blocks:
            return None
        first = self._bytes(block * BLOCK, NODE_HEADER_SIZE)
        if len(first) < NODE_HEADER_SIZE:
            return None
        node_header = unpack_node_header(first)
        if node_header is None or node_header.use != self.segment.use or node_header.block != block:
            return None
        if block * BLOCK + NODE_HEADER_SIZE + node_header.shared_header_size > self.segment.blocks * BLOCK:
            return None
        whole = self._bytes(block * BLOCK, NODE_HEADER_SIZE + node_header.shared_header_size)
        transfer = unpack_shared_header(whole[NODE_HEADER_SIZE:])
        if transfer is None or transfer.volume != self._volume:
            return None
        if not node_header_holds(whole[:NODE_HEADER_SIZE], transfer.chain, self._seed):
            return None
        if block + transfer.total_blocks > self.segment.blocks:
            return None
        return FoundTransfer(self.segment, block, node_header, transfer)

    def shared_header(self, found: FoundTransfer) -> bytes:
        """The shared header of a transfer that was found here."""
        return bytes(self._bytes(found.block * BLOCK + NODE_HEADER_SIZE, found.transfer.shared_header_size))

    def chain_from(self, block: int, previous: bytes, end_block: int | None = None) -> Iterator[FoundTransfer]:
        """Valid transfers from ``block`` on whose chain continues ``previous``, and local records between them."""
        while end_block is None or block < end_block:
            found = self.at(block)
            if found is None or found.transfer.previous != previous:
                return
            yield found
            previous = chain_behind(found.transfer)
            block = found.end_block

    def anywhere(self) -> Iterator[FoundTransfer]:
        """Every valid transfer at any block, chained or not: to judge a gap in the log, and for salvage."""
        block = 0
        for candidate in self._magic_blocks():
            if candidate < block:
                continue
            found = self.at(candidate)
            if found is not None:
                yield found
                block = found.end_block

    def _magic_blocks(self) -> list[int]:
        magic = np.frombuffer(NODE_HEADER_MAGIC, "<u8")[0]
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
    return transfer.previous if transfer.kind == Kind.LOCAL_BLOCKS else transfer.chain


def payload_holds(found: FoundTransfer) -> bool:
    """Whether the payload on disk has the digests that the header states. A lost block's payload must be
    zeroes."""
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
    return fragments_agree(transfer, view[transfer.blocks * BLOCK :])


def fragments_agree(transfer: Transfer, view: memoryview) -> bool:
    """Whether these bytes are the fragments whose digests the header states behind those of whole blocks."""
    stated: list[int] = transfer.digests[transfer.blocks :].tolist()
    return _fragment_digests(transfer, view) == stated


def _fragment_digests(transfer: Transfer, view: memoryview) -> list[int]:
    digests, at = [], 0
    for offset, word in zip(transfer.offsets.tolist(), transfer.lengths.tolist(), strict=True):
        if not (offset | word) & IN_BLOCK or word >> KIND_SHIFT != WRITE:
            continue  # nothing but whole blocks
        for _, _, length in fragments(offset, word & LENGTH_MASK):
            digests.append(fragment_digest(view[at : at + length]))
            at += length
    return digests


def complete_prefix(found: Sequence[FoundTransfer]) -> list[FoundTransfer]:
    """These transfers without an incomplete write, or an incomplete point's record, at their end."""
    whole = list(found)
    while whole and whole[-1].transfer.flags & Flag.CONTINUED:
        whole.pop()
    return whole
