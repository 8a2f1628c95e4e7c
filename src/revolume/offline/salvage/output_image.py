"""The file that a volume is rebuilt in, and which of its blocks are lost or unproved.

First the image, then what the log says is newer: zeroes, whole blocks, fragments. A block that does not have
its digest where it should be is looked for elsewhere; one that is nowhere is lost until something newer covers
all of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.block_location import DATA, ZERO, addresses, kinds
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST, block_digests, fragment_digest
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.blocks.root import Root
from revolume.chain.versions import Fragment, NewestVersions
from revolume.errors import Damaged
from revolume.host.disk import File
from revolume.log.format.segment import Segment
from revolume.offline.salvage.digest_index import DigestIndex
from revolume.offline.walk.report import Extents, Progress
from revolume.offline.walk.tolerant_read import read, runs
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.digest_pages import PER_PAGE

U64 = npt.NDArray[np.uint64]
Segments = dict[int, Segment]
"""By use; all of one size."""
PAGES_AT_ONCE = 64
AT_ONCE = 1 << 20


class OutputImage:
    """The file that salvage writes. ``image``: the volume's image, None if it is missing."""

    def __init__(
        self, out: File, blocks: int, image: File | None, digest_index: DigestIndex, progress: Progress
    ) -> None:
        self._out = out
        self._image = image
        self._digest_index = digest_index
        self._progress = progress
        self._lost, self._unproved, self._written = (np.zeros(blocks, bool) for _ in range(3))

    @property
    def lost(self) -> Extents:
        """(first block, count) of what no record with a right digest holds."""
        return _extents(self._lost)

    @property
    def unproved(self) -> Extents:
        """(first block, count) of what was taken as it was found, because its digest is lost."""
        return _extents(self._unproved)

    @property
    def written(self) -> int:
        """Blocks that have data."""
        return int(np.count_nonzero(self._written & ~self._lost))

    # The image

    def take_image(self, sums: BlockDigests) -> Root | None:
        """Copy the image's blocks that have their digests; where a page of digests is damaged, the blocks as they
        are. Returns the volume root that the digests add up to, None if some are missing."""
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

    def _page_by_page(self, sums: BlockDigests, first: int, end: int) -> None:
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
        """Copy the image's blocks [first, end) as they are, without digests to prove them."""
        self._unproved[first:end] = True
        if self._image is None:
            return
        begin, size = first * BLOCK, min(end * BLOCK, self._image.size()) - first * BLOCK
        for offset, length in self._image.data_extents(begin, size) if size > 0 else ():
            for at in range(offset, offset + length, AT_ONCE):
                self._out.pwritev([read(self._image, at, min(AT_ONCE, offset + length - at))], at)
            self._written[offset // BLOCK : -(-(offset + length) // BLOCK)] = True

    # A jump

    def take_placed(self, file: File, piece: DeltaMap) -> None:
        """These blocks lie in ``file`` at their addresses, or read as zeroes."""
        zero = BlockSet.of_blocks(piece.blocks[kinds(piece.locations) == ZERO])
        for start, end in zip(zero.starts.tolist(), zero.ends.tolist(), strict=True):
            self._zero(start, end)
        data = piece.entries(kinds(piece.locations) == DATA)
        at = data.blocks.astype(np.int64)
        self._unproved[at] = False
        self._lost[at] = data.digests == np.uint64(LOST_DIGEST)
        data = data.entries(data.digests != np.uint64(LOST_DIGEST))
        self._put(file, addresses(data.locations), data.blocks, data.digests)

    # The log

    def take_log(self, newest: NewestVersions, segments: Segments) -> None:
        """Apply the newest versions in the log: zero ranges, whole blocks, then fragments."""
        delta = newest.delta
        for start, end, _ in delta.zeroes:
            self._zero(start, end)
        kind = kinds(delta.locations)
        single = BlockSet.of_blocks(delta.blocks[kind == ZERO])
        for start, end in zip(single.starts.tolist(), single.ends.tolist(), strict=True):
            self._zero(start, end)
        data = delta.entries(kind == DATA)
        self._whole(data.blocks, addresses(data.locations), data.digests, segments)
        for fragment in newest.fragments:
            self._fragment(fragment, segments)

    def take_lost(self, newest: NewestVersions, segments: Segments) -> None:
        """Apply the newest versions again, only to blocks that are still lost."""
        mine = newest.delta.entries(self._lost[newest.delta.blocks.astype(np.int64)])
        fragments = tuple(one for one in newest.fragments if self._lost[one.block])
        self.take_log(NewestVersions(mine, fragments), segments)

    def _zero(self, first: int, end: int) -> None:
        self._out.punch(first * BLOCK, (end - first) * BLOCK)
        for known in (self._lost, self._unproved, self._written):
            known[first:end] = False

    def _whole(self, blocks: U64, places: U64, digests: U64, segments: Segments) -> None:
        """In the order in which they lie in the log."""
        order = np.argsort(places)
        blocks, places, digests = blocks[order], places[order], digests[order]
        at = blocks.astype(np.int64)
        self._lost[at] = self._unproved[at] = False
        for use, segment in segments.items():
            bounds = np.array([segment.base, segment.base + segment.blocks], np.uint64)
            start, end = np.searchsorted(places, bounds)
            self._progress("log", int(start), len(places))
            blocks_at = places[start:end] - np.uint64(use * segment.blocks)
            self._put(segment.file, blocks_at, blocks[start:end], digests[start:end])

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
        """Write blocks of ``file`` at ``places`` to ``blocks`` of the output, where they have their digests; other
        copies, by digest, where they don't."""
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
        """Another copy of the block: in the image, if a fold was under way, or anywhere in the log. Zeroes, and
        the block is lost, if there is none."""
        if self._image is not None:
            data = read(self._image, block * BLOCK, BLOCK)
            if block_digests(data, 1) == [digest]:
                return data
        found = self._digest_index.find(digest)
        self._lost[block] |= found is None
        return memoryview(bytes(BLOCK)) if found is None else found


def _digests(sums: BlockDigests, first: int, end: int) -> list[tuple[U64, U64]] | None:
    """The digests of the blocks [first, end); None if their pages are damaged."""
    try:
        return list(sums.within(first, end))
    except (Damaged, OSError):
        return None


def _extents(blocks: npt.NDArray[np.bool_]) -> Extents:
    _, counts, firsts = contiguous(np.flatnonzero(blocks).astype(np.uint64))
    return tuple(zip(firsts.tolist(), counts.tolist(), strict=True))
