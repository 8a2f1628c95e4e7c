"""What a volume must hold at every write number, built from what it accepted, in the order in which it did.

Of each block its versions are kept, with the number from which on it was so; the whole volume at a number is each
block's last version up to there. After a crash the volume must be what it was at one of these numbers: a prefix of
its writes. Which one it was shows in the content, and everything behind it has not happened.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate

from revolume.blocks.geometry import BLOCK
from revolume.log.write.operations import OP_WRITE, Op

ZEROES = bytes(BLOCK)
Blocks = dict[int, bytes]


class Model:
    """All states of one volume. ``numbers``: the write numbers accepted so far, ascending, with gaps."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.numbers = [0]
        self.when: dict[int, int] = {}
        """At which virtual time each write was accepted, in ns."""
        self.folded: dict[int, int] = {}
        """Of points that folds have taken out of the log: by their writes, their lived times in ms."""
        self._versions: dict[int, list[tuple[int, bytes]]] = {}

    @property
    def newest(self) -> int:
        """The last write's number."""
        return self.numbers[-1]

    @property
    def moments(self) -> dict[int, Blocks]:
        """The whole volume at each number: for small ones."""
        return {number: self.at(number) for number in self.numbers}

    def begin(self, number: int) -> None:
        """It is empty, and at this number."""
        self.numbers = [number]
        self._versions = {}

    def accepted(self, first: int, ops: Sequence[Op]) -> None:
        """These operations got the numbers from ``first`` on."""
        for number, (kind, offset, length, payload) in enumerate(ops, first):
            if number <= self.newest:  # what was to get it before has not got it
                self.cut_back(number - 1)
            self._put(number, offset, bytes(length) if kind != OP_WRITE or payload is None else bytes(payload))
            self.numbers.append(number)

    def accepted_as_one(self, number: int, ops: Sequence[Op]) -> None:
        """All of these together made the volume what it is at ``number``."""
        if self.newest != number:
            self.cut_back(number - 1)
            self.numbers.append(number)
        for kind, offset, length, payload in ops:
            self._put(number, offset, bytes(length) if kind != OP_WRITE or payload is None else bytes(payload))

    def _put(self, number: int, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            block, inside = divmod(offset + at, BLOCK)
            piece = data[at : at + BLOCK - inside]
            versions = self._versions.setdefault(block, [(-1, ZEROES)])
            old = versions[-1][1]
            new = piece if len(piece) == BLOCK else old[:inside] + piece + old[inside + len(piece) :]
            versions.append((number, new))
            at += len(piece)

    def at(self, number: int) -> Blocks:
        """The blocks that were not zero."""
        found = {block: v[bisect_right(v, number, key=_number) - 1][1] for block, v in self._versions.items()}
        return {block: data for block, data in found.items() if data != ZEROES}

    def since(self, number: int, content: bytes | bytearray) -> int | None:
        """As ``find``, at this number or behind it; None too if it was so only before."""
        found = self.find(content)
        return found if found is not None and found >= number else None

    def before(self, number: int) -> int:
        """The last number before this one; the first there is, where there is none."""
        return self.numbers[max(0, bisect_left(self.numbers, number) - 1)]

    def changed(self, since: int, upto: int) -> int:
        """How many blocks were written behind ``since`` up to ``upto``, but for those that hold nothing before and
        after."""
        return sum(self._is_changed(versions, since, upto) for versions in self._versions.values())

    @staticmethod
    def _is_changed(versions: list[tuple[int, bytes]], since: int, upto: int) -> bool:
        before, after = (bisect_right(versions, number, key=_number) for number in (since, upto))
        return after > before and (versions[before - 1][1], versions[after - 1][1]) != (ZEROES, ZEROES)

    def grown(self, number: int, now_ns: int) -> None:
        """The volume is larger from this number on; what there was is what it was."""
        self.numbers.append(number)
        self.when[number] = now_ns

    def find(self, content: bytes | bytearray, ignored: Collection[int] = ()) -> int | None:
        """The newest number at which the volume was this, but for some blocks; None: it never was."""
        blocks = {block: data for block, data in blocks_of(content).items() if block not in ignored}
        known = {block: versions for block, versions in self._versions.items() if block not in ignored}
        if not blocks.keys() <= known.keys():
            return None
        changes = [0] * (len(self.numbers) + 1)
        for block, versions in known.items():
            for begin, end in self._when(versions, blocks.get(block, ZEROES)):
                changes[begin] += 1
                changes[end] -= 1
        equal = list(accumulate(changes[:-1]))
        found = [at for at, blocks_equal in enumerate(equal) if blocks_equal == len(known)]
        return self.numbers[found[-1]] if found else None

    def _when(self, versions: list[tuple[int, bytes]], data: bytes) -> Iterator[tuple[int, int]]:
        """The stretches of ``numbers`` in which a block was ``data``."""
        for place, (number, content) in enumerate(versions):
            if content == data:
                behind = versions[place + 1][0] if place + 1 < len(versions) else self.newest + 1
                yield bisect_left(self.numbers, number), bisect_left(self.numbers, behind)

    def cut_back(self, number: int) -> None:
        """What lies behind ``number`` is lost."""
        del self.numbers[bisect_right(self.numbers, number) :]
        for versions in self._versions.values():
            del versions[bisect_right(versions, number, key=_number) :]

    def differs(self, number: int, content: bytes | bytearray) -> str:
        """The first block in which ``content`` is not the volume at ``number``; empty: it is."""
        have, want = blocks_of(content), self.at(number)
        if have == want:
            return ""
        block = min(b for b in {*have, *want} if have.get(b) != want.get(b))
        return f"block {block} {'reads as zero' if block not in have else 'differs'}"


def _number(version: tuple[int, bytes]) -> int:
    return version[0]


def blocks_of(content: bytes | bytearray) -> Blocks:
    """The blocks that are not zero."""
    whole = bytes(content)
    pieces = ((at // BLOCK, whole[at : at + BLOCK]) for at in range(0, len(whole), BLOCK))
    return {block: data for block, data in pieces if data != ZEROES}
