"""Sectors that say what they are, and a book of what each may hold after a crash.

Every 512-byte sector written carries its own address, the number of the write and a pattern made from
both, so that a lost, stale, torn or misplaced write shows in the bytes themselves. No two requests in
flight touch the same sector, so the writes to one sector are ordered. After a kill, which leaves the page
cache standing, it may hold exactly one of two things: what its last *answered* write said, or what the one
write that was never answered would have said. After a power cut it may hold what its last *durable* write
said (flushed, or answered with FUA), or any later one.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.support.wire import FLUSH, FUA, TRIM, WRITE, ZEROES, Wire

SECTOR = 512
LANES = SECTOR // 8
MAGIC = 0x5EC70A11D0C0FFEE
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ZEROED = np.uint64(1 << 63)
"""Set in a write's number where it made the sector zeroes (a trim, a write of zeroes)."""
Words = NDArray[np.uint64]


def make_sectors(first: int, numbers: Words) -> Words:
    """The content of consecutive sectors: magic, address, number, then a pattern of all three."""
    count = len(numbers)
    made = np.empty((count, LANES), np.uint64)
    addresses = np.arange(first, first + count, dtype=np.uint64)
    made[:, 0] = MAGIC
    made[:, 1] = addresses
    made[:, 2] = numbers
    key = (numbers * _GOLDEN) ^ (addresses + np.uint64(1))
    made[:, 3:] = key[:, None] * np.arange(3, 2 * LANES - 3, 2, dtype=np.uint64)
    return made


def read_numbers(first: int, data: bytes) -> tuple[Words, NDArray[np.bool_]]:
    """The write number in each sector (0: reads as zeroes) and whether the sector is sound."""
    words = np.frombuffer(data, np.uint64).reshape(-1, LANES)
    zero = ~words.any(axis=1)
    numbers = np.where(zero, np.uint64(0), words[:, 2])
    return numbers, zero | (words == make_sectors(first, numbers)).all(axis=1)


def content(numbers: Words) -> Words:
    """What a sector says after the write of that number."""
    return np.where(numbers & _ZEROED, np.uint64(0), numbers)


def rank(numbers: Words) -> Words:
    """Writes to one sector in order, those that made zeroes too."""
    return numbers & ~_ZEROED


@dataclass
class Book:
    """What the sectors from `first` on may hold, as numbers of writes. Each writer has its part; a flush covers
    all. `pending`: the newest write sent; `zeroed`: the newest one sent that made zeroes. `floor`: writes up to
    here have had their chance; what a sector held afterwards it holds until it is written again."""

    first: int
    count: int
    answered: Words = field(init=False)
    pending: Words = field(init=False)
    unanswered: NDArray[np.bool_] = field(init=False)
    durable: Words = field(init=False)
    zeroed: Words = field(init=False)
    floor: int = 0
    vanished: int = 0  # sectors whose last answered write a power cut took
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.answered = np.zeros(self.count, np.uint64)
        self.durable = np.zeros(self.count, np.uint64)
        self.pending = np.zeros(self.count, np.uint64)
        self.zeroed = np.zeros(self.count, np.uint64)
        self.unanswered = np.zeros(self.count, np.bool_)

    def made_durable(self, where: slice, numbers: Words) -> None:
        """Never backwards: a flush that was sent earlier may be answered later."""
        with self._lock:
            durable = self.durable[where]
            self.durable[where] = np.where(rank(numbers) > rank(durable), numbers, durable)

    def problems(self, data: bytes) -> list[str]:
        """After a kill: every sector that holds what it must not; then the book takes over what is there."""
        numbers, sound = read_numbers(self.first, data)
        right = numbers == content(self.answered)
        right |= self.unanswered & (numbers == content(self.pending))
        return self._told(numbers, sound, right)

    def problems_after_power_cut(self, data: bytes) -> list[str]:
        """The same after a power cut, which may take what was not flushed."""
        numbers, sound = read_numbers(self.first, data)
        oldest = np.maximum(rank(self.durable), np.uint64(self.floor))
        right = numbers == content(self.durable)
        right |= (numbers > oldest) & (numbers <= rank(self.pending))
        right |= (numbers == 0) & (self.zeroed > oldest)
        self.vanished += int((numbers != content(self.answered)).sum())
        return self._told(numbers, sound, right)

    def _told(self, numbers: Words, sound: NDArray[np.bool_], right: NDArray[np.bool_]) -> list[str]:
        told = []
        for index in np.flatnonzero(~(right & sound)):
            flushed = self.durable[index] == self.answered[index]
            told.append(
                f"sector {self.first + index}: holds write {numbers[index]}"
                f"{'' if sound[index] else ' (damaged)'}, last answered {self.answered[index]}"
                f"{' and flushed' if flushed else f', durable {self.durable[index]}'}"
                f"{f', unanswered {self.pending[index]}' if self.unanswered[index] else ''}"
            )
        self.floor = max(self.floor, int(rank(self.pending).max()))
        self.answered = numbers.copy()
        self.durable = numbers.copy()
        self.unanswered[:] = False
        return told


