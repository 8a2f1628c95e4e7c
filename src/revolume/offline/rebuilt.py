"""The file that a volume is rebuilt in, and which of its blocks are lost or unproved.

First the image, then what the log says is newer: zeroes, whole blocks, fragments. A block that does not have
its digest where it should be is looked for elsewhere; one that is nowhere is lost until something newer covers
all of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import fragment_digest
from revolume.blocks.extents import contiguous
from revolume.blocks.word import ADDRESS_MASK, DATA, ZERO, kinds
from revolume.chain.versions import Fragment, Newest
from revolume.errors import Damaged
from revolume.host.disk import File
from revolume.log.segment import Segment
from revolume.log.transfer import BLOCK
from revolume.offline.copies import Copies
from revolume.offline.reading import read, runs
from revolume.offline.report import Extents, Progress
from revolume.volume.pagetags import PER_PAGE
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]
MASK = np.uint64(ADDRESS_MASK)
PAGES_AT_ONCE = 64
AT_ONCE = 1 << 20


class Rebuilt:
    """``written``: blocks put into it, each time that one was."""

    def __init__(self, out: File, copies: Copies, progress: Progress) -> None:
        self._out = out
        self._copies = copies
        self._progress = progress
        self._lost: set[int] = set()
        self._unproved: set[int] = set()
        self.written = 0

    @property
    def lost(self) -> Extents:
        """(first block, count) of what no record with a right digest holds."""
        return _extents(self._lost)

    @property
    def unproved(self) -> Extents:
        """The same of what was taken as it was, because its digest is lost."""
        return _extents(self._unproved)

    # The image

    def take_image(self, image: File, sums: Sums) -> None:
        """Its blocks that have their digests; where these are damaged, as they are."""
        for first in range(0, sums.blocks, PER_PAGE * PAGES_AT_ONCE):
            self._progress("image", first, sums.blocks)
            end = min(sums.blocks, first + PER_PAGE * PAGES_AT_ONCE)
            if not self._take_proved(image, sums, first, end):
                for page in range(first, end, PER_PAGE):
                    behind = min(end, page + PER_PAGE)
                    if not self._take_proved(image, sums, page, behind):
                        self.take_unproved(image, page, behind)

    def _take_proved(self, image: File, sums: Sums, first: int, end: int) -> bool:
        try:
            pieces = list(sums.within(first, end))
        except (Damaged, OSError):
            return False
        for blocks, digests in pieces:
            self._put(image, blocks, blocks, digests)
        return True

    def take_unproved(self, image: File, first: int, end: int) -> None:
        """These blocks as they are."""
        begin, size = first * BLOCK, min(end * BLOCK, image.size()) - first * BLOCK
        for offset, length in image.data_extents(begin, size) if size > 0 else ():
            for at in range(offset, offset + length, AT_ONCE):
                self._out.pwritev([read(image, at, min(AT_ONCE, offset + length - at))], at)
            touched = range(offset // BLOCK, -(-(offset + length) // BLOCK))
            self._unproved.update(touched)
            self.written += len(touched)

    # The log

    def take_log(self, newest: Newest, segments: dict[int, Segment]) -> None:
        """``segments`` by use; all of one size."""
        for start, end, _ in newest.zero_ranges():
            self._zero(start, end)
        kind = kinds(newest.words)
        _, counts, firsts = contiguous(newest.blocks[kind == ZERO])
        for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
            self._zero(first, first + count)
        data = kind == DATA
        self._whole(newest.blocks[data], newest.words[data] & MASK, newest.digests[data], segments)
        for fragment in newest.fragments:
            self._fragment(fragment, segments)

    def _zero(self, first: int, end: int) -> None:
        self._out.punch(first * BLOCK, (end - first) * BLOCK)
        for doubts in (self._lost, self._unproved):
            if end - first < len(doubts):
                doubts.difference_update(range(first, end))
            else:
                doubts.difference_update([block for block in doubts if first <= block < end])

    def _whole(self, blocks: U64, addresses: U64, digests: U64, segments: dict[int, Segment]) -> None:
        """In the order in which they lie in the log."""
        order = np.argsort(addresses)
        blocks, addresses, digests = blocks[order], addresses[order], digests[order]
        self._lost.difference_update(blocks.tolist())
        self._unproved.difference_update(blocks.tolist())
        for use, segment in segments.items():
            start, end = np.searchsorted(addresses, [segment.base, segment.base + segment.blocks])
            self._progress("log", int(start), len(addresses))
            places = addresses[start:end] - np.uint64(use * segment.blocks)
            self._put(segment.file, places, blocks[start:end], digests[start:end])

    def _fragment(self, fragment: Fragment, segments: dict[int, Segment]) -> None:
        offset = fragment.block * BLOCK + fragment.at
        if not fragment.place:
            self._out.punch(offset, fragment.length)
            return
        segment = _holding(segments, fragment.place // BLOCK)
        data = read(segment.file, fragment.place - segment.base * BLOCK, fragment.length)
        if fragment_digest(data) == fragment.digest:
            self._out.pwritev([data], offset)
        else:
            self._lost.add(fragment.block)

    # Blocks

    def _put(self, file: File, places: U64, blocks: U64, digests: U64) -> None:
        """Blocks of ``file`` that become ``blocks``, if they have these digests."""
        at = 0
        for run in runs(file, places, digests):
            wanted = blocks[at : at + run.count]
            for index in run.wrong:
                found = self._elsewhere(int(wanted[index]), int(digests[at + index]))
                run.data[index * BLOCK : (index + 1) * BLOCK] = found
            starts, counts, firsts = contiguous(wanted)
            for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
                self._out.pwritev([run.data[start * BLOCK : (start + count) * BLOCK]], first * BLOCK)
            at += run.count
            self.written += run.count

    def _elsewhere(self, block: int, digest: int) -> memoryview:
        """Any copy; of a lost block zeroes."""
        found = self._copies.find(digest)
        if found is None:
            self._lost.add(block)
            self.written -= 1
        return memoryview(bytes(BLOCK)) if found is None else found


def _holding(segments: dict[int, Segment], address: int) -> Segment:
    return next(s for s in segments.values() if s.base <= address < s.base + s.blocks)


def _extents(blocks: set[int]) -> Extents:
    _, counts, firsts = contiguous(np.array(sorted(blocks), np.uint64))
    return tuple(zip(firsts.tolist(), counts.tolist(), strict=True))
