"""The image's digests: one per block, so that a read of the image is checked like any other.

Two files. ``image.sums`` holds the digests, 511 to a page; 0 says that the block reads as zeroes, and its data
are not even looked at. So a page that was lost, is old, or belongs elsewhere must never pass for zeroes:
``image.pages`` says of every page whether there is one, which of its two places is current, and 31 bits of
its checksum. It is small (4 bytes for two megabytes of volume) and always replaced whole.

Two places for each page make a fold safe at every instant. A fold writes a changed page into the place that
is *not* current; the new ``image.pages`` makes all of them current in one step. A crash before that leaves the
old state, untouched. The process that serves the volume goes on reading the old places while the helper
folds, and takes up the new ones with ``adopt``. A page whose digests are all 0 is not written: it is absent.

``image.sums``, pages of 4096 bytes, numbers 64 bits little endian:

    page 0         1  magic "RVSUMS\\0\\0"    2  format 1    3  4  volume id; else zero
    page 1         zero
    page 2 + 2n + p                          place p (0 or 1) of digest page n:
                   1 … 511  digests of blocks 511 n …, zero behind the volume's end
    number 0 of every page but page 1 is its checksum (chain/page_cache.py), seeded by the volume.

``image.pages`` is described in ``digest_pages.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import ceil_div
from revolume.chain.page_cache import (
    PAGE,
    PageCache,
    blank,
    check_pages,
    checksums,
    damaged_page,
    file_seed,
    load_pages,
    look_up,
    write_pages,
)
from revolume.errors import Damaged
from revolume.host.disk import Directory, File
from revolume.volume.image.digest_pages import (
    FORMAT,
    PER_PAGE,
    U32,
    Facts,
    read_tags,
    sums_damaged,
    unknown_format,
    write_tags,
)

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

SUMS_NAME = "image.sums"
FIRST_PAGE = 2
SUMS_MAGIC = int.from_bytes(b"RVSUMS\0\0", "little")
BATCH_PAGES = 1024
LOOK_UP = 8192
PLACE_SHIFT = 31
TAG_MASK = (1 << PLACE_SHIFT) - 1


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation: facts, a tag for every page, and the pages cached of it. Exchanged as a whole, so
    that a thread that still works with the one before spoils nothing."""

    facts: Facts
    tags: U32
    cache: PageCache


