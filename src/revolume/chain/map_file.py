"""A map file: block → word and digest, sorted, immutable, written once from front to back.

The live map's base and every moment's point-in-time map are such files. Entries stand in pages by
ascending block; in memory there is only the *fence*, the first block of every page (8 bytes for 170
entries), so a lookup is one binary search in memory and one page. Making one is a merge of sorted streams
and needs no memory for what it merges: a fully written terabyte is 268 million entries.

Pages of 4096 bytes, all numbers 64-bit little endian; number 0 of every page is its checksum (``pages.py``),
seeded by volume, meta and, in the header, by the volume alone:

    0            header         1  magic "RVMAPFIL"    2  format 1
                                3  4  volume id        5  write    6  address    7  point (the meta)
                                8  entries    9  data pages    10  ranges    11  range pages    12  fence pages
    1 …          data pages     1  entries in the page    2… 170 blocks    172… 170 words    342… 170 digests
    then         range pages    1  ranges in the page     2… 170 starts    172… 170 ends     342… 170 words
    then         fence pages    1  fences in the page     2… 510 first blocks, one of each data page

What is not used in a page is zero. The header is written last, when all the rest is on the disk: a file
with a good header is whole. Nothing else marks the end, the counts say where it is.

An entry wins over a range of the same file, whatever their addresses: whoever writes a map leaves out the
entries that a newer range covers. (Addresses do not tell: a consistency point carries blocks as of its cut,
and lies behind writes that are newer.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import ceil_div
from revolume.blocks.ranges import Ranges
from revolume.chain.pages import (
    NUMBERS,
    PAGE,
    PageCache,
    blank,
    check_pages,
    file_seed,
    load_pages,
    look_up,
    write_pages,
)
from revolume.errors import Damaged
from revolume.host.disk import File

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Chunk = tuple[U64, U64, U64]
"""(blocks, words, digests), blocks strictly ascending"""

MAGIC = int.from_bytes(b"RVMAPFIL", "little")
FORMAT = 1
PER_PAGE = 170
FENCES_PER_PAGE = 510
BLOCKS, WORDS, DIGESTS = (slice(2 + at * PER_PAGE, 2 + (at + 1) * PER_PAGE) for at in range(3))
WRITE_PAGES = 256
READ_PAGES = 256
LOOK_UP = 2048

assert DIGESTS.stop == NUMBERS
assert FENCES_PER_PAGE == NUMBERS - 2


@dataclass(frozen=True, slots=True)
class MapMeta:
    """What the map is of: everything up to a write, whose place in the log is the cut's address."""

    write: int
    address: int
    point: int

    def seed(self, volume: bytes) -> int:
        """Pages belong to one map of one volume."""
        return file_seed(
            b"map", volume, *(n.to_bytes(8, "little") for n in (self.write, self.address, self.point))
        )


def write_map(
    file: File, volume: bytes, meta: MapMeta, chunks: Iterable[Chunk], ranges: Ranges | None = None
) -> int:
    """Write and sync a map into an empty file; returns its entries. Chunks may be of any length; their
    blocks ascend strictly throughout. The name is the caller's to make durable."""
    ranges = ranges or Ranges()
    seed = meta.seed(volume)
    entries, fences = 0, [np.zeros(0, np.uint64)]
    data_pages = 0
    for chunk in _whole_pages(chunks):
        table = _columns_table(*chunk)
        write_pages(file, seed, 1 + data_pages, table)
        fences.append(chunk[0][::PER_PAGE].copy())
        data_pages += len(table)
        entries += len(chunk[0])
    range_table = _columns_table(*ranges.arrays())
    fence_table = _fence_table(np.concatenate(fences))
    write_pages(file, seed, 1 + data_pages, range_table)
    write_pages(file, seed, 1 + data_pages + len(range_table), fence_table)
    file.datasync()
    counts = (entries, data_pages, len(ranges), len(range_table), len(fence_table))
    write_pages(file, _header_seed(volume), 0, _header_table(volume, meta, counts))
    file.datasync()
    return entries


