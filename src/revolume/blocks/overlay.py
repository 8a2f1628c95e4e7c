"""The in-memory part of the live map: block → word and digest, millions of them, within a fixed arena.

A hash table for whole batches: every step is one numpy call over all blocks asked for, so its cost is the
number of calls, not the number of blocks. What shapes it:

*Buckets of eight.* A bucket's eight keys are one cache line. A lookup fetches one line for each block,
compares all at once, and is done if every block was found (nearly always). Keys are stored plus one, so
that 0, the state of untouched memory, is an empty slot. A bucket fills from the left and loses nothing
singly: a free last slot ends the search, otherwise the next bucket of the same page goes on.

*Pages.* Buckets lie in pages (48 KiB) taken one after the other from an arena that is reserved once and
becomes resident as it is used. ``PageDirectory`` says which page a key belongs to; a page that gets too full is
divided, so growth never moves more than one page's entries at a time: about a tenth of a millisecond. Pages are
divided at different times, so that the load stays near 0.52 (46 bytes an entry) at every size.

*Forgetting.* Addresses only grow, and what lies below a bound is known elsewhere. ``forget_below`` only
notes the bound; entries below it go when their page is next rebuilt: when it is full, or in ``sweep``.

Not safe for threads: the loop owns it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK
from revolume.blocks.numbers import Address
from revolume.blocks.ordering import last_of_each
from revolume.blocks.page_directory import FIRST_RUNS, PageDirectory
from revolume.blocks.reserved import reserved

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Entries = tuple[U64, U64, U64]
"""(blocks, words, digests)"""

SLOTS = 8
PAGE_BUCKETS = 256
ENTRY_BYTES = 24
LOAD_MAX = 0.72
"""A page fuller than this is divided, if there is a page left."""
LOAD_FULL = 0.95
"""And without one, this is the end."""
LOAD_SURE = 0.50
"""What ``room`` promises, however the entries happen to fall."""
BATCH = 8192

_ONE = np.array(1, np.uint64)
_AHEAD = np.arange(1, 5)
_MASK = np.array(ADDRESS_MASK, np.uint64)
_IN_BUCKET = np.array(SLOTS - 1, np.int64)
_BUCKET_SHIFT = np.array(3, np.int64)


class OverlayFull(Exception):
    """More entries were put than ``room`` promised."""


def bytes_for(entries: int) -> int:
    """The capacity in which so many entries surely fit."""
    page = PAGE_BUCKETS * SLOTS
    return -(-entries // int(page * LOAD_SURE)) * page * ENTRY_BYTES


class Overlay:
    """Block → location and digest, of at most ``capacity_bytes``. Asked and changed in batches: uint64 columns, in
    any order. ``seed`` keeps clients from choosing blocks that fall together; ``page_buckets``: a power of two,
    small in tests so that pages divide early."""

    def __init__(self, capacity_bytes: int, seed: int = 0, page_buckets: int = PAGE_BUCKETS) -> None:
        assert page_buckets & (page_buckets - 1) == 0
        self._page_slots = page_buckets * SLOTS
        self._pages_max = max(2 * len(FIRST_RUNS), capacity_bytes // (self._page_slots * ENTRY_BYTES))
        slots = (self._pages_max * page_buckets + 1) * SLOTS  # the last bucket stays empty: "absent"
        self._keys = reserved(slots)
        self._lines = self._keys.reshape(-1, SLOTS)
        self._words = reserved(slots)
        self._digests = reserved(slots)
        self._fills = np.zeros(slots // SLOTS, np.uint8)  # used slots of each bucket
        self._absent = slots - SLOTS
        self._page_buckets = page_buckets
        self._page_shift = page_buckets.bit_length() - 1
        self._directory = PageDirectory(self._pages_max, page_buckets, seed)
        self._buckets_of = self._directory.buckets_of
        self._bucket_of = self._directory.bucket_of
        self._counts = np.zeros(self._pages_max, np.int64)  # entries of each page
        self._floor = 0
        self._len = 0
        self._swept = 0

    # What it holds and may hold

    def __len__(self) -> int:
        """Entries, those included that may be forgotten but have not been yet."""
        return self._len

    def room(self) -> int:
        """How many more entries surely fit."""
        return max(0, int(self._pages_max * self._page_slots * LOAD_SURE) - self._len)

    @property
    def pressure(self) -> float:
        """0 empty … 1 no room left."""
        return min(1.0, self._len / (self._pages_max * self._page_slots * LOAD_SURE))

    @property
    def used_bytes(self) -> int:
        """Resident memory, as far as it is ours to know."""
        pages = self._directory.pages * self._page_slots * ENTRY_BYTES
        return pages + self._directory.nbytes + self._counts.nbytes

    # Asking

    def get(self, blocks: U64) -> tuple[U64, U64]:
        """Words and digests; word 0 (and digest 0) where a block is not known here."""
        if len(blocks) == 1 and (found := self._get_one(int(blocks[0]))) is not None:
            return found
        keys = blocks + _ONE
        slots = self._locate(keys, self._buckets_of(keys))
        return self._words.take(slots), self._digests.take(slots)

    def _get_one(self, block: int) -> tuple[U64, U64] | None:
        """``get`` of a single block in plain numbers, a third of the time; None: not settled in its home
        bucket."""
        key = block + 1
        bucket = self._bucket_of(key)
        line = self._lines[bucket].tolist()
        if key in line:
            slot = bucket * SLOTS + line.index(key)
            return self._words[slot : slot + 1].copy(), self._digests[slot : slot + 1].copy()
        return None if line[-1] else (np.zeros(1, np.uint64), np.zeros(1, np.uint64))

    def within(self, start: int, end: int) -> Iterator[Entries]:
        """Everything known about the blocks [start, end), in no order, in bounded pieces."""
        if end - start <= max(BATCH, 2 * self._len):  # cheaper to ask than to walk
            for first in range(start, end, BATCH):
                blocks = np.arange(first, min(end, first + BATCH), dtype=np.uint64)
                words, digests = self.get(blocks)
                known = np.flatnonzero(words)
                if len(known):
                    yield blocks[known], words[known], digests[known]
            return
        low, high = np.uint64(start), np.uint64(end)
        for blocks, words, digests in self.chunks():
            inside = np.flatnonzero((blocks >= low) & (blocks < high))
            if len(inside):
                yield blocks[inside], words[inside], digests[inside]

    def chunks(self) -> Iterator[Entries]:
        """Everything, page by page in the hash's order; the arrays are copies.

        The table may be changed between two pieces: what was put before the start and is not forgotten is
        met exactly once, as it stands when its page is reached.
        """
        for page in self._directory.walk():
            keys, words, digests = self._page_entries(page)
            if len(keys):
                yield keys - _ONE, words, digests

    # Changing

    def put(self, blocks: U64, words: U64, digests: U64) -> None:
        """Blocks get these words and digests; of a repeated block the last counts. Words are not 0.

        OverlayFull: more than ``room``; then a part has been taken in.
        """
        for first in range(0, len(blocks), BATCH):
            piece = slice(first, first + BATCH)
            self._put(blocks[piece] + _ONE, words[piece], digests[piece])

    def forget_below(self, address: Address) -> None:
        """Entries whose word's address lies below may go from now on, whenever it is convenient."""
        self._floor = max(self._floor, address)

    def sweep(self, pages: int) -> int:
        """Drop what may be forgotten from the next few pages, in turn; returns how many entries went."""
        before = self._len
        for _ in range(min(pages, self._directory.pages)):
            self._swept = (self._swept + 1) % self._directory.pages
            self._drop_forgotten(self._swept)
        return before - self._len

    # Where a key lies

    def _next(self, buckets: I64) -> I64:
        """The bucket behind each, within its page."""
        mask = self._page_buckets - 1
        return (buckets & ~mask) | ((buckets + 1) & mask)

    def _following(self, buckets: I64) -> I64:
        """The next few behind each: looked through together, because rounds cost more than lines."""
        mask = self._page_buckets - 1
        return (buckets & ~mask)[:, None] | ((buckets[:, None] + _AHEAD) & mask)

    def _locate(self, keys: U64, buckets: I64) -> I64:
        """The slot of every key, or the absent slot."""
        lines = self._lines.take(buckets, axis=0)
        hits = (lines == keys[:, None]).ravel().nonzero()[0]
        if len(hits) == len(keys):
            buckets <<= _BUCKET_SHIFT
            hits &= _IN_BUCKET
            buckets |= hits
            return buckets
        return self._locate_on(keys, buckets, lines, hits)

    def _locate_on(self, keys: U64, buckets: I64, lines: U64, hits: I64) -> I64:
        """The rest of ``_locate``: those not in their home bucket, if that is full, may be in the next."""
        slots = np.full(len(keys), self._absent)
        found = hits >> 3
        slots[found] = (buckets[found] << 3) | (hits & 7)
        todo = ((lines[:, -1] != 0) & (slots == self._absent)).nonzero()[0]
        while len(todo):
            at = self._following(buckets[todo])
            lines = self._lines.take(at, axis=0).reshape(len(todo), -1)
            hits = (lines == keys[todo][:, None]).ravel().nonzero()[0]
            found, place = hits // lines.shape[1], hits % lines.shape[1]
            slots[todo[found]] = (at[found, place >> 3] << 3) | (place & 7)
            buckets[todo] = at[:, -1]
            full = (lines[:, SLOTS - 1 :: SLOTS] != 0).all(axis=1)
            todo = todo[full & (slots[todo] == self._absent)]
        return slots

    # Taking in

    def _put(self, keys: U64, words: U64, digests: U64) -> None:
        slots = self._locate(keys, self._buckets_of(keys))
        unknown = (slots == self._absent).nonzero()[0]
        if not len(unknown):
            self._words[slots] = words
            self._digests[slots] = digests
            return
        known = (slots != self._absent).nonzero()[0]
        self._words[slots[known]] = words[known]
        self._digests[slots[known]] = digests[known]
        new = unknown[last_of_each(keys[unknown])]
        self._put_new(keys[new], words[new], digests[new])

    def _put_new(self, keys: U64, words: U64, digests: U64) -> None:
        slots = self._claim(keys, self._make_room(keys))
        self._words[slots] = words
        self._digests[slots] = digests
        self._len += len(keys)

    def _make_room(self, keys: U64) -> I64:
        """Counts new keys in, relieving pages that they would overfill; returns their home buckets."""
        while True:
            buckets = self._buckets_of(keys)
            pages = buckets >> self._page_shift
            np.add.at(self._counts, pages, 1)
            crowded = pages[self._counts.take(pages) > self._page_slots * LOAD_MAX]
            if not len(crowded):
                return buckets
            np.subtract.at(self._counts, pages, 1)
            relieved = [self._relieve(page) for page in np.unique(crowded).tolist()]
            if not any(relieved):
                break
        np.add.at(self._counts, pages, 1)
        if (self._counts.take(pages) > self._page_slots * LOAD_FULL).any():
            np.subtract.at(self._counts, pages, 1)
            raise OverlayFull(f"{self._len} entries held, {len(keys)} more do not fit")
        return buckets

    def _claim(self, keys: U64, buckets: I64) -> I64:
        """A free slot for every key, at or behind its home bucket. Keys that want the same slot all write
        themselves there; the one found there afterwards has it, the others try again."""
        slots = np.empty(len(keys), np.int64)
        todo = np.arange(len(keys))
        while len(todo):
            at = buckets[todo]
            fills = self._fills.take(at)
            full = (fills == SLOTS).nonzero()[0]
            if len(full):
                buckets[todo[full]] = self._next(at[full])
                continue
            wanted = (at << 3) + fills
            self._keys[wanted] = keys[todo]
            won = self._keys.take(wanted) == keys[todo]
            self._fills[at[won]] = fills[won] + 1
            slots[todo[won]] = wanted[won]
            todo = todo[~won]
        return slots

    # Pages

    def _relieve(self, page: int) -> bool:
        """Make room in a page: forget if that brings much or must do, otherwise divide it."""
        forgettable = self._forgettable(page)
        if forgettable * 4 <= self._counts[page] and self._divide(page):
            return True
        return self._drop_forgotten(page)

    def _forgettable(self, page: int) -> int:
        if not self._floor:
            return 0
        first = page * self._page_slots
        addresses = self._words[first : first + self._page_slots] & _MASK
        return int(self._counts[page]) - int(np.count_nonzero(addresses >= np.uint64(self._floor)))

    def _drop_forgotten(self, page: int) -> bool:
        if not self._forgettable(page):
            return False
        entries = self._live_entries(page)
        self._clear(page)
        self._fill(page, *entries)
        return True

    def _divide(self, page: int) -> bool:
        """About half of the page's entries go to a new page. False: there is none left."""
        upper = self._directory.divide(page)
        if upper is None:
            return False
        keys, words, digests = self._live_entries(page)
        self._clear(page)
        moves = (self._buckets_of(keys) >> self._page_shift) == upper
        self._fill(page, keys[~moves], words[~moves], digests[~moves])
        self._fill(upper, keys[moves], words[moves], digests[moves])
        return True

    def _page_entries(self, page: int) -> Entries:
        """(keys, words, digests) of a page, copied."""
        first = page * self._page_slots
        used = first + self._keys[first : first + self._page_slots].nonzero()[0]
        return self._keys[used], self._words[used], self._digests[used]

    def _live_entries(self, page: int) -> Entries:
        keys, words, digests = self._page_entries(page)
        live = (words & _MASK) >= np.uint64(self._floor)
        return keys[live], words[live], digests[live]

    def _clear(self, page: int) -> None:
        first = page << self._page_shift
        self._lines[first : first + self._page_buckets] = 0
        words = self._page_slots * page
        self._words[words : words + self._page_slots] = 0
        self._fills[first : first + self._page_buckets] = 0
        self._len -= int(self._counts[page])
        self._counts[page] = 0

    def _fill(self, page: int, keys: U64, words: U64, digests: U64) -> None:
        """Entries into a cleared page: sorted by bucket, the first eight of each fit, the rest go on."""
        homes = self._buckets_of(keys) - (page << self._page_shift)
        order = homes.astype(np.uint16).argsort(kind="stable")
        homes = homes[order]
        held = np.bincount(homes, minlength=self._page_buckets)
        rank = np.arange(len(homes)) - (held.cumsum() - held)[homes]
        fit = rank < SLOTS
        slots = np.empty(len(homes), np.int64)
        buckets = homes + (page << self._page_shift)
        slots[fit] = (buckets[fit] << 3) + rank[fit]
        self._keys[slots[fit]] = keys[order[fit]]
        first = page << self._page_shift
        self._fills[first : first + self._page_buckets] = np.minimum(held, SLOTS)
        slots[~fit] = self._claim(keys[order[~fit]], buckets[~fit])
        self._words[slots] = words[order]
        self._digests[slots] = digests[order]
        self._counts[page] = len(keys)
        self._len += len(keys)
