"""The file that a volume is rebuilt in, and which of its blocks are lost or unproved.

First the image, then what the log says is newer: zeroes, whole blocks, fragments. A block that does not have
its digest where it should be is looked for elsewhere; one that is nowhere is lost until something newer covers
all of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.digest import block_digests, fragment_digest
from revolume.blocks.extents import contiguous
from revolume.blocks.root import Root
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
Segments = dict[int, Segment]
"""By use; all of one size."""
MASK = np.uint64(ADDRESS_MASK)
PAGES_AT_ONCE = 64
AT_ONCE = 1 << 20


class Rebuilt:
    """``image`` may be None: it is missing."""

    def __init__(self, out: File, blocks: int, image: File | None, copies: Copies, progress: Progress) -> None:
        self._out = out
        self._image = image
        self._copies = copies
        self._progress = progress
        self._lost, self._unproved, self._written = (np.zeros(blocks, bool) for _ in range(3))

    @property
    def lost(self) -> Extents:
        """(first block, count) of what no record with a right digest holds."""
        return _extents(self._lost)

    @property
    def unproved(self) -> Extents:
        """The same of what was taken as it was, because its digest is lost."""
        return _extents(self._unproved)

    @property
    def written(self) -> int:
        """Blocks that have data."""
        return int(np.count_nonzero(self._written & ~self._lost))

    # The image

    def take_image(self, sums: Sums) -> Root | None:
        """Its blocks that have their digests; where these are damaged, as they are. The volume root that the
        digests add up to, if all are there."""
        root: Root | None = roots.EMPTY
        end = min(sums.blocks, len(self._lost))
        for first in range(0, end, PER_PAGE * PAGES_AT_ONCE):
            self._progress("image", first, end)
            behind = min(end, first + PER_PAGE * PAGES_AT_ONCE)
            pieces = _digests(sums, first, behind)
            if pieces is None:
                root = None
                self._page_by_page(sums, first, behind)
            else:
                self._take_proved(pieces)
                for piece in pieces if root is not None else ():
                    root = roots.add(root, *piece) if root is not None else None
        return root

    def _page_by_page(self, sums: Sums, first: int, end: int) -> None:
        for page in range(first, end, PER_PAGE):
            behind = min(end, page + PER_PAGE)
            pieces = _digests(sums, page, behind)
            if pieces is None:
                self.take_unproved(page, behind)
            else:
                self._take_proved(pieces)

    def _take_proved(self, pieces: list[tuple[U64, U64]]) -> None:
        """Of an image that is missing, what is still elsewhere."""
        for blocks, digests in pieces:
            self._put(self._image or self._out, blocks, blocks, digests)

    def take_unproved(self, first: int, end: int) -> None:
        """These blocks as they are."""
        self._unproved[first:end] = True
        if self._image is None:
            return
        begin, size = first * BLOCK, min(end * BLOCK, self._image.size()) - first * BLOCK
        for offset, length in self._image.data_extents(begin, size) if size > 0 else ():
            for at in range(offset, offset + length, AT_ONCE):
                self._out.pwritev([read(self._image, at, min(AT_ONCE, offset + length - at))], at)
            self._written[offset // BLOCK : -(-(offset + length) // BLOCK)] = True

    # The log

    def take_log(self, newest: Newest, segments: Segments) -> None:
        """What it says of the blocks that it names."""
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

    def take_lost(self, newest: Newest, segments: Segments) -> None:
        """The same, of blocks alone that are lost as yet."""
        mine = self._lost[newest.blocks.astype(np.int64)]
        fragments = [one for one in newest.fragments if self._lost[one.block]]
        found = newest.blocks[mine], newest.asof[mine], newest.words[mine], newest.digests[mine]
        self.take_log(Newest(*found, fragments=fragments), segments)

    def _zero(self, first: int, end: int) -> None:
        self._out.punch(first * BLOCK, (end - first) * BLOCK)
        for known in (self._lost, self._unproved, self._written):
            known[first:end] = False

    def _whole(self, blocks: U64, addresses: U64, digests: U64, segments: Segments) -> None:
        """In the order in which they lie in the log."""
        order = np.argsort(addresses)
        blocks, addresses, digests = blocks[order], addresses[order], digests[order]
        at = blocks.astype(np.int64)
        self._lost[at] = self._unproved[at] = False
        for use, segment in segments.items():
            bounds = np.array([segment.base, segment.base + segment.blocks], np.uint64)
            start, end = np.searchsorted(addresses, bounds)
            self._progress("log", int(start), len(addresses))
            places = addresses[start:end] - np.uint64(use * segment.blocks)
            self._put(segment.file, places, blocks[start:end], digests[start:end])

    def _fragment(self, fragment: Fragment, segments: Segments) -> None:
        offset = fragment.block * BLOCK + fragment.at
        if not fragment.place:
            self._out.punch(offset, fragment.length)
            return
        size = next(iter(segments.values())).blocks
        segment = segments[fragment.place // BLOCK // size]
        data = read(segment.file, fragment.place - segment.base * BLOCK, fragment.length)
        if fragment_digest(data) == fragment.digest:
            self._out.pwritev([data], offset)
            self._written[fragment.block] = True
        else:
            self._lost[fragment.block] = True

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
                self._written[first : first + count] = True
            at += run.count

    def _elsewhere(self, block: int, digest: int) -> memoryview:
        """Any copy: in the image, where a fold was under way; in the log. Of a lost block zeroes."""
        if self._image is not None:
            data = read(self._image, block * BLOCK, BLOCK)
            if block_digests(data, 1) == [digest]:
                return data
        found = self._copies.find(digest)
        self._lost[block] |= found is None
        return memoryview(bytes(BLOCK)) if found is None else found


def _digests(sums: Sums, first: int, end: int) -> list[tuple[U64, U64]] | None:
    """None: they are damaged."""
    try:
        return list(sums.within(first, end))
    except (Damaged, OSError):
        return None


def _extents(blocks: npt.NDArray[np.bool_]) -> Extents:
    _, counts, firsts = contiguous(np.flatnonzero(blocks).astype(np.uint64))
    return tuple(zip(firsts.tolist(), counts.tolist(), strict=True))