class BlockDigests:
    """The digests of the image, read. ``get`` may be called in the loop or in a thread."""

    def __init__(self, directory: Directory, file: File, volume: bytes, held: Generation) -> None:
        """Use ``open`` or ``create``. The directory stays the caller's and stays open."""
        self._directory = directory
        self._file = file
        self._volume = volume
        self._seed = sums_seed(volume)
        self._now = held

    # Making and opening

    @classmethod
    def create(cls, directory: Directory, volume: bytes, blocks: int) -> Self:
        """For a new volume that reads as zeroes. The names are durable when it returns."""
        file = directory.open(SUMS_NAME, create=True)
        file.truncate(0)
        header = blank(1)
        header[0, 1:3] = SUMS_MAGIC, FORMAT
        header[0, 3:5] = np.frombuffer(volume, "<u8")
        write_pages(file, sums_seed(volume), 0, header)
        file.datasync()
        facts = Facts(blocks=blocks)
        tags = np.zeros(facts.pages, np.uint32)
        write_tags(directory, volume, facts, tags)
        return cls(directory, file, volume, Generation(facts, tags, PageCache()))

    @classmethod
    def open(cls, directory: Directory, volume: bytes, generation: int = 0, *, write: bool = True) -> Self:
        """Damaged: not this volume's, not whole, or older than ``generation``."""
        try:
            file = directory.open(SUMS_NAME, write=write)
        except FileNotFoundError as error:
            raise sums_damaged(f"{SUMS_NAME} is missing") from error
        try:
            _check_header(file, volume)
            return cls(directory, file, volume, _generation_of(directory, volume, generation))
        except BaseException:
            file.close()
            raise

    def committed(self, generation: int) -> Generation:
        """What a fold has committed, read and not yet in use: after this nothing about it can fail. Damaged: the
        generation on the disk is older than this."""
        return _generation_of(self._directory, self._volume, generation)

    def adopt(self, new: Generation) -> None:
        """From now on this; afterwards the room of pages that are gone is given back, if the disk takes it."""
        old, self._now = self._now, new
        self._committed = new.tags.copy()
        gone = np.flatnonzero((old.tags != 0)[: len(new.tags)] & (new.tags[: len(old.tags)] == 0))
        starts, counts, _ = contiguous(gone.astype(np.uint64))
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            first = FIRST_PAGE + 2 * int(gone[start])
            with suppress(OSError):
                self._file.punch(first * PAGE, 2 * count * PAGE)

    def close(self) -> None:
        """Nobody may be asking any more. What was put and not committed has not happened."""
        self._file.close()

    # Asking

    @property
    def facts(self) -> Facts:
        """What the digests describe."""
        return self._now.facts

    @property
    def volume(self) -> bytes:
        """Whose they are."""
        return self._volume

    @property
    def blocks(self) -> int:
        """Blocks of the image. Behind them everything reads as zero."""
        return self._now.facts.blocks

    def get(self, blocks: U64, nowait: bool) -> U64 | None:
        """The digest of each block, 0 = reads as zeroes. None: pages would have to be waited for (only with
        ``nowait``). Blocks in any order. Damaged: a page is not what was written."""
        held = self._now
        try:
            return self._get(held, blocks, nowait)
        except Damaged:
            if (newer := self._newer(held)) is None:
                raise
            return self._get(newer, blocks, nowait)

    def within(self, start: int, end: int) -> Iterator[tuple[U64, U64]]:
        """(blocks, digests) of the blocks in [start, end) that do not read as zeroes, ascending, in pieces.
        Waits for the disk."""
        held = self._now
        end = min(end, held.facts.blocks)
        if start >= end:
            return
        first, last = start // PER_PAGE, ceil_div(end, PER_PAGE)
        for at in range(first, last, BATCH_PAGES):
            pages, table = self._present(held, at, min(last, at + BATCH_PAGES))
            digests = table[:, 1:].ravel()
            blocks = (pages[:, None] * PER_PAGE + np.arange(PER_PAGE)).ravel()
            chosen = np.flatnonzero((digests != 0) & (blocks >= start) & (blocks < end))
            if len(chosen):
                yield blocks[chosen].astype(np.uint64), digests[chosen]

    def _present(self, held: Generation, first: int, last: int) -> tuple[I64, U64]:
        """Numbers and content of the pages that there are, of those in [first, last)."""
        pages = first + np.flatnonzero(held.tags[first:last])
        try:
            return pages, self._read(held, pages)
        except Damaged:
            if (newer := self._newer(held)) is None:
                raise
            pages = first + np.flatnonzero(newer.tags[first:last])
            return pages, self._read(newer, pages)

    def chunks(self) -> Iterator[tuple[U64, U64]]:
        """``within`` the whole image."""
        return self.within(0, self.blocks)

    def verify(self) -> int:
        """Read every page; returns how many there are. Damaged, naming file and page."""
        _check_header(self._file, self._volume)
        held = _generation_of(self._directory, self._volume, self._now.facts.generation)
        present = np.flatnonzero(held.tags)
        for at in range(0, len(present), BATCH_PAGES):
            self._read(held, present[at : at + BATCH_PAGES])
        return len(present)

    def present(self, first: int, most: int) -> I64:
        """The first ``most`` page numbers, from ``first`` on, of which there is a page."""
        found: I64 = first + np.flatnonzero(self._now.tags[first:])[:most]
        return found

    def places(self, pages: I64) -> tuple[I64, U32]:
        """Of pages that there are: numbers in the file, and what ``image.pages`` says of each."""
        tags = self._now.tags[pages]
        return page_numbers(pages, tags), tags

    # Changing

    def restore(self, page: int, digests: U64) -> bool:
        """Write a page that is not what was written again where it is, durably, if these are its digests, of all
        its blocks within the image; whether they are. Waits for the disk; no fold may be under way."""
        held, table = self._now, blank(1)
        numbers, tags = self.places(np.array([page]))
        table[0, 1 : 1 + len(digests)] = digests
        table[:, 0] = checksums(table, self._seed, numbers)
        if page_tags(table[:, 0], numbers)[0] != tags[0]:
            return False
        self._file.pwritev([table.data.cast("B")], int(numbers[0]) * PAGE)
        self._file.datasync()
        held.cache.drop(np.array([page]))
        return True

    def _get(self, held: Generation, blocks: U64, nowait: bool) -> U64 | None:
        digests = np.zeros(len(blocks), np.uint64)
        pages = (blocks // np.uint64(PER_PAGE)).view(np.int64)
        present = np.flatnonzero(pages < len(held.tags))
        present = present[held.tags[pages[present]] != 0]
        for at in range(0, len(present), LOOK_UP):
            here = present[at : at + LOOK_UP]
            found = self._digests_of(held, pages[here], blocks[here], nowait)
            if found is None:
                return None
            digests[here] = found
        return digests

    def _newer(self, held: Generation) -> Generation | None:
        """A page that seems damaged may only have been overtaken: by a flip while a thread was reading, or
        by a fold that committed, did not come to its flip, and is being done again. A block that has not
        changed since the horizon has the same digest in either generation."""
        if self._now is held:
            newer = _generation_of(self._directory, self._volume, 0)
            if np.array_equal(newer.tags, held.tags):
                return None
            self._now = newer
        return self._now

    def _digests_of(self, held: Generation, pages: I64, blocks: U64, nowait: bool) -> U64 | None:
        place = (blocks % np.uint64(PER_PAGE)).view(np.int64) + 1

        def search(table: U64, rows: I64, items: I64) -> U64:
            return table[rows, place[items]][None, :]

        found = look_up(held.cache, lambda needed: self._load(held, needed, nowait), pages, search)
        return None if found is None else found[0]

    def _load(self, held: Generation, pages: I64, nowait: bool) -> U64 | None:
        """Present pages, checked: each is the very one that the tags speak of."""
        numbers = page_numbers(pages, held.tags[pages])
        table = load_pages(self._file, numbers, nowait)
        if table is None:
            return None
        check_pages(self._file, self._seed, numbers, table)
        other = np.flatnonzero(page_tags(table[:, 0], numbers) != held.tags[pages])
        if len(other):
            raise damaged_page(SUMS_NAME, int(numbers[other[0]]))
        return table

    def _read(self, held: Generation, pages: I64) -> U64:
        table = self._load(held, pages, nowait=False)
        assert table is not None
        return table


def sums_seed(volume: bytes) -> int:
    """The seed of the checksums of this volume's pages."""
    return file_seed(b"image sums", volume)


def page_tags(sums: U64, numbers: I64) -> U32:
    """What ``image.pages`` says of pages with these checksums at these places of the file."""
    tags = sums & np.uint64(TAG_MASK)
    tags[tags == 0] = 1
    return (tags | ((numbers & 1) << PLACE_SHIFT).astype(np.uint64)).astype(np.uint32)


def page_numbers(pages: I64, tags: U32) -> I64:
    """The page numbers in the file of the current places."""
    places: I64 = (tags >> PLACE_SHIFT).astype(np.int64)
    return FIRST_PAGE + 2 * pages + places


def stated_volume(directory: Directory) -> bytes:
    """Which volume the digests in ``directory`` say they are of; zeroes if they can't be read."""
    try:
        with closing(directory.open(SUMS_NAME, write=False)) as file:
            page = load_pages(file, np.zeros(1, np.int64), nowait=False)
            volume = b"" if page is None else page[0, 3:5].tobytes()
            _check_header(file, volume)
            return volume
    except (OSError, Damaged):
        return bytes(16)


def _check_header(file: File, volume: bytes) -> None:
    page = load_pages(file, np.zeros(1, np.int64), nowait=False)
    assert page is not None
    if int(page[0, 1]) != SUMS_MAGIC:
        raise sums_damaged(f"{SUMS_NAME} does not begin as it should")
    if int(page[0, 2]) != FORMAT:
        raise unknown_format(SUMS_NAME, int(page[0, 2]))
    if page[0, 3:5].tobytes() != volume:
        raise sums_damaged(f"{SUMS_NAME} belongs to another volume")
    check_pages(file, sums_seed(volume), np.zeros(1, np.int64), page)


def _generation_of(directory: Directory, volume: bytes, generation: int) -> Generation:
    facts, tags = read_tags(directory, volume, generation)
    return Generation(facts, tags, PageCache())
