"""Checksummed 4 KiB pages of a file, and a small cache of them: what map files and image sums share.

A page is 512 little-endian 64-bit numbers; the first is its checksum, XXH3-64 of the other 4088 bytes,
seeded by the file (which covers the volume) and the page's number. So a flipped bit, a page of another
volume, another file or another place, and a page never written are all told from the right one.

A lookup goes through many pages at once: ``look_up`` takes the page number of every item, and a function
that picks the items' values out of a table of pages. It runs once over the cache and once over what had to
be loaded. The loop and a thread may look up at the same time: a cache row is marked empty before it is
overwritten and stamped anew, and whoever read from it asks afterwards whether it still is what it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from revolume.blocks.reserved import reserved
from revolume.errors import Damaged
from revolume.host.disk import File

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Search = Callable[[U64, I64, I64], U64]
"""(table of pages, row of every item, the items' indexes) → values, one row a column."""

PAGE = 4096
NUMBERS = PAGE // 8
CACHE_PAGES = 1024
SPARSE_MIN = 4

_ODD = 0x9E3779B97F4A7C15
_MOD = (1 << 64) - 1


def file_seed(*parts: bytes) -> int:
    """The seed that ties pages to one file of one volume."""
    return xxh3_64_intdigest(b"".join(parts))


def page_seed(seed: int, number: int) -> int:
    """The seed of one page."""
    return (seed + (number + 1) * _ODD) & _MOD


def checksums(table: U64, seed: int, numbers: I64) -> U64:
    """The checksum that each of these pages should have."""
    if not len(table):
        return np.zeros(0, np.uint64)
    view = table.data.cast("B")
    found = [
        xxh3_64_intdigest(view[row * PAGE + 8 : (row + 1) * PAGE], page_seed(seed, number))
        for row, number in enumerate(numbers.tolist())
    ]
    return np.array(found, np.uint64)


def blank(count: int) -> U64:
    """So many pages of zeroes."""
    return np.zeros((count, NUMBERS), np.uint64)


def write_pages(file: File, seed: int, first: int, table: U64) -> None:
    """Seal pages and write them from page ``first`` on."""
    if not len(table):
        return
    table[:, 0] = checksums(table, seed, np.arange(first, first + len(table)))
    file.pwritev([table.data.cast("B")], first * PAGE)


def load_pages(file: File, numbers: I64, nowait: bool) -> U64 | None:
    """Pages by ascending number, unchecked; zeroes behind the file's end. None: it would have to wait."""
    if len(numbers) > SPARSE_MIN and numbers[-1] - numbers[0] < 3 * len(numbers):
        return _load_span(file, numbers, nowait)
    table = blank(len(numbers))
    if not len(table):
        return table
    view = table.data.cast("B")
    read = file.preadv_nowait if nowait else file.preadv
    order, row = numbers.tolist(), 0
    while row < len(order):
        end = row + 1
        while end < len(order) and order[end] - order[row] == end - row:
            end += 1
        if not read([view[row * PAGE : end * PAGE]], order[row] * PAGE) and nowait:
            return None
        row = end
    return table


def _load_span(file: File, numbers: I64, nowait: bool) -> U64 | None:
    """Pages that lie close together, with what lies between: one call instead of many."""
    first = int(numbers[0])
    table = blank(int(numbers[-1]) - first + 1)
    read = file.preadv_nowait if nowait else file.preadv
    if not read([table.data.cast("B")], first * PAGE) and nowait:
        return None
    return table if len(table) == len(numbers) else table[numbers - first]


def check_pages(file: File, seed: int, numbers: I64, table: U64) -> None:
    """Damaged, naming the file and the first page that is not what was written."""
    wrong = np.flatnonzero(table[:, 0] != checksums(table, seed, numbers))
    if len(wrong):
        raise damaged_page(file.name, int(numbers[wrong[0]]))


def damaged_page(name: str, number: int) -> Damaged:
    """The error for one page."""
    return Damaged(
        "page-damaged",
        f"Page {number} of {name} is not what was written there.",
        "Run 'revolume check' for the whole extent.",
    )


class PageCache:
    """Pages by number, each at its one possible place (so that finding many costs two calls)."""

    def __init__(self, pages: int = CACHE_PAGES) -> None:
        assert pages & (pages - 1) == 0
        self.table = reserved(pages * NUMBERS).reshape(pages, NUMBERS)
        self._numbers = np.full(pages, -1)
        self._stamps = np.zeros(pages, np.int64)  # which call of add filled the row
        self._stamp = 0
        self._mask = pages - 1
        self._adding = threading.Lock()

    def rows(self, numbers: I64) -> I64:
        """The row where each page is, if it is there."""
        return numbers & self._mask

    def stamps(self, numbers: I64) -> I64:
        """To be asked for before ``holds``: while a page's stamp stays the same, so does its row."""
        return self._stamps.take(numbers & self._mask)

    def holds(self, numbers: I64) -> npt.NDArray[np.bool_]:
        """Which pages are there."""
        found: npt.NDArray[np.bool_] = self._numbers.take(numbers & self._mask) == numbers
        return found

    def add(self, numbers: I64, table: U64) -> None:
        """Keep these pages, until others want their places."""
        rows = numbers & self._mask
        with self._adding:
            self._stamp += 1
            self._numbers[rows] = -1
            self._stamps[rows] = self._stamp
            self.table[rows] = table
            self._numbers[rows] = numbers

    def drop(self, numbers: I64) -> None:
        """These pages are no longer what they were."""
        with self._adding:
            self._numbers[numbers & self._mask] = -1


def look_up(cache: PageCache, load: Callable[[I64], U64 | None], numbers: I64, search: Search) -> U64 | None:
    """The values of items, each in the page with its number. None: ``load`` (checked pages) said None."""
    everything = np.arange(len(numbers))
    stamps = cache.stamps(numbers)
    there = cache.holds(numbers)
    if there.any():
        values = search(cache.table, cache.rows(numbers), everything)
        there &= cache.holds(numbers) & (cache.stamps(numbers) == stamps)
        if there.all():
            return values
    missing = np.flatnonzero(~there)
    needed, rows = np.unique(numbers[missing], return_inverse=True)
    table = load(needed)
    if table is None:
        return None
    loaded = search(table, rows, missing)
    cache.add(needed, table)
    if len(missing) == len(numbers):
        return loaded
    values[:, missing] = loaded
    return values
