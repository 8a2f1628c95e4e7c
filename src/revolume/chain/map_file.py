"""A map file: block → word and digest, sorted, immutable, written once from front to back.

The live map's base, the rungs of the ladder and every moment's point-in-time map are such files: delta maps
(``blocks/delta_map.py``) on disk, from the horizon on, a rung from a later point on. Entries stand in pages by
ascending block; in memory there is only the *fence*, the first block of every page (8 bytes for 170
entries), so a lookup is one binary search in memory and one page. Making one is a merge of sorted streams
and needs no memory for what it merges: a fully written terabyte is 268 million entries.

Pages of 4096 bytes, all numbers 64-bit little endian; number 0 of every page is its checksum (``page_cache.py``),
seeded by volume, meta and, in the header, by the volume alone:

    0            header         1  magic "RVMAPFIL"    2  format 1
                                3  4  volume id        5  write    6  address    7  point (the meta)
                                8  entries    9  data pages    10  ranges    11  range pages    12  fence pages
                               13  what it begins behind: a write, 0 for a map of everything
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

from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.geometry import ceil_div
from revolume.blocks.numbers import Address, WriteNumber
from revolume.blocks.ordering import ascends
from revolume.blocks.ranges import Ranges
from revolume.chain.page_cache import (
    CACHE_PAGES,
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
    """What the map is of: everything up to a write, whose place in the log is the cut's address; of a rung, what
    changed behind the write ``after``."""

    write: WriteNumber
    address: Address
    point: int
    after: WriteNumber = WriteNumber(0)

    def seed(self, volume: bytes) -> int:
        """Pages belong to one map of one volume."""
        numbers = (self.write, self.address, self.point) + ((self.after,) if self.after else ())
        return file_seed(b"map", volume, *(n.to_bytes(8, "little") for n in numbers))


@dataclass(frozen=True, slots=True)
class Written:
    """How far a map file has been written: whole pages of entries. ``last``: the block of the last one, -1 before
    the first; ``fences``: the first block of every page, 8 bytes each."""

    entries: int = 0
    last: int = -1
    fences: bytes = b""

    @property
    def data_pages(self) -> int:
        """Pages of entries."""
        return len(self.fences) // 8


def write_map(
    file: File,
    volume: bytes,
    meta: MapMeta,
    pieces: Iterable[DeltaMap],
    ranges: Ranges | None = None,
    sync: bool = True,
) -> int:
    """Write and sync a map into an empty file; returns its entries. Pieces may be of any length; their blocks
    ascend strictly throughout, their zero ranges are not looked at. The name is the caller's to make durable.
    Without ``sync`` it is for this life of the process alone."""
    written, _ = write_entries(file, volume, meta, pieces, Written(), None)
    finish_map(file, volume, meta, written, ranges or Ranges(), sync)
    return written.entries


def write_entries(
    file: File, volume: bytes, meta: MapMeta, pieces: Iterable[DeltaMap], before: Written, limit: int | None
) -> tuple[Written, bool]:
    """Write the next entries of a map, behind those that are there ``before``, until ``limit`` or somewhat more
    of them have been written; how far it has come, and whether that is all. Nothing is synced."""
    seed, at = meta.seed(volume), before.data_pages
    entries, last, fences, done = 0, before.last, [before.fences], True
    for piece in _whole_pages(pieces):
        table = _columns_table(piece.blocks, piece.locations, piece.digests)
        write_pages(file, seed, 1 + at, table)
        fences.append(piece.blocks[::PER_PAGE].tobytes())
        at, entries, last = at + len(table), entries + len(piece), int(piece.blocks[-1])
        if limit is not None and entries >= limit and len(piece) % PER_PAGE == 0:
            done = False
            break
    return Written(before.entries + entries, last, b"".join(fences)), done


def finish_map(
    file: File, volume: bytes, meta: MapMeta, written: Written, ranges: Ranges, sync: bool = True
) -> None:
    """Write what stands behind the entries, sync it all, then the header."""
    seed, at = meta.seed(volume), 1 + written.data_pages
    range_table = _columns_table(*ranges.arrays())
    fence_table = _fence_table(np.frombuffer(written.fences, np.uint64))
    write_pages(file, seed, at, range_table)
    write_pages(file, seed, at + len(range_table), fence_table)
    if sync:
        file.datasync()
    counts = (written.entries, written.data_pages, len(ranges), len(range_table), len(fence_table))
    write_pages(file, _header_seed(volume), 0, _header_table(volume, meta, counts))
    if sync:
        file.datasync()


class MapFile:
    """An open map file. Its content never changes, so ``get`` may run in a thread beside the event loop."""

    def __init__(self, file: File, meta: MapMeta, seed: int, entries: int, cache_pages: int) -> None:
        """Use ``open``."""
        self.meta = meta
        self._file = file
        self._seed = seed
        self._entries = entries
        self._cache = PageCache(cache_pages)
        self._fences = np.zeros(0, np.uint64)
        self._ranges = Ranges()
        self.damaged = False
        """A page has been met that is not what was written: the map wants to be made anew."""

    @classmethod
    def open(cls, file: File, volume: bytes, cache_pages: int = CACHE_PAGES) -> MapFile:
        """Open a map; ``file`` belongs to the map from now on, and is closed if this fails. ``cache_pages``: kept
        in memory, a power of two. Damaged: it is not a complete map of this volume."""
        try:
            return cls._open(file, volume, cache_pages)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _open(cls, file: File, volume: bytes, cache_pages: int) -> MapFile:
        header = _read_header(file, volume)
        write, address, point, entries, data_pages, ranges, range_pages, fence_pages, after = header
        meta = MapMeta(WriteNumber(write), Address(address), point, WriteNumber(after))
        opened = cls(file, meta, meta.seed(volume), entries, cache_pages)
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
        """Locations and digests (uint64, one for each of ``blocks``, which may be in any order); 0 where the map
        has neither entry nor range. None, only with ``nowait``: pages would have to be read. Damaged: a page is
        not what was written."""
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

    def within(self, start: int, end: int) -> Iterator[DeltaMap]:
        """Entries of the blocks [start, end), ascending, in pieces. Waits for the disk."""
        low, high = np.uint64(start), np.uint64(max(start, end))
        first = max(1, int(self._fences.searchsorted(low, "right")))
        last = 1 + int(self._fences.searchsorted(high, "left"))
        for at in range(first, last, READ_PAGES):
            piece = self._entries_in(at, min(last, at + READ_PAGES))
            begin, stop = piece.blocks.searchsorted(low), piece.blocks.searchsorted(high)
            if begin < stop:
                yield piece.entries(slice(begin, stop))

    def pieces(self) -> Iterator[DeltaMap]:
        """All entries, ascending, in pieces. Waits for the disk."""
        pages = 1 + len(self._fences)
        for at in range(1, pages, READ_PAGES):
            yield self._entries_in(at, min(pages, at + READ_PAGES))

    def verify(self) -> int:
        """Read and verify the whole map; returns the number of entries. Damaged: naming file and page."""
        entries, last = 0, -1
        for piece in self.pieces():
            blocks = piece.blocks
            if int(blocks[0]) <= last or not ascends(blocks) or not piece.locations.all():
                raise self._damaged("entries are out of order")
            entries, last = entries + len(blocks), int(blocks[-1])
        if entries != self._entries:
            raise self._damaged(f"{entries} entries where the header says {self._entries}")
        return entries

    def close(self) -> None:
        """Close the file. No other call may be running."""
        self._file.close()

    def _damaged(self, why: str) -> Damaged:
        return Damaged("map-damaged", f"{self._file.name}: {why}.", "The map is rebuilt from the log.")

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

    def _entries_in(self, first: int, last: int) -> DeltaMap:
        table = self._read(first, last)
        used = min(self._entries - (first - 1) * PER_PAGE, (last - first) * PER_PAGE)
        blocks, locations, digests = (table[:, part].ravel()[:used] for part in (BLOCKS, WORDS, DIGESTS))
        return DeltaMap(blocks, locations, digests)

    def _entries_of(self, numbers: I64, blocks: U64, nowait: bool) -> U64 | None:
        def search(table: U64, rows: I64, items: I64) -> U64:
            return _search(table, rows, blocks[items])

        return look_up(self._cache, lambda needed: self._load(needed, nowait), numbers, search)


def _search(table: U64, rows: I64, blocks: U64) -> U64:
    """Word and digest of each block in its page."""
    first = rows[0]
    if (rows == first).all():  # neighbours mostly, and many of them where the map has little
        used = table[first, BLOCKS][: int(table[first, 1])]
        at = np.minimum(used.searchsorted(blocks), len(used) - 1)
    else:
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


def _whole_pages(pieces: Iterable[DeltaMap]) -> Iterator[DeltaMap]:
    """The same entries in pieces of whole pages, the last one excepted."""
    held: list[DeltaMap] = []
    count, last, unit = 0, -1, WRITE_PAGES * PER_PAGE
    for piece in pieces:
        blocks = piece.blocks
        if not len(blocks):
            continue
        assert int(blocks[0]) > last and ascends(blocks), "blocks ascend"
        last = int(blocks[-1])
        held.append(piece)
        count += len(blocks)
        if count >= unit:
            joined = DeltaMap.joined(held)
            whole = count - count % unit
            for at in range(0, whole, unit):
                yield joined.entries(slice(at, at + unit))
            held, count = [joined.entries(slice(whole, count))], count - whole
    if count:
        yield DeltaMap.joined(held)


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
    table[0, 5:14] = meta.write, meta.address, meta.point, *counts, meta.after
    return table


def _read_header(file: File, volume: bytes) -> list[int]:
    """Meta and counts. Damaged: not a whole map of this volume in a format known here."""
    page = blank(1)
    whole = file.preadv([page.data.cast("B")], 0) == PAGE
    if not whole or int(page[0, 1]) != MAGIC:
        raise Damaged("map-damaged", f"{file.name} is not a whole map file.", "It is rebuilt from the log.")
    if int(page[0, 2]) != FORMAT:
        raise Damaged(
            "map-format", f"{file.name} has format {int(page[0, 2])}; this program knows {FORMAT}.",
            "Use a newer program, or remove the file: it is rebuilt from the log.",
        )  # fmt: skip
    if page[0, 3:5].tobytes() != volume:
        raise Damaged("map-foreign", f"{file.name} belongs to another volume.", "Remove it.")
    check_pages(file, _header_seed(volume), np.zeros(1, np.int64), page)
    numbers = [int(number) for number in page[0, 5:14]]
    pages = 1 + numbers[4] + numbers[6] + numbers[7]
    if file.size() < pages * PAGE:
        raise Damaged("map-damaged", f"{file.name} ends too early.", "It is rebuilt from the log.")
    return numbers