class MapFile:
    """An open map file. ``get`` may run in a thread beside the loop; nothing ever changes the file."""

    def __init__(self, file: File, meta: MapMeta, seed: int, entries: int) -> None:
        """Use ``open``."""
        self.meta = meta
        self._file = file
        self._seed = seed
        self._entries = entries
        self._cache = PageCache()
        self._fences = np.zeros(0, np.uint64)
        self._ranges = Ranges()
        self.damaged = False
        """A page has been met that is not what was written: the map wants to be made anew."""

    @classmethod
    def open(cls, file: File, volume: bytes) -> MapFile:
        """Takes the file over. Damaged: it is not a whole map of this volume."""
        try:
            return cls._open(file, volume)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _open(cls, file: File, volume: bytes) -> MapFile:
        header = _read_header(file, volume)
        write, address, point, entries, data_pages, ranges, range_pages, fence_pages = header
        meta = MapMeta(write, address, point)
        opened = cls(file, meta, meta.seed(volume), entries)
        first = 1 + data_pages
        table = opened._read(first, first + range_pages)
        opened._ranges = Ranges(*(table[:, part].ravel()[:ranges].copy() for part in (BLOCKS, WORDS, DIGESTS)))
        fences = opened._read(first + range_pages, first + range_pages + fence_pages)
        opened._fences = fences[:, 2:].ravel()[:data_pages].copy()
        return opened

    def __len__(self) -> int:
        """Entries, ranges not counted."""
        return self._entries

    def ranges(self) -> Ranges:
        """The ranges, all of them in memory."""
        return self._ranges

    def get(self, blocks: U64, nowait: bool) -> tuple[U64, U64] | None:
        """Words and digests; word 0 (digest 0) where the map knows nothing. None: pages would have to be
        waited for (only with ``nowait``). Blocks in any order. Damaged: a page is not what was written."""
        found = np.zeros((2, len(blocks)), np.uint64)
        numbers = self._fences.searchsorted(blocks, "right")
        inside = np.flatnonzero(numbers)
        for at in range(0, len(inside), LOOK_UP):
            here = inside[at : at + LOOK_UP]
            values = self._entries_of(numbers[here], blocks[here], nowait)
            if values is None:
                return None
            found[:, here] = values
        words, digests = found
        if len(self._ranges):
            words = np.where(words == 0, self._ranges.get(blocks), words)
        return words, digests

    def within(self, start: int, end: int) -> Iterator[Chunk]:
        """Entries of the blocks [start, end), ascending, in pieces. Waits for the disk."""
        low, high = np.uint64(start), np.uint64(max(start, end))
        first = max(1, int(self._fences.searchsorted(low, "right")))
        last = 1 + int(self._fences.searchsorted(high, "left"))
        for at in range(first, last, READ_PAGES):
            blocks, words, digests = self._entries_in(at, min(last, at + READ_PAGES))
            begin, stop = blocks.searchsorted(low), blocks.searchsorted(high)
            if begin < stop:
                yield blocks[begin:stop], words[begin:stop], digests[begin:stop]

    def chunks(self) -> Iterator[Chunk]:
        """All entries, ascending, in pieces. Waits for the disk."""
        pages = 1 + len(self._fences)
        for at in range(1, pages, READ_PAGES):
            yield self._entries_in(at, min(pages, at + READ_PAGES))

    def verify(self) -> int:
        """Read it all; returns the entries. Damaged, naming file and page."""
        entries, last = 0, -1
        for blocks, words, _ in self.chunks():
            if int(blocks[0]) <= last or not (blocks[1:] > blocks[:-1]).all() or not words.all():
                raise self._damaged("entries are out of order")
            entries, last = entries + len(blocks), int(blocks[-1])
        if entries != self._entries:
            raise self._damaged(f"{entries} entries where the header says {self._entries}")
        return entries

    def close(self) -> None:
        """Nobody may be asking any more."""
        self._file.close()

    def _damaged(self, why: str) -> Damaged:
        return Damaged("map-damaged", f"{self._file.name}: {why}.", "The map is made anew from the log.")

    def _load(self, numbers: I64, nowait: bool) -> U64 | None:
        table = load_pages(self._file, numbers, nowait)
        if table is not None:
            try:
                check_pages(self._file, self._seed, numbers, table)
            except Damaged:
                self.damaged = True
                raise
        return table

    def _read(self, first: int, last: int) -> U64:
        table = self._load(np.arange(first, last), nowait=False)
        assert table is not None
        return table

    def _entries_in(self, first: int, last: int) -> Chunk:
        table = self._read(first, last)
        used = min(self._entries - (first - 1) * PER_PAGE, (last - first) * PER_PAGE)
        blocks, words, digests = (table[:, part].ravel()[:used] for part in (BLOCKS, WORDS, DIGESTS))
        return blocks, words, digests

    def _entries_of(self, numbers: I64, blocks: U64, nowait: bool) -> U64 | None:
        def search(table: U64, rows: I64, items: I64) -> U64:
            return _search(table, rows, blocks[items])

        return look_up(self._cache, lambda needed: self._load(needed, nowait), numbers, search)


def merge(newer: Iterable[Chunk], older: Iterable[Chunk]) -> Iterator[Chunk]:
    """Two sorted sources as one; where both know a block, the newer source's entry stands."""
    above, below = _Source(newer), _Source(older)
    while above.more() and below.more():
        end = min(above.last, below.last)
        yield _merged(above.upto(end), below.upto(end))
    for rest in (above, below):
        while rest.more():
            yield rest.upto(rest.last)


