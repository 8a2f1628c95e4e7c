"""Blocks of the image and the pages of their digests, read and compared, in the helper process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST, block_digests
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.chain.page_cache import PAGE, blank, checksums
from revolume.host.disk import Disk, File
from revolume.host.medium_file import NARROW, WINDOW, MediumFile
from revolume.volume.heal.damaged_block import IMAGE, DamagedBlock
from revolume.volume.image.block_digests import SUMS_NAME, page_tags, sums_seed
from revolume.volume.image.digest_pages import U32
from revolume.volume.metadata import layout
from revolume.volume.scrub.finding import Finding, Part

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
_AT_ONCE = 256
_SCATTERED = 4
"""So many times as much room as they take, and blocks count as scattered."""


@dataclass(frozen=True, slots=True)
class ImageSlice:
    """Blocks of the image (uint64, ascending) and the digests that they should have; the digest pages ``numbers``
    (int64, of ``image.sums``) and the ``tags`` (uint32) that say what each must be."""

    path: str
    volume: bytes
    blocks: U64
    digests: U64
    numbers: I64
    tags: U32


@dataclass(frozen=True, slots=True)
class ImageChecked:
    """What was wrong: blocks, and ``pages`` by their index in the slice. The bytes that were read."""

    findings: tuple[Finding, ...]
    pages: tuple[int, ...]
    bytes_read: int


def check_image(disk: Disk, spec: ImageSlice) -> ImageChecked:
    """Read the slice. Of blocks that are lost nobody knows what they should be, and they are not looked at."""
    directory = disk.open(spec.path)
    image = directory.open(layout.IMAGE, write=False)
    sums = directory.open(SUMS_NAME, write=False)
    try:
        known = spec.digests != np.uint64(LOST_DIGEST)
        blocks, digests = spec.blocks[known], spec.digests[known]
        medium = medium_of(image, blocks)
        findings = tuple(
            Finding(Part.BLOCK, f"{layout.IMAGE}, byte {block * BLOCK}", DamagedBlock(block, digest, IMAGE, block))
            for block, digest in wrong_blocks(medium, blocks, digests)
        )
        pages = _wrong_pages(sums, spec)
        return ImageChecked(findings, pages, medium.bytes_read + len(spec.numbers) * PAGE)
    finally:
        sums.close()
        image.close()
        directory.close()


def _wrong_pages(sums: File, spec: ImageSlice) -> tuple[int, ...]:
    table = blank(len(spec.numbers))
    medium = MediumFile(sums, NARROW)
    for row, number in enumerate(spec.numbers.tolist()):
        medium.preadv([table[row].data.cast("B")], number * PAGE)
    whole = table[:, 0] == checksums(table, sums_seed(spec.volume), spec.numbers)
    return tuple(np.flatnonzero(~whole | (page_tags(table[:, 0], spec.numbers) != spec.tags)).tolist())


def medium_of(file: File, places: U64) -> MediumFile:
    """``file``, read in windows that fit how close these blocks of it, ascending, lie together."""
    if not len(places):
        return MediumFile(file, NARROW)
    end, span = (int(places[-1]) + 1) * BLOCK, int(places[-1] - places[0]) + 1
    return MediumFile(file, NARROW if span > _SCATTERED * len(places) else WINDOW, end)


def wrong_blocks(medium: MediumFile, places: U64, digests: U64) -> Iterator[tuple[int, int]]:
    """(place, digest) of those blocks, at ascending places of a file, that do not have their digest. The page
    cache lets go of what it has of them, so that whoever looks next sees what the medium has."""
    starts, counts, firsts = contiguous(places)
    for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
        for at in range(0, count, _AT_ONCE):
            size = min(_AT_ONCE, count - at)
            content = medium.read((first + at) * BLOCK, size * BLOCK)
            stated = digests[start + at : start + at + size].tolist()
            found = block_digests(content, size)
            if found != stated:
                for i, (here, there) in enumerate(zip(found, stated, strict=True)):
                    if here != there:
                        medium.uncache((first + at + i) * BLOCK, BLOCK)
                        yield first + at + i, there
