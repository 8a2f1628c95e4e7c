"""The partial buffer: whole blocks being put together from writes that covered only part of them.

A small buffer, readable at once. Each block in it knows where its last whole version lies (its *base*) and
holds either the merged 4096 bytes or, until the base has been read, the pieces in order. A whole overwrite
ends it; the next consistency point carries its content whole, and if nothing newer was written since
the cut the block leaves the buffer. Many blocks in here make a cut due earlier, so the buffer stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from revolume.blocks.numbers import WriteNumber

CUT_DUE = 1024


class PartialBlock:
    """One block. ``write``: number of its newest fragment. ``pieces`` wait for the base to be merged. A copy
    shares ``data`` until a fragment follows: most blocks get none, and a point copies thousands."""

    __slots__ = ("_shared", "base_digest", "base_word", "data", "pieces", "write")

    def __init__(self, base_word: int, base_digest: int, base: bytearray | None = None) -> None:
        self.base_word = base_word
        self.base_digest = base_digest
        self.data = base
        self.pieces: list[tuple[int, bytes]] = []
        self.write = 0
        self._shared = False

    def add(self, at: int, piece: bytes, write: int) -> None:
        """A fragment was written."""
        self.write = write
        if self.data is None:
            self.pieces.append((at, piece))
            return
        if self._shared:
            self.data, self._shared = bytearray(self.data), False
        self.data[at : at + len(piece)] = piece

    def merge(self, base: bytes | bytearray) -> None:
        """The base has been read: from now on the content is whole. Nobody else changes it."""
        if self.data is None:
            data = bytearray(base)
            for at, piece in self.pieces:
                data[at : at + len(piece)] = piece
            self.data = data
            self.pieces = []

    def same_base(self, other: PartialBlock) -> bool:
        """Whether both are the same block over the same whole version."""
        return (self.base_word, self.base_digest) == (other.base_word, other.base_digest)

    def copy(self) -> PartialBlock:
        """A snapshot of the block that later fragments do not change."""
        twin = PartialBlock(self.base_word, self.base_digest)
        twin.data, twin.pieces, twin.write = self.data, list(self.pieces), self.write
        twin._shared = self._shared = self.data is not None
        return twin


class PartialBlocks:
    """All partially modified blocks. ``resolve`` says where blocks' last whole versions lie, as words and digests;
    ``read_bases`` reads those without waiting, into buffers that become ours, None for each that has to be waited
    for or is not as it was written: reads of that block, and the next point, will meet and report it. ``on_due``
    is called when there are many."""

    def __init__(
        self,
        resolve: Callable[[list[int]], tuple[list[int], list[int]]],
        read_bases: Callable[[list[int], list[int], list[int]], Sequence[bytearray | None]],
        on_due: Callable[[], None] = lambda: None,
    ) -> None:
        self.blocks: dict[int, PartialBlock] = {}
        self._resolve = resolve
        self._read_bases = read_bases
        self._on_due = on_due

    def __len__(self) -> int:
        return len(self.blocks)

    def write(self, block: int, at: int, piece: bytes, number: int) -> None:
        """Bytes [at, at + len(piece)) of ``block`` were written as write ``number``."""
        self.write_all([(block, at, piece, number)])

    def write_all(self, pieces: list[tuple[int, int, bytes, int]]) -> None:
        """Many of those, in order: (block, at, piece, number)."""
        blocks, before = self.blocks, len(self.blocks)
        fresh = [block for block in dict.fromkeys(piece[0] for piece in pieces) if block not in blocks]
        if fresh:
            self._begin(fresh)
        for block, at, piece, number in pieces:
            blocks[block].add(at, piece, number)
        if before < CUT_DUE <= len(blocks):
            self._on_due()

    def _begin(self, fresh: list[int]) -> None:
        words, digests = self._resolve(fresh)
        bases = self._read_bases(fresh, words, digests)
        for block, word, digest, base in zip(fresh, words, digests, bases, strict=True):
            self.blocks[block] = PartialBlock(word, digest, base)

    def overwritten(self, first: int, count: int) -> None:
        """Blocks [first, first + count) were overwritten whole."""
        if count > len(self.blocks):
            for block in [b for b in self.blocks if first <= b < first + count]:
                del self.blocks[block]
            return
        for block in range(first, first + count):
            self.blocks.pop(block, None)

    def copies(self) -> dict[int, PartialBlock]:
        """All of them as they are now."""
        return {block: partial.copy() for block, partial in self.blocks.items()}

    def drop_made_whole(self, blocks: Iterable[int], cut_write: WriteNumber) -> None:
        """A point with its cut at ``cut_write`` holds these whole: drop what has no newer fragment."""
        for block in blocks:
            partial = self.blocks.get(block)
            if partial is not None and partial.write <= cut_write:
                del self.blocks[block]
