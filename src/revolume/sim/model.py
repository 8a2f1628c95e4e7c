"""What a volume must hold at every write number, built from what it accepted, in the order in which it did.

Blocks by number, absent: zeroes. After a crash the volume must be what it was at one of these numbers: a prefix of
its writes. Which one it was shows in the content, and everything behind it has not happened.
"""

from __future__ import annotations

from collections.abc import Sequence

from revolume.log.ops import OP_WRITE, Op

BLOCK = 4096
Blocks = dict[int, bytes]


class Model:
    """See the module's text. ``moments``: the state after each write."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.blocks: Blocks = {}
        self.moments: dict[int, Blocks] = {0: {}}
        self.newest = 0

    def accepted(self, first: int, ops: Sequence[Op]) -> None:
        """These operations got the numbers from ``first`` on."""
        for number, (kind, offset, length, payload) in enumerate(ops, first):
            self._put(offset, bytes(length) if kind != OP_WRITE or payload is None else bytes(payload))
            self.moments[number] = dict(self.blocks)
            self.newest = number

    def _put(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            block, inside = divmod(offset + at, BLOCK)
            piece = data[at : at + BLOCK - inside]
            old = bytearray(self.blocks.get(block, bytes(BLOCK)))
            old[inside : inside + len(piece)] = piece
            if any(old):
                self.blocks[block] = bytes(old)
            else:
                self.blocks.pop(block, None)
            at += len(piece)

    def find(self, content: bytes | bytearray) -> int | None:
        """The newest number at which the volume was this; None: it never was."""
        blocks = blocks_of(content)
        newest_first = sorted(self.moments, reverse=True)
        return next((number for number in newest_first if self.moments[number] == blocks), None)

    def cut_back(self, number: int) -> None:
        """What lies behind ``number`` is lost."""
        for later in [n for n in self.moments if n > number]:
            del self.moments[later]
        self.blocks = dict(self.moments[number])
        self.newest = number

    def differs(self, number: int, content: bytes | bytearray) -> str:
        """The first block in which ``content`` is not the volume at ``number``; empty: it is."""
        have, want = blocks_of(content), self.moments[number]
        if have == want:
            return ""
        block = min(b for b in {*have, *want} if have.get(b) != want.get(b))
        return f"block {block} {'reads as zero' if block not in have else 'differs'}"


def blocks_of(content: bytes | bytearray) -> Blocks:
    """The blocks that are not zero."""
    whole = bytes(content)
    pieces = ((at // BLOCK, whole[at : at + BLOCK]) for at in range(0, len(whole), BLOCK))
    return {block: data for block, data in pieces if any(data)}
