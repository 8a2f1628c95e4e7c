"""The image and its digests, a few digest pages at a time, beside folds.

A fold writes into the image in another process, and its digests follow later; so no slice is read while one is
under way. A fold that has been begun and not finished (it failed, or a crash came) leaves blocks in the image of
which the digests do not speak yet. The oldest moment that can be opened is the one that it leads to: its blocks
that have changed since the horizon lie in the log, and are left out here.

A digest page that is damaged is made anew: from the digests that are in memory, or else from the blocks. 31 bits
of its checksum, which are kept elsewhere, say whether that is what was written.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.digest import ZERO_DIGEST, digest_array
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.chain.point_deltas import changed
from revolume.chain.versions import LogRange
from revolume.errors import Damaged
from revolume.host.disk import Disk
from revolume.volume.context import VolumeContext
from revolume.volume.image.block_digests import SUMS_NAME
from revolume.volume.image.digest_pages import PER_PAGE
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.log_ranges import LogRanges
from revolume.volume.metadata.scrub_record import ScrubPlace, ScrubStage
from revolume.volume.open_log import OpenLog
from revolume.volume.scrub.finding import Finding, Part
from revolume.volume.scrub.image_check import ImageSlice, check_image
from revolume.volume.scrub.stage import SliceRead
from revolume.volume.space.folder import Folder

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
_PAGE_BYTES = PER_PAGE * BLOCK
_EVERYTHING = 1 << 60


class ImageStage:
    """Of one open volume."""

    def __init__(
        self, context: VolumeContext, *, log: OpenLog, image: VolumeImage, ranges: LogRanges, folder: Folder
    ) -> None:
        self._context = context
        self._log = log
        self._image = image
        self._ranges = ranges
        self._folder = folder
        self._replaced: tuple[tuple[WriteNumber, WriteNumber], BlockSet] | None = None

    def total(self) -> int:
        """What the pages speak of, as if all of it were there."""
        return len(self._image.digests.present(0, _EVERYTHING)) * _PAGE_BYTES

    async def read(self, place: ScrubPlace, size: int) -> SliceRead:
        """The next digest pages, and their blocks."""
        async with self._folder.paused():
            pages = self._image.digests.present(place.block // PER_PAGE, max(1, size // _PAGE_BYTES))
            if not len(pages) or self._log.manifest.state.base is not None:
                return SliceRead()
            found = await self._read(pages)
        following = ScrubPlace(ScrubStage.IMAGE, 0, (int(pages[-1]) + 1) * PER_PAGE)
        return SliceRead(tuple(found[0]), following, found[1])

    async def _read(self, pages: I64) -> tuple[list[Finding], int]:
        """Findings, and bytes read. No fold is under way."""
        call, digests = self._log.work.call, self._image.digests
        findings: list[Finding] = []
        tables = [await call(self._table, page) for page in pages.tolist()]
        for page, table in zip(pages.tolist(), tables, strict=True):
            if table is None:
                findings.append(_page(page, healed=await call(self._made_anew, page)))
        known = [(p, t) for p, t in zip(pages.tolist(), tables, strict=True) if t is not None]
        if not known:
            return findings, 0
        numbers, tags = digests.places(np.array([page for page, _ in known]))
        blocks, stated = await self._kept(known)
        spec = ImageSlice(self._context.directory.path, self._context.volume_id, blocks, stated, numbers, tags)
        checked = await self._log.work.job(check_image, spec)
        for index in checked.pages:
            page, table = known[index]
            findings.append(_page(page, healed=await call(digests.restore, page, table)))
        return [*findings, *checked.findings], checked.bytes_read

    def _table(self, page: int) -> U64 | None:
        """The digests of a page's blocks, of all of them; None: the page is not what was written."""
        first = page * PER_PAGE
        table = np.zeros(min(PER_PAGE, self._image.digests.blocks - first), np.uint64)
        try:
            for blocks, digests in self._image.digests.within(first, first + len(table)):
                table[(blocks - np.uint64(first)).view(np.int64)] = digests
        except Damaged:
            return None
        return table

    async def _kept(self, known: list[tuple[int, U64]]) -> tuple[U64, U64]:
        """Blocks of the image, with their digests, that the oldest moment finds there."""
        pieces = list(_with_data(known))
        blocks = np.concatenate([piece for piece, _ in pieces])
        digests = np.concatenate([piece for _, piece in pieces])
        kept = ~(await self._being_replaced()).contains(blocks)
        if self._image.origin is not None:  # what lies in a clone's parent is scrubbed there
            there = await self._log.work.call(self._image.origin.there, blocks)
            assert there is not None
            kept &= ~there
        return blocks[kept], digests[kept]

    async def _being_replaced(self) -> BlockSet:
        """What a fold that was begun, and has not come to its end, may have written into the image."""
        horizon, retired = self._image.horizon.write, self._folder.retired_write
        if retired <= horizon:
            return BlockSet()
        if self._replaced is None or self._replaced[0] != (horizon, retired):
            self._replaced = (horizon, retired), await self._changed(horizon, retired)
        return self._replaced[1]

    async def _changed(self, after: WriteNumber, upto: WriteNumber) -> BlockSet:
        """All blocks, where the log can't tell: then the image is looked at when the fold has been done."""
        log_range, path = self._ranges.up_to_write(None, upto), self._context.log_directory.path
        try:
            return await self._log.work.job(changed_blocks, path, self._context.volume_id, log_range, after, upto)
        except (Damaged, OSError):
            return BlockSet.of_intervals(np.zeros(1, np.uint64), np.full(1, _EVERYTHING, np.uint64))

    def _made_anew(self, page: int) -> bool:
        """Whether the page could be put together from the content of its blocks. Those that are zeroes have no
        digest, unless they were written as data: either may be right, for all of them."""
        digests, first = self._image.digests, page * PER_PAGE
        count = min(PER_PAGE, digests.blocks - first)
        content = memoryview(bytearray(count * BLOCK))
        self._image.file.preadv([content], first * BLOCK)
        found = digest_array(content, count)
        unwritten = np.where(found == np.uint64(ZERO_DIGEST), np.uint64(0), found)
        return digests.restore(page, unwritten) or digests.restore(page, found)


def _page(page: int, *, healed: bool) -> Finding:
    return Finding(Part.DIGEST_PAGE, f"{SUMS_NAME}, blocks from {page * PER_PAGE} on", healed=healed)


def _with_data(known: list[tuple[int, U64]]) -> Iterator[tuple[U64, U64]]:
    for page, table in known:
        at = np.flatnonzero(table)
        yield (at + page * PER_PAGE).astype(np.uint64), table[at]


def changed_blocks(
    disk: Disk, path: str, volume: bytes, log_range: LogRange, after: WriteNumber, upto: WriteNumber
) -> BlockSet:
    """The blocks that the writes ``(after, upto]`` changed, in the helper process."""
    log = disk.open(path)
    try:
        return changed(log, log_range, volume, after, upto).delta.changed()
    finally:
        log.close()
