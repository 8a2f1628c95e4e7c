"""Reading: blocks resolved in bulk, fetched in runs, each checked against its digest.

``read_now`` serves what lies in memory: map, page cache. What would have to wait for the disk is named, and the
caller comes back with ``read`` which does the same in a thread. Either way a block reaches a client only after its
digest has been found right; a block that fails is read once more if the store has moved meanwhile (a fold may have
replaced what an old resolution points at). If it has not, a sibling is asked for the block (``volume/heal/``);
what nobody has is an error, of that block alone.

A ``Source`` is what can be read: the live volume here, a moment of it in ``history/``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, KIND_SHIFT, PARTIAL, RESCUED, kinds
from revolume.blocks.digest import block_digests
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.errors import Damaged, Unreadable
from revolume.host.disk import Buffer, File
from revolume.host.work import Work
from revolume.log.write.segment_pool import SegmentPool
from revolume.volume.heal.damaged_block import DamagedBlock, damaged_at
from revolume.volume.heal.siblings import Contents
from revolume.volume.rescue.rescued_blocks import RescuedBlocks

U64 = npt.NDArray[np.uint64]
ALIGNED = BLOCK - 1
ZEROES = memoryview(bytes(1 << 20))
ATTEMPTS = 64


Mend = Callable[[Sequence[DamagedBlock]], Awaitable[Contents]]
"""Gives what siblings have of damaged blocks, with the right digests."""
ReadVersion = Callable[[int, int, int], Awaitable[bytes]]
"""Reads the whole version of a block that word and digest name."""


class Source(Protocol):
    """Where blocks are found. ``generation`` changes when places may have moved."""

    @property
    def generation(self) -> int: ...

    def lookup(self, blocks: U64) -> tuple[U64, U64]:
        """Words and digests as far as memory knows them."""

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool:
        """Bring them to their final form in place; False where ``nowait`` forbids what is needed."""

    def partial(self, block: int) -> bytes | bytearray | None:
        """The content of a block in the partial buffer; None while its base is still to be read."""

    async def merge_partial(self, block: int, read_version: ReadVersion) -> None:
        """Wait until the content of that block is whole."""

    async def mended(self) -> bool:
        """Whether a map was damaged in which blocks are looked up, and others are in its place now."""


class Store:
    """The files that hold blocks. A file that has gone meanwhile is a KeyError: look again."""

    def __init__(self, pool: SegmentPool, image: File, rescued: RescuedBlocks) -> None:
        self.pool = pool
        self.image = image
        self.rescued = rescued

    def pread(self, kind: int, address: int, buffers: list[Buffer], nowait: bool) -> bool:
        """Fill ``buffers`` from log or rescue file (DATA) or the image (else). False: it would have to wait, or
        ends."""
        if kind == DATA and address >= RESCUED:
            file, offset = self.rescued.place(address)
        elif kind == DATA:
            blocks = self.pool.segment_blocks
            file = self.pool.by_use[address // blocks].file
            offset = address % blocks * BLOCK
        else:
            file, offset = self.image, address * BLOCK
        if nowait:
            return file.preadv_nowait(buffers, offset)
        size = sum(map(len, buffers))
        return file.preadv(buffers, offset) == size


def block_numbers(first: int, count: int) -> U64:
    """first, first + 1, …"""
    return np.arange(first, first + count, dtype=np.uint64)


async def nobody_mends(blocks: Sequence[DamagedBlock]) -> Contents:
    """There is nobody to ask."""
    return {}


class Reader:
    """Reads a source; see the module's text. Buffers are writable views of the bytes asked for. ``damaged`` is
    told the numbers of blocks that could not be read as they were written; ``mend`` is asked for them before."""

    def __init__(
        self,
        store: Store,
        source: Source,
        work: Work,
        damaged: Callable[[list[int]], None] = lambda blocks: None,
        mend: Mend = nobody_mends,
    ) -> None:
        self._store = store
        self._source = source
        self._work = work
        self.mismatches = 0
        self.rounds = 0
        """Of reads that were asked for."""
        self._damaged = damaged
        self._mend = mend

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """Fill every buffer that can be filled from memory; the indexes of the others."""
        self.rounds += 1
        spans = [(offset >> 12, (offset + len(view) + ALIGNED >> 12) - (offset >> 12)) for offset, view in reads]
        blocks = self._all_blocks(spans)
        words, digests = self._source.lookup(blocks)
        if not self._settled_now(blocks, words, digests):
            return self._one_by_one(reads) if len(reads) > 1 else [0]
        word_list, digest_list = words.tolist(), digests.tolist()
        at, waiting = 0, []
        for index, (offset, view) in enumerate(reads):
            first, count = spans[index]
            end = at + count
            try:
                if (offset | len(view)) & ALIGNED:
                    done = self._ragged(offset, view, first, word_list[at:end], digest_list[at:end])
                else:
                    done = self._fill(first, view, word_list[at:end], digest_list[at:end], True)
            except OSError:
                done = False  # this read's alone; ``read`` says what is the matter
            if not done:
                waiting.append(index)
            at = end
        return waiting

    def _settled_now(self, blocks: U64, words: U64, digests: U64) -> bool:
        """Damage, or a disk that fails, is for ``read`` to tell, of the one read that meets it."""
        try:
            return self._source.settle(blocks, words, digests, True)
        except (Damaged, OSError):
            return False

    def _one_by_one(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        return [index for index, read in enumerate(reads) if self.read_now([read])]

    @staticmethod
    def _all_blocks(spans: list[tuple[int, int]]) -> U64:
        if all(count == 1 for _, count in spans):
            return np.array([first for first, _ in spans], np.uint64)
        return np.concatenate([block_numbers(first, count) for first, count in spans])

    def _ragged(self, offset: int, view: memoryview, first: int, words: list[int], digests: list[int]) -> bool:
        whole = memoryview(bytearray(len(words) * BLOCK))
        if not self._fill(first, whole, words, digests, True):
            return False
        start = offset - first * BLOCK
        view[:] = whole[start : start + len(view)]
        return True

    def _fill(self, first: int, view: memoryview, words: list[int], digests: list[int], nowait: bool) -> bool:
        """Fill ``view`` with the blocks from ``first`` on; False: something would have to wait, or a
        digest was wrong (``read`` tells which). What was fetched is checked in stretches as long as may be:
        a call for each run would cost more than the run."""
        count = len(words)
        at = fetched = 0  # blocks from ``fetched`` on are not checked yet
        while at < count:
            word, kind = words[at], words[at] >> KIND_SHIFT
            end = at + 1
            if kind == DATA:
                while end < count and words[end] == word + (end - at):
                    end += 1
                address = word & ADDRESS_MASK
            elif kind != PARTIAL and digests[at]:
                while end < count and not words[end] and digests[end]:
                    end += 1
                address = first + at
            else:
                if not _checked(view, fetched, at, digests):
                    return False
                if kind != PARTIAL:
                    while end < count and not words[end] and not digests[end]:
                        end += 1
                if not self._make(first + at, kind, view[at * BLOCK : end * BLOCK]):
                    return False
                at = fetched = end
                continue
            part = view if end - at == count else view[at * BLOCK : end * BLOCK]
            if not self._store.pread(kind, address, [part], nowait):
                return False
            at = end
        if not fetched:
            return block_digests(view, count) == digests
        return _checked(view, fetched, count, digests)

    def _make(self, block: int, kind: int, view: memoryview) -> bool:
        """What is fetched from no file: a partial block, or zeroes."""
        if kind != PARTIAL:
            zero_fill(view)
            return True
        content = self._source.partial(block)
        if content is None:
            return False
        view[:] = content
        return True

    async def read(self, offset: int, view: memoryview) -> None:
        """Fill ``view``, waiting for the disk where needed. Damaged: a block is not what was written."""
        first = offset >> 12
        count = (offset + len(view) + ALIGNED >> 12) - first
        whole = memoryview(bytearray(count * BLOCK))
        step = 256
        for at in range(0, count, step):
            size = min(step, count - at)
            await self._read_blocks(first + at, whole[at * BLOCK : (at + size) * BLOCK], size)
        start = offset - first * BLOCK
        view[:] = whole[start : start + len(view)]

    async def _read_blocks(self, first: int, view: memoryview, count: int) -> None:
        blocks = block_numbers(first, count)
        for _ in range(ATTEMPTS):
            generation = self._source.generation
            words, digests = self._source.lookup(blocks)
            try:
                for block in blocks[kinds(words) == PARTIAL].tolist():
                    await self._source.merge_partial(block, self.read_version)
                if await self._attempt(first, view, blocks, words.copy(), digests):
                    return
            except Damaged:
                if await self._source.mended():
                    continue
                self._damaged(list(await self._which(blocks)) or blocks.tolist())
                raise
            if self._source.generation == generation and (self._source.lookup(blocks)[0] == words).all():
                break
        bad = await self._mended(first, view, blocks)
        if not bad:
            return
        self.mismatches += 1
        self._damaged(bad)
        which = f"Block {bad[0]}" if len(bad) == 1 else f"Blocks {bad[0]} to {bad[-1]}"
        raise Damaged(
            "read-mismatch",
            f"{which} could not be read as {'it was' if len(bad) == 1 else 'they were'} written.",
            "Run 'revolume check' on the stopped volume; older moments may still be whole.",
        )

    async def _mended(self, first: int, view: memoryview, blocks: U64) -> list[int]:
        """Fill ``view`` once more, with what siblings have where it can't be read here; the blocks that nobody
        has."""
        contents = await self._mend([each for each in (await self._which(blocks)).values() if each is not None])
        bad = await self._which(blocks, view)
        for block, place in list(bad.items()):
            if place is not None and (content := contents.get(place.key)) is not None:
                view[(block - first) * BLOCK : (block - first + 1) * BLOCK] = content
                del bad[block]
        return list(bad)

    def load(self, blocks: U64) -> memoryview:
        """The content of these ascending blocks, one behind the other, waiting for the disk where it is called.
        Damaged: one of them is not what was written; nobody is asked for it."""
        whole = memoryview(bytearray(len(blocks) * BLOCK))
        words, digests = self._source.lookup(blocks)
        self._source.settle(blocks, words, digests, False)
        starts, counts, firsts = contiguous(blocks)
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            part = slice(start, start + count)
            view = whole[start * BLOCK : (start + count) * BLOCK]
            if not self._fill(first, view, words[part].tolist(), digests[part].tolist(), False):
                raise Damaged(
                    "read-mismatch",
                    f"Blocks {first} to {first + count - 1} could not be read as they were written.",
                    "Run 'revolume check' on the stopped volume; other moments may be whole.",
                )
        return whole

    async def _which(self, blocks: U64, whole: memoryview | None = None) -> dict[int, DamagedBlock | None]:
        """Those of the blocks, each read by itself, that can't be read, with the place of each that has one; the
        others are in ``whole`` then."""
        words, digests = self._source.lookup(blocks)

        def bad() -> dict[int, DamagedBlock | None]:
            spare, found = memoryview(bytearray(BLOCK)), dict[int, DamagedBlock | None]()
            for at, block in enumerate(blocks.tolist()):
                view = spare if whole is None else whole[at * BLOCK : (at + 1) * BLOCK]
                try:
                    if self._version(block, int(words[at]), int(digests[at]), view, False):
                        continue
                except (Damaged, OSError):
                    pass
                found[block] = self._place(block, int(words[at]), int(digests[at]))
            return found

        return await self._work.call(bad)

    def _place(self, block: int, word: int, digest: int) -> DamagedBlock | None:
        """Where a version that ``lookup`` named lies; None: in no place of its own, or that can't be read."""
        words, digests = np.array([word], np.uint64), np.array([digest], np.uint64)
        try:
            settled = self._source.settle(np.array([block], np.uint64), words, digests, False)
        except (Damaged, OSError):
            return None
        return damaged_at(block, int(words[0]), int(digests[0])) if settled else None

    def versions_now(self, blocks: list[int], words: list[int], digests: list[int]) -> list[bytearray | None]:
        """The whole versions of blocks that ``lookup`` named; None for each that can't be had without waiting, or
        is not as it was written."""
        numbers, settled = np.array(blocks, np.uint64), np.array(words, np.uint64)
        stated = np.array(digests, np.uint64)
        if self._settled_now(numbers, settled, stated):
            words, digests = settled.tolist(), stated.tolist()
            return [self._version_now(*each, self._fill_one) for each in zip(blocks, words, digests, strict=True)]
        return [self._version_now(*each, self._version) for each in zip(blocks, words, digests, strict=True)]

    @staticmethod
    def _version_now(
        block: int, word: int, digest: int, fill: Callable[[int, int, int, memoryview, bool], bool]
    ) -> bytearray | None:
        content = bytearray(BLOCK)
        try:
            return content if fill(block, word, digest, memoryview(content), True) else None
        except (Damaged, OSError, KeyError):
            return None

    def _fill_one(self, block: int, word: int, digest: int, view: memoryview, nowait: bool) -> bool:
        return self._fill(block, view, [word], [digest], nowait)

    async def read_version(self, block: int, word: int, digest: int) -> bytes:
        """One whole version of a block, 4096 bytes, waiting for the disk. Damaged: its digest differs; Unreadable:
        the disk fails."""
        view, failed = memoryview(bytearray(BLOCK)), False
        for _ in range(ATTEMPTS):
            generation = self._source.generation
            try:
                if await self._work.call(self._version, block, word, digest, view, False):
                    return bytes(view)
            except OSError:
                failed = True
            if self._source.generation == generation:
                break
        place = await self._work.call(self._place, block, word, digest)
        if place is not None and (content := (await self._mend([place])).get(place.key)) is not None:
            return content
        self.mismatches += 1
        raise (Unreadable if failed else Damaged)(
            "read-error" if failed else "read-mismatch",
            f"Block {block} could not be read as it was written.",
            "Run 'revolume check' on the stopped volume; older moments may still be whole.",
        )

    def _version(self, block: int, word: int, digest: int, view: memoryview, nowait: bool) -> bool:
        words, digests = np.array([word], np.uint64), np.array([digest], np.uint64)
        if not self._source.settle(np.array([block], np.uint64), words, digests, nowait):
            return False
        try:
            return self._fill(block, view, words.tolist(), digests.tolist(), nowait)
        except KeyError:
            return False

    async def _attempt(self, first: int, view: memoryview, blocks: U64, words: U64, digests: U64) -> bool:
        def fill() -> bool:
            self._source.settle(blocks, words, digests, False)
            return self._fill(first, view, words.tolist(), digests.tolist(), False)

        try:
            return bool(await self._work.call(fill))
        except (KeyError, OSError):
            return False  # recycled or closed meanwhile, or the disk failed: the caller looks again


def _checked(view: memoryview, begin: int, end: int, digests: list[int]) -> bool:
    """Whether the blocks [begin, end) of ``view`` are what was written."""
    return begin == end or block_digests(view[begin * BLOCK : end * BLOCK], end - begin) == digests[begin:end]


def zero_fill(view: memoryview) -> None:
    """Zeroes, without making as many first."""
    for at in range(0, len(view), len(ZEROES)):
        part = view[at : at + len(ZEROES)]
        part[:] = ZEROES[: len(part)]