class Writer(threading.Thread):
    """Writes, zeroes, trims and flushes its part of the book until the server is gone. Once `failing` is set,
    errors may be answered; a request so answered has promised nothing."""

    def __init__(self, uri: str, book: Book, part: range, lane: int, seed: int, depth: int = 8) -> None:
        super().__init__(daemon=True)
        self.wire = Wire(uri)
        self.book, self.part, self.depth = book, part, depth
        self.chance = random.Random(seed)
        self.numbers = self._numbers(lane, seed)
        self.in_flight: dict[int, tuple[int, slice | Words]] = {}
        self.answered = self.flushes = 0
        self.error: BaseException | None = None
        self.enough = threading.Event()
        self.failing = threading.Event()
        self.refused = 0

    @staticmethod
    def _numbers(lane: int, seed: int) -> Iterator[int]:
        number = (seed << 32 | lane << 24) + 1
        while True:
            yield number
            number += 1

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                while len(self.in_flight) < self.depth:
                    self._issue()
                self._settle()
            while self.in_flight:
                self._settle()
            self.wire.close()
        except (ConnectionError, TimeoutError, OSError):
            pass  # the server was killed: what is in flight stays unanswered
        except BaseException as error:
            self.error = error

    def _issue(self) -> None:
        book = self.book
        if self.chance.random() < 0.05:
            self.in_flight[self.wire.send(FLUSH)] = (FLUSH, book.answered.copy())
            return
        count = min(int(2 ** self.chance.uniform(0, 7)), len(self.part))
        start = self.part.start - book.first + self.chance.randrange(len(self.part) - count + 1)
        where = slice(start, start + count)
        if book.unanswered[where].any():
            return  # one request at a time on a sector
        number = next(self.numbers)
        kind = self.chance.choices((WRITE, ZEROES, TRIM), (90, 5, 5))[0]
        book.pending[where] = number if kind == WRITE else _ZEROED | np.uint64(number)
        book.unanswered[where] = True
        if kind != WRITE:
            book.zeroed[where] = number
        flags = FUA if self.chance.random() < 0.05 else 0
        offset = (book.first + start) * SECTOR
        if kind == WRITE:
            data = make_sectors(book.first + start, np.full(count, number, np.uint64)).tobytes()
            cookie = self.wire.send(WRITE, offset, data=data, flags=flags)
        else:
            cookie = self.wire.send(kind, offset, count * SECTOR, flags=flags)
        self.in_flight[cookie] = (kind | flags << 8, where)

    def _settle(self) -> None:
        cookie, error, _ = self.wire.receive()
        what, where = self.in_flight.pop(cookie)
        if error and self.failing.is_set():
            self.refused += 1
            return
        assert error == 0, f"request {what & 0xFF} answered with error {error}"
        self.answered += 1
        book = self.book
        if isinstance(where, slice):
            book.answered[where] = book.pending[where]
            book.unanswered[where] = False
            if what >> 8:
                book.made_durable(where, book.answered[where])
        else:
            self.flushes += 1
            book.made_durable(slice(None), where)
