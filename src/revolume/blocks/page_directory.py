"""The directory of a hash table that lies in pages: which bucket a key belongs to, and how pages are divided.

Extendible hashing. The hash's upper bits choose a slot of the directory, the slot names a page; each page owns a
run of neighbouring slots. A page that is divided gives the upper half of its run to a new one, so growth moves one
page's entries at a time. Where a run has become too short to be halved the directory is made twice as fine.

*Uneven first runs.* Equal pages would all fill, and divide, at the same time: the table would swing between half
empty and full, and so would its memory. The first eight pages own runs that grow from one to two by equal factors,
so that at any time some pages have just been divided and some are about to be.

What would break it: keys chosen so that all fall into one page. The hash is seeded by the caller for that reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

FIRST_RUNS = (94, 102, 112, 122, 133, 145, 158, 158)
"""How the directory's 1024 first slots are shared out: each about 2^(1/8) times the one before."""
FIRST_BITS = 10
BITS_MAX = 22
SPAN_MIN = 8
"""A run shorter than this can't be halved fairly."""

assert sum(FIRST_RUNS) == 1 << FIRST_BITS

_BUCKET_BITS = np.array(24, np.uint64)
_MIX_NUMBER, _STIR_NUMBER, _MOD = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, (1 << 64) - 1
_FOLD = np.array(32, np.uint64)
_MIX = np.array(_MIX_NUMBER, np.uint64)
_STIR = np.array(_STIR_NUMBER, np.uint64)


class PageDirectory:
    """At most ``pages_max`` pages of ``page_buckets`` buckets each, a power of two; ``pages`` are in use. Buckets
    are numbered through: those of page p from p · ``page_buckets`` on."""

    def __init__(self, pages_max: int, page_buckets: int, seed: int) -> None:
        self.pages = len(FIRST_RUNS)
        self._pages_max = pages_max
        self._page_shift = page_buckets.bit_length() - 1
        self._in_page = page_buckets - 1
        self._page_mask = np.array(self._in_page, np.uint64)
        self._seed_number = seed & _MOD
        self._seed = np.array(self._seed_number, np.uint64)
        self._run = np.zeros(pages_max, np.int64)
        self._span = np.zeros(pages_max, np.int64)
        self._span[: self.pages] = FIRST_RUNS
        self._run[1 : self.pages] = np.cumsum(FIRST_RUNS)[:-1]
        first_buckets = np.arange(self.pages, dtype=np.int64) << self._page_shift
        self._slots = np.repeat(first_buckets, FIRST_RUNS)  # each holds the number of its page's first bucket
        self._bits = FIRST_BITS
        self._shift = np.array(64 - self._bits, np.uint64)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self._slots.nbytes + self._run.nbytes + self._span.nbytes

    def buckets_of(self, keys: U64) -> I64:
        """The home bucket of every key: the page by the hash's upper bits, the bucket in it by middle ones."""
        mixed = keys ^ self._seed
        mixed *= _MIX
        mixed ^= mixed >> _FOLD
        mixed *= _STIR
        buckets = self._slots.take((mixed >> self._shift).view(np.int64))
        mixed >>= _BUCKET_BITS
        mixed &= self._page_mask
        buckets += mixed.view(np.int64)
        return buckets

    def bucket_of(self, key: int) -> int:
        """The home bucket of one key, reckoned in plain numbers: an array for one costs more."""
        mixed = (key ^ self._seed_number) * _MIX_NUMBER & _MOD
        mixed = (mixed ^ mixed >> 32) * _STIR_NUMBER & _MOD
        first: int = self._slots.item(mixed >> (64 - self._bits))
        return first + (mixed >> 24 & self._in_page)

    def walk(self) -> Iterator[int]:
        """Every page once, in the hash's order. Pages may be divided meanwhile: keys that were there before are
        met exactly once, with the page that they belong to when the walk comes to it."""
        at = 0  # on the scale of the finest possible directory
        while at < 1 << BITS_MAX:
            coarse = BITS_MAX - self._bits
            page = int(self._slots[at >> coarse]) >> self._page_shift
            at = int(self._run[page] + self._span[page]) << coarse
            yield page

    def divide(self, page: int) -> int | None:
        """Give the upper half of the page's run to a new page, and return that; None: there is none left. Some of
        the page's keys belong to the new one from now on."""
        if self.pages == self._pages_max or not self._refine(page):
            return None
        begin, span = int(self._run[page]), int(self._span[page])
        middle = begin + span // 2
        upper, self.pages = self.pages, self.pages + 1
        self._slots[middle : begin + span] = upper << self._page_shift
        self._span[page] = middle - begin
        self._run[upper], self._span[upper] = middle, begin + span - middle
        return upper

    def _refine(self, page: int) -> bool:
        """Make the directory finer until the page's run can be halved fairly; whether it can be halved at all."""
        while self._span[page] < SPAN_MIN and self._bits < BITS_MAX:
            self._slots = np.repeat(self._slots, 2)
            self._bits += 1
            self._shift = np.array(64 - self._bits, np.uint64)
            self._run *= 2
            self._span *= 2
        return bool(self._span[page] > 1)
