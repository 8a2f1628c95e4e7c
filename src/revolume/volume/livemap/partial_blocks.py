"""The partial buffer: whole blocks being put together from writes that covered only part of them.

A small buffer, readable at once. Each block in it knows where its last whole version lies (its *base*) and
holds either the merged 4096 bytes or, until the base has been read, the pieces in order. A whole overwrite
ends it; the next consistency point carries its content whole, and if nothing newer was written since
the cut the block leaves the buffer. Many blocks in here make a cut due earlier, so the buffer stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from revolume.errors import Damaged

BLOCK = 4096
CUT_DUE = 1024


class Partial:
    """One block. ``write``: number of its newest fragment. ``pieces`` wait for the base to be merged."""

    __slots__ = ("base_digest", "base_word", "data", "pieces", "write")

    def __init__(self, base_word: int, base_digest: int) -> None:
        self.base_word = base_word
        self.base_digest = base_digest
        self.data: bytearray | None = None
        self.pieces: list[tuple[int, bytes]] = []
        self.write = 0

    def add(self, at: int, piece: bytes, write: int) -> None:
        """A fragment was written."""
        self.write = write
        if self.data is None:
            self.pieces.append((at, piece))
        else:
            self.data[at : at + len(piece)] = piece

    def merge(self, base: bytes | bytearray) -> None:
        """The base has been read: from now on the content is whole."""
        if self.data is None:
            data = bytearray(base)
            for at, piece in self.pieces:
                data[at : at + len(piece)] = piece
            self.data = data
            self.pieces = []

    def stands_on(self, other: Partial) -> bool:
        """Whether both are the same block over the same whole version."""
        return (self.base_word, self.base_digest) == (other.base_word, other.base_digest)

    def copy(self) -> Partial:
        """As it is now, untouched by later fragments."""
        twin = Partial(self.base_word, self.base_digest)
        twin.data = None if self.data is None else bytearray(self.data)
        twin.pieces = list(self.pieces)
        twin.write = self.write
        return twin


class Partials:
    """All partially modified blocks. ``resolve`` says where a block's last whole version lies; ``read_base``
    reads it without waiting, None where it would have to wait."""

    def __init__(
        self,
        resolve: Callable[[int], tuple[int, int]],
        read_base: Callable[[int, int, int], bytes | bytearray | None],
    ) -> None:
        self.blocks: dict[int, Partial] = {}
        self._resolve = resolve
        self._read_base = read_base
        self.on_due: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.blocks)

    def write(self, block: int, at: int, piece: bytes, number: int) -> None:
        """Bytes [at, at + len(piece)) of ``block`` were written as write ``number``."""
        partial = self.blocks.get(block)
        if partial is None:
            partial = self._begin(block)
        partial.add(at, piece, number)
        if len(self.blocks) == CUT_DUE:
            self.on_due()

    def _begin(self, block: int) -> Partial:
        partial = self.blocks[block] = Partial(*self._resolve(block))
        try:
            base = self._read_base(block, partial.base_word, partial.base_digest)
        except (Damaged, OSError):  # the fragment is in the log already: nothing may fail here any more
            base = None  # reads of this block, and the next point, will meet and report it
        if base is not None:
            partial.merge(base)
        return partial

    def overwritten(self, first: int, count: int) -> None:
        """Blocks [first, first + count) were overwritten whole."""
        if count > len(self.blocks):
            for block in [b for b in self.blocks if first <= b < first + count]:
                del self.blocks[block]
            return
        for block in range(first, first + count):
            self.blocks.pop(block, None)

    def copies(self) -> dict[int, Partial]:
        """All of them as they are now."""
        return {block: partial.copy() for block, partial in self.blocks.items()}

    def settled(self, blocks: Iterable[int], cut_write: int) -> None:
        """A point with its cut at ``cut_write`` holds these whole: drop what has no newer fragment."""
        for block in blocks:
            partial = self.blocks.get(block)
            if partial is not None and partial.write <= cut_write:
                del self.blocks[block]
