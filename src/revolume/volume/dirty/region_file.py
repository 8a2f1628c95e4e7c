"""A dirty region log's file: a set of blocks, sorted, immutable, written once from front to back.

Blocks stand in *chunks* of 65536, of which only those are there that name some. A chunk is a bit for each of its
blocks, compressed: of a volume of a terabyte, written all over, that is 32 MiB, and of most much less. Making one
is a merge of sorted streams, a chunk at a time.

Pages of 4096 bytes, all numbers 64-bit little endian; number 0 of every page is its checksum (``page_cache.py``),
seeded by volume and file number:

    0            header         1  magic "RVDIRTYR"   2  format 1     3  4  volume id    5  number of the file
                                6  chunks             7  blocks       8  bytes of the chunks    9  index pages
    1 …          chunks, one behind the other: 65536 bits, lowest block in the lowest bit of the first byte, zlib
    then         index pages    1  rows in the page   2 … rows of four: chunk (first block / 65536), where it
                                begins and its bytes, both in bytes, and XXH3-64 of these, seeded by the file

What is not used in a page is zero. The header is written last, when all the rest is on the disk: a file with a
good header is whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import reduce
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from revolume.blocks.geometry import ceil_div
from revolume.chain.page_cache import NUMBERS, PAGE, blank, check_pages, file_seed, load_pages, write_pages
from revolume.errors import Damaged
from revolume.host.disk import File

U64 = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint8]
Chunk = tuple[int, Bits]
"""Its number, and a bit for each of its blocks (uint8)."""

MAGIC: Final = int.from_bytes(b"RVDIRTYR", "little")
FORMAT: Final = 1
CHUNK_BLOCKS: Final = 1 << 16
ROWS_PER_PAGE: Final = (NUMBERS - 2) // 4
WRITE_BYTES: Final = 1 << 20
DAMAGED: Final = "dirty-log-damaged"


def chunks_of(pieces: Iterable[U64]) -> Iterator[Chunk]:
    """The chunks of blocks that ascend over all pieces; one may be named several times."""
    last, bits = -1, np.zeros(0, bool)
    for piece in pieces:
        numbers = piece // np.uint64(CHUNK_BLOCKS)
        for of_one in np.split(piece, np.flatnonzero(np.diff(numbers)) + 1) if len(piece) else ():
            number = int(of_one[0]) // CHUNK_BLOCKS
            if number != last:
                if last >= 0:
                    yield last, np.packbits(bits, bitorder="little")
                last, bits = number, np.zeros(CHUNK_BLOCKS, bool)
            bits[(of_one % np.uint64(CHUNK_BLOCKS)).astype(np.int64)] = True
    if last >= 0:
        yield last, np.packbits(bits, bitorder="little")


def united(streams: Iterable[Iterable[Chunk]]) -> Iterator[Chunk]:
    """The chunks of several sets, each in order, as one set."""
    for number, same in groupby(merge(*streams, key=itemgetter(0)), key=itemgetter(0)):
        yield number, reduce(np.bitwise_or, (bits for _, bits in same))


def write_regions(file: File, volume: bytes, number: int, chunks: Iterable[Chunk]) -> int:
    """Write and sync the set into an empty file; returns the blocks that it names. The name is the caller's to
    make durable."""
    seed, rows, blocks = _seed(volume, number), list[tuple[int, int, int, int]](), 0
    at, unwritten, size = PAGE, list[bytes](), 0
    for chunk, bits in chunks:
        packed = zlib.compress(bits.tobytes(), 1)
        rows.append((chunk, at + size, len(packed), xxh3_64_intdigest(packed, seed)))
        blocks += int(np.bitwise_count(bits).sum())
        unwritten.append(packed)
        size += len(packed)
        if size >= WRITE_BYTES:
            file.pwritev(unwritten, at)
            at, unwritten, size = at + size, [], 0
    if unwritten:
        file.pwritev(unwritten, at)
    index, first = _index(rows), ceil_div(at + size, PAGE)
    write_pages(file, seed, first, index)
    file.datasync()
    header = blank(1)
    low, high = np.frombuffer(volume, np.uint64).tolist()
    header[0, 1:10] = (MAGIC, FORMAT, low, high, number, len(rows), blocks, at + size - PAGE, len(index))
    write_pages(file, seed, 0, header)
    file.datasync()
    return blocks


def _index(rows: list[tuple[int, int, int, int]]) -> U64:
    table = blank(ceil_div(len(rows), ROWS_PER_PAGE))
    for page in range(len(table)):
        within = np.array(rows[page * ROWS_PER_PAGE : (page + 1) * ROWS_PER_PAGE], np.uint64)
        table[page, 1] = len(within)
        table[page, 2 : 2 + within.size] = within.ravel()
    return table


def _seed(volume: bytes, number: int) -> int:
    return file_seed(b"dirty", volume, number.to_bytes(8, "little"))


class RegionFile:
    """An open file of regions. Its content never changes, so a thread may ask beside the event loop. ``blocks``:
    so many are named."""

    def __init__(self, file: File, seed: int, blocks: int, rows: U64) -> None:
        """Use ``open``."""
        self._file = file
        self._seed = seed
        self._rows = rows
        self.blocks = blocks

    @classmethod
    def open(cls, file: File, volume: bytes, number: int) -> RegionFile:
        """``file`` belongs to it from now on, and is closed if this fails. Damaged: it is not a complete file of
        this volume and number."""
        try:
            return cls._open(file, volume, number)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _open(cls, file: File, volume: bytes, number: int) -> RegionFile:
        seed = _seed(volume, number)
        header = _pages(file, seed, 0, 1)[0].tolist()
        magic, kind, low, high, own, chunks, blocks, size, pages = header[1:10]
        if (magic, kind, own) != (MAGIC, FORMAT, number) or volume != _two(low, high):
            raise _damaged(file.name)
        index = _pages(file, seed, ceil_div(PAGE + size, PAGE), pages)
        rows = [page[2 : 2 + 4 * int(page[1])].reshape(-1, 4) for page in index]
        joined = np.concatenate(rows) if rows else np.zeros((0, 4), np.uint64)
        if len(joined) != chunks:
            raise _damaged(file.name)
        return cls(file, seed, blocks, joined)

    def chunks(self, first: int = 0, end: int | None = None) -> Iterator[Chunk]:
        """Those of numbers [first, end), ascending. Waits for the disk. Damaged: one is not what was written."""
        numbers = self._rows[:, 0]
        low = int(numbers.searchsorted(np.uint64(first)))
        high = len(numbers) if end is None else int(numbers.searchsorted(np.uint64(end)))
        for number, at, size, digest in self._rows[low:high].tolist():
            yield number, self._bits(at, size, digest)

    def _bits(self, at: int, size: int, digest: int) -> Bits:
        packed = bytearray(size)
        read = self._file.preadv([packed], at)
        if read != size or xxh3_64_intdigest(packed, self._seed) != digest:
            raise _damaged(self._file.name)
        return np.frombuffer(zlib.decompress(packed), np.uint8)

    def within(self, start: int, end: int) -> U64:
        """The blocks among [start, end), ascending. Waits for the disk. Damaged: it is not what was written."""
        parts = [np.zeros(0, np.uint64)]
        for number, bits in self.chunks(start // CHUNK_BLOCKS, ceil_div(end, CHUNK_BLOCKS)):
            found = np.flatnonzero(np.unpackbits(bits, bitorder="little")) + number * CHUNK_BLOCKS
            parts.append(found[(found >= start) & (found < end)].astype(np.uint64))
        return np.concatenate(parts)

    def verify(self) -> None:
        """Read all of it. Damaged: it is not what was written."""
        for _ in self.chunks():
            pass

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _pages(file: File, seed: int, first: int, count: int) -> U64:
    numbers = np.arange(first, first + count)
    table = load_pages(file, numbers, False)
    assert table is not None
    try:
        check_pages(file, seed, numbers, table)
    except Damaged as error:
        raise _damaged(file.name) from error
    return table


def _two(low: int, high: int) -> bytes:
    return np.array([low, high], np.uint64).tobytes()


def _damaged(name: str) -> Damaged:
    return Damaged(
        DAMAGED, f"The dirty region log {name} is not what was written.", "The mirror is compared as a whole."
    )
