"""``image.pages``: which pages of ``image.sums`` there are, where, and what each must be.

A page of digests vouches for the image's blocks, and this file vouches for the pages: a page that was lost,
or is an old version of itself, is told from the right one by 31 bits of its checksum kept here. The file is
small (4 bytes for two megabytes of volume), written whole under another name and renamed: one step makes
everything that a fold wrote current.

Little endian:
     0  8s magic "RVPAGES\\0"    8 Q format 1    16 16s volume id    32 Q generation    40 Q blocks
    48  Q  write    56 Q address    64 Q point    72 Q pages
    80  Q  XXH3-64 of bytes 0..80 and of all from 88 on, seeded by the volume
    88  I  for each page: 0 = absent, else place << 31 | lower 31 bits of the page's checksum (0 → 1)

Write, address and point are those of the horizon whose image this describes. The manifest names the
generation that it needs: an older one is damage; a newer one is a fold that did not come to its flip, which
harms nothing (what it changed is still read from the log) and is done again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from revolume.blocks.geometry import ceil_div
from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.page_cache import file_seed
from revolume.errors import Damaged
from revolume.host.disk import Directory

U32 = npt.NDArray[np.uint32]

PAGES_NAME = "image.pages"
PAGES_NEW = "image.pages.new"
PAGES_MAGIC = b"RVPAGES\0"
FORMAT = 1
HEADER = struct.Struct("<8sQ16sQQQQQQ")
CHECKSUM = struct.Struct("<Q")
PER_PAGE = 511
"""Digests in a page."""

assert HEADER.size == 80


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pages describe. ``generation`` counts folds."""

    generation: int = 0
    blocks: int = 0
    write: WriteNumber = WriteNumber(0)
    address: Address = Address(0)
    point: int = 0

    @property
    def pages(self) -> int:
        return ceil_div(self.blocks, PER_PAGE)


def write_tags(directory: Directory, volume: bytes, facts: Facts, tags: U32) -> None:
    """Replace ``image.pages``; durable when it returns."""
    assert len(tags) == facts.pages
    header = HEADER.pack(
        PAGES_MAGIC, FORMAT, volume, facts.generation, facts.blocks,
        facts.write, facts.address, facts.point, len(tags),
    )  # fmt: skip
    body = tags.tobytes()
    file = directory.open(PAGES_NEW, create=True)
    try:
        file.truncate(0)
        file.pwritev([header, CHECKSUM.pack(_tags_checksum(volume, header, body)), body], 0)
        file.datasync()
    finally:
        file.close()
    directory.rename(PAGES_NEW, PAGES_NAME)
    directory.sync()


def read_tags(directory: Directory, volume: bytes, generation: int) -> tuple[Facts, U32]:
    """The generation on the disk. Damaged: not whole, another volume's, or older than ``generation``."""
    try:
        file = directory.open(PAGES_NAME, write=False)
    except FileNotFoundError as error:
        raise sums_damaged(f"{PAGES_NAME} is missing") from error
    try:
        data = bytearray(file.size())
        file.preadv([data], 0)
    finally:
        file.close()
    facts, tags = _unpack(volume, bytes(data))
    if facts.generation < generation:
        raise sums_damaged(f"{PAGES_NAME} has generation {facts.generation}, the manifest knows {generation}")
    return facts, tags


def _unpack(volume: bytes, data: bytes) -> tuple[Facts, U32]:
    body = HEADER.size + CHECKSUM.size
    if len(data) < body or data[:8] != PAGES_MAGIC:
        raise sums_damaged(f"{PAGES_NAME} does not begin as it should")
    _, known, owner, generation, blocks, write, address, point, pages = HEADER.unpack_from(data)
    if known != FORMAT:
        raise unknown_format(PAGES_NAME, known)
    if owner != volume:
        raise sums_damaged(f"{PAGES_NAME} belongs to another volume")
    (stated,) = CHECKSUM.unpack_from(data, HEADER.size)
    facts = Facts(generation, blocks, write, address, point)
    if stated != _tags_checksum(volume, data[: HEADER.size], data[body:]) or pages != facts.pages:
        raise sums_damaged(f"{PAGES_NAME} is not what was written there")
    return facts, np.frombuffer(data, "<u4", offset=body).astype(np.uint32)


def _tags_checksum(volume: bytes, header: bytes, body: bytes) -> int:
    state = xxhash.xxh3_64(header, seed=file_seed(b"image pages", volume))
    state.update(body)
    return state.intdigest()


def sums_damaged(why: str) -> Damaged:
    return Damaged("sums-damaged", f"{why}.", "Run 'revolume check' for the whole extent.")


def unknown_format(name: str, number: int) -> Damaged:
    return Damaged(
        "sums-format", f"{name} has format {number}; this program knows {FORMAT}.", "Use a newer program."
    )
