"""Changing the image's digests: by a fold, or while a mirror's base is received.

A changed page goes into the place that is not current, so readers go on with what there was; ``commit`` makes all
of them current in one step. Without it nothing has happened.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import ceil_div
from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.page_cache import PAGE, blank, checksums
from revolume.host.disk import Directory, File
from revolume.volume.image.block_digests import BATCH_PAGES, BlockDigests, Generation, page_numbers, page_tags
from revolume.volume.image.digest_pages import PER_PAGE, U32, Facts, write_tags

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


class DigestWriter(BlockDigests):
    """One at a time, over files of its own: ``put``, ``zero``, ``resize``, then ``commit``."""

    def __init__(self, directory: Directory, file: File, volume: bytes, generation: Generation) -> None:
        """Use ``open`` or ``create``. The directory stays the caller's and stays open."""
        super().__init__(directory, file, volume, generation)
        self._committed = generation.tags.copy()  # pages are written where these do not point

    @classmethod
    def open_to_change(cls, directory: Directory, volume: bytes, known: int) -> DigestWriter:
        """For a writer; ``known`` is the generation that is known to be durable. A newer one is a writer's that
        did not come to the end of its commit: its name may not be on the disk, where pages are then in use that
        the next commit writes over. So it is given its name once more."""
        digests = cls.open(directory, volume, known)
        if digests.facts.generation > known:
            try:
                write_tags(directory, volume, digests.facts, digests._now.tags)
            except BaseException:
                digests.close()
                raise
        return digests

    def put(self, blocks: U64, digests: U64) -> None:
        """These blocks, ascending, have these digests from the next ``commit`` on."""
        if not len(blocks):
            return
        assert (blocks[1:] > blocks[:-1]).all() and int(blocks[-1]) < self.blocks
        pages = (blocks // np.uint64(PER_PAGE)).view(np.int64)
        place = (blocks % np.uint64(PER_PAGE)).view(np.int64)
        starts = np.flatnonzero(np.diff(pages, prepend=np.int64(-1)))
        bounds = [*starts.tolist(), len(blocks)]
        for at in range(0, len(starts), BATCH_PAGES):
            here = slice(bounds[at], bounds[min(len(starts), at + BATCH_PAGES)])
            self._rewrite(pages[starts[at : at + BATCH_PAGES]], pages[here], place[here], digests[here])

    def zero(self, start: int, end: int) -> None:
        """The blocks [start, end) read as zeroes from the next ``commit`` on."""
        end = min(end, self.blocks)
        if start >= end:
            return
        first = ceil_div(start, PER_PAGE)
        last = self._now.facts.pages if end == self.blocks else end // PER_PAGE
        if first > last:  # within one page
            self._zero_singly(start, end)
            return
        for low, high in ((start, min(end, first * PER_PAGE)), (max(start, last * PER_PAGE), end)):
            self._zero_singly(low, high)
        self._now.tags[first:last] = 0

    def _zero_singly(self, start: int, end: int) -> None:
        if start < end:
            self.put(np.arange(start, end, dtype=np.uint64), np.zeros(end - start, np.uint64))

    def resize(self, blocks: int) -> None:
        """The image has so many blocks from the next ``commit`` on; new ones read as zeroes."""
        held = self._now
        if blocks < held.facts.blocks:
            self.zero(blocks, held.facts.blocks)
        facts = replace(held.facts, blocks=blocks)
        self._now = Generation(facts, _fitted(held.tags, facts.pages), held.cache)
        self._committed = _fitted(self._committed, facts.pages)

    def commit(self, write: WriteNumber, address: Address, point: int, generation: int) -> None:
        """All that was put becomes the state, as of this horizon, in one durable step."""
        self._file.datasync()
        facts = Facts(generation, self.blocks, write, address, point)
        write_tags(self._directory, self._volume, facts, self._now.tags)
        self._now = Generation(facts, self._now.tags, self._now.cache)
        self._committed = self._now.tags.copy()

    # Pages

    def _rewrite(self, pages: I64, page_of: I64, place: I64, digests: U64) -> None:
        """Change digests in these pages and write them where they are not current."""
        tags = self._now.tags
        table = blank(len(pages))
        present = np.flatnonzero(tags[pages])
        table[present] = self._read(self._now, pages[present])
        table[np.searchsorted(pages, page_of), place + 1] = digests
        used = table[:, 1:].any(axis=1)
        tags[pages[~used]] = 0
        self._write(pages[used], table[used])

    def _write(self, pages: I64, table: U64) -> None:
        if not len(pages):
            return
        tags = self._now.tags
        numbers = page_numbers(pages, self._committed[pages]) ^ 1
        table[:, 0] = checksums(table, self._seed, numbers)
        view = table.data.cast("B")
        starts, counts, firsts = contiguous(numbers.astype(np.uint64))
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            self._file.pwritev([view[start * PAGE : (start + count) * PAGE]], first * PAGE)
        tags[pages] = page_tags(table[:, 0], numbers)
        self._now.cache.drop(pages)


def _fitted(tags: U32, count: int) -> U32:
    fitted = np.zeros(count, np.uint32)
    common = min(count, len(tags))
    fitted[:common] = tags[:common]
    return fitted
