"""Blocks that a sibling asks for, found in what this node has.

By their reference first, the transfer in which they travelled; else any version of the block that has the digest:
the live one, the image's, a rescued one, then those that the retained log has, newest first. What is found is read
and has the digest, or it is not given. A request is bounded by the number of its blocks, and by the number of
segments whose columns are looked at for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, KIND_SHIFT
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position
from revolume.errors import Damaged
from revolume.log.format.columns import Columns
from revolume.log.format.segment import Segment
from revolume.volume.heal.block_files import Files
from revolume.volume.heal.damaged_block import IMAGE
from revolume.volume.heal.log_places import columns_of, opened_columns, referenced, versions_with
from revolume.volume.heal.siblings import Contents, Wanted, holds
from revolume.volume.open_log import OpenLog
from revolume.volume.rescue.rescued_blocks import RescuedBlocks

U64 = npt.NDArray[np.uint64]
SEGMENTS_MAX: Final = 4096
"""Of the log, newest first, whose columns are looked at for one request."""
FindSegment = Callable[[Position], Awaitable[Segment | None]]


class Lookup(Protocol):
    """Where the newest versions lie."""

    def lookup(self, blocks: U64) -> tuple[U64, U64]: ...

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool: ...


class BlockFinder:
    """Of one open volume. ``find_segment``: the segment in which the transfer at a position lies."""

    def __init__(
        self, log: OpenLog, files: Files, live: Lookup, rescued: RescuedBlocks, find_segment: FindSegment
    ) -> None:
        self._log = log
        self._files = files
        self._live = live
        self._rescued = rescued
        self._find_segment = find_segment
        self.served = 0
        """Blocks that were given to siblings."""

    async def find(self, wanted: Sequence[Wanted]) -> Contents:
        """As many of these as are here, by block and digest."""
        named = [(each, await self._find_segment(each.position)) for each in wanted if each.position]
        opened, pool = opened_columns(self._log), self._log.pool
        ready = {segment.use for segment in pool.ready}
        segments = [segment for segment in pool.segments() if segment.use not in ready]
        words, digests = self._live.lookup(np.array([each.block for each in wanted], np.uint64))
        newest = dict(zip(wanted, zip(words.tolist(), digests.tolist(), strict=True), strict=True))
        found = await self._log.work.call(self._find, wanted, named, newest, opened, segments)
        self.served += len(found)
        return found

    def _find(
        self,
        wanted: Sequence[Wanted],
        named: Sequence[tuple[Wanted, Segment | None]],
        newest: dict[Wanted, tuple[int, int]],
        opened: Columns | None,
        segments: Sequence[Segment],
    ) -> Contents:
        found: Contents = {}
        for each, segment in named:
            self._by_reference(found, each, segment, opened)
        missing = [each for each in wanted if each.key not in found]
        for each in missing:
            self._take(found, each, self._held(each, *newest[each]))
        left = {each.key for each in missing} - found.keys()
        for segment in reversed(segments[-SEGMENTS_MAX:]):
            if not left:
                break
            columns = columns_of(self._log, segment, opened)
            places = {} if columns is None else versions_with(columns, left)
            for (block, digest), address in places.items():
                self._take(found, Wanted(block, digest), iter([(DATA, address)]))
            left -= found.keys()
        return found

    def _by_reference(
        self, found: Contents, each: Wanted, segment: Segment | None, opened: Columns | None
    ) -> None:
        columns = None if segment is None else columns_of(self._log, segment, opened)
        place = None if columns is None else referenced(columns, each.position, each.index)
        if place is not None and place[1] == each.digest:
            self._take(found, each, iter([(DATA, place[0])]))

    def _held(self, each: Wanted, word: int, digest: int) -> Iterator[tuple[int, int]]:
        """Kind and address of where the block may lie with this digest: live (``word`` and ``digest`` as the live
        map looked them up), in the image, rescued."""
        blocks, stated = np.array([each.block], np.uint64), np.uint64(each.digest)
        words, digests = np.array([word], np.uint64), np.array([digest], np.uint64)
        if self._live.settle(blocks, words, digests, False) and digests[0] == stated:
            yield int(words[0]) >> KIND_SHIFT, int(words[0]) & ADDRESS_MASK
        yield IMAGE, each.block
        for moment in self._rescued.moments():
            rescued = self._rescued.get(moment, blocks, False)
            if rescued is not None and rescued[0][0] and rescued[1][0] == stated:
                yield DATA, int(rescued[0][0]) & ADDRESS_MASK

    def _take(self, found: Contents, each: Wanted, places: Iterator[tuple[int, int]]) -> None:
        """Read the block where it may lie until it has its digest."""
        try:
            for kind, address in places:
                content = self._read(kind, each.block if kind == IMAGE else address)
                if content is not None and holds(content, each.digest):
                    found[each.key] = content
                    return
        except (Damaged, OSError, KeyError):
            return  # what says where it lies can't be read here

    def _read(self, kind: int, address: int) -> bytes | None:
        content = bytearray(BLOCK)
        try:
            whole = kind in (DATA, IMAGE) and self._files.pread(kind, Address(address), [content], False)
        except (OSError, KeyError):
            return None
        return bytes(content) if whole else None