class _Source:
    """Sorted chunks, taken up to a block."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = iter(chunks)
        self._held: Chunk | None = None

    def more(self) -> bool:
        while self._held is None or not len(self._held[0]):
            self._held = next(self._chunks, None)
            if self._held is None:
                return False
        return True

    @property
    def last(self) -> int:
        assert self._held is not None
        return int(self._held[0][-1])

    def upto(self, block: int) -> Chunk:
        assert self._held is not None
        blocks, words, digests = self._held
        at = int(blocks.searchsorted(np.uint64(block), "right"))
        self._held = blocks[at:], words[at:], digests[at:]
        return blocks[:at], words[:at], digests[:at]


def _merged(above: Chunk, below: Chunk) -> Chunk:
    blocks, words, digests = (np.concatenate(pair) for pair in zip(below, above, strict=True))
    order = blocks.argsort(kind="stable")  # older before newer
    ordered = blocks[order]
    stands = np.ones(len(order), bool)
    stands[:-1] = ordered[1:] != ordered[:-1]
    order = order[stands]
    return blocks[order], words[order], digests[order]


def _search(table: U64, rows: I64, blocks: U64) -> U64:
    """Word and digest of each block in its page."""
    at = (table[rows, BLOCKS] == blocks[:, None]).argmax(axis=1)
    at += rows * NUMBERS + 2
    flat = table.ravel()
    found = np.empty((2, len(blocks)), np.uint64)
    found[0] = flat.take(at + PER_PAGE)
    found[1] = flat.take(at + 2 * PER_PAGE)
    absent = (flat.take(at) != blocks).nonzero()[0]
    if len(absent):
        found[:, absent] = 0
    return found


def _whole_pages(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The same entries in pieces of whole pages, the last one excepted."""
    held: list[Chunk] = []
    count, last, unit = 0, -1, WRITE_PAGES * PER_PAGE
    for chunk in chunks:
        blocks = chunk[0]
        if not len(blocks):
            continue
        assert int(blocks[0]) > last and (blocks[1:] > blocks[:-1]).all(), "blocks ascend"
        last = int(blocks[-1])
        held.append(chunk)
        count += len(blocks)
        if count >= unit:
            joined = _joined(held)
            whole = count - count % unit
            for at in range(0, whole, unit):
                yield _cut(joined, at, at + unit)
            held, count = [_cut(joined, whole, count)], count - whole
    if count:
        yield _joined(held)


def _joined(held: list[Chunk]) -> Chunk:
    blocks, words, digests = (np.concatenate(column) for column in zip(*held, strict=True))
    return blocks, words, digests


def _cut(chunk: Chunk, begin: int, end: int) -> Chunk:
    blocks, words, digests = chunk
    return blocks[begin:end], words[begin:end], digests[begin:end]


def _columns_table(*columns: U64) -> U64:
    """Three columns as pages, each with its count."""
    count = len(columns[0])
    table = blank(ceil_div(count, PER_PAGE))
    table[:, 1] = PER_PAGE
    if count % PER_PAGE:
        table[-1, 1] = count % PER_PAGE
    for part, column in zip((BLOCKS, WORDS, DIGESTS), columns, strict=True):
        padded = np.zeros(len(table) * PER_PAGE, np.uint64)
        padded[:count] = column
        table[:, part] = padded.reshape(-1, PER_PAGE)
    return table


def _fence_table(fences: U64) -> U64:
    table = blank(ceil_div(len(fences), FENCES_PER_PAGE))
    table[:, 1] = FENCES_PER_PAGE
    if len(fences) % FENCES_PER_PAGE:
        table[-1, 1] = len(fences) % FENCES_PER_PAGE
    padded = np.zeros(len(table) * FENCES_PER_PAGE, np.uint64)
    padded[: len(fences)] = fences
    table[:, 2:] = padded.reshape(-1, FENCES_PER_PAGE)
    return table


def _header_seed(volume: bytes) -> int:
    return file_seed(b"map header", volume)


def _header_table(volume: bytes, meta: MapMeta, counts: tuple[int, ...]) -> U64:
    assert len(volume) == 16
    table = blank(1)
    table[0, 1:3] = MAGIC, FORMAT
    table[0, 3:5] = np.frombuffer(volume, "<u8")
    table[0, 5:13] = meta.write, meta.address, meta.point, *counts
    return table


def _read_header(file: File, volume: bytes) -> list[int]:
    """Meta and counts. Damaged: not a whole map of this volume in a format known here."""
    page = blank(1)
    whole = file.preadv([page.data.cast("B")], 0) == PAGE
    if not whole or int(page[0, 1]) != MAGIC:
        raise Damaged("map-damaged", f"{file.name} is not a whole map file.", "It is made anew from the log.")
    if int(page[0, 2]) != FORMAT:
        raise Damaged(
            "map-format", f"{file.name} has format {int(page[0, 2])}; this program knows {FORMAT}.",
            "Use a newer program, or remove the file: it is made anew from the log.",
        )  # fmt: skip
    if page[0, 3:5].tobytes() != volume:
        raise Damaged("map-foreign", f"{file.name} belongs to another volume.", "Remove it.")
    check_pages(file, _header_seed(volume), np.zeros(1, np.int64), page)
    numbers = [int(number) for number in page[0, 5:13]]
    pages = 1 + numbers[4] + numbers[6] + numbers[7]
    if file.size() < pages * PAGE:
        raise Damaged("map-damaged", f"{file.name} ends too early.", "It is made anew from the log.")
    return numbers
