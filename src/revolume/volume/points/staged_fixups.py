"""Blocks that put a mirror's copy right, kept in memory until the point is sealed to which they belong.

The source names the point before it sends the point's record. A batch is part of no other point: if the one of
that number is another cut than was named, the batch is dropped, and whoever waits for it is told. What a batch
holds has been compared with what clients changed: the rest of the point does not touch these blocks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.chain.point import Point

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Fixups:
    """A batch: ``blocks``, ascending, with the content of each. ``position`` and ``chain``: of the cut of the
    point to which it belongs. ``overwritten``, ascending: blocks that were wrong too, until clients wrote them."""

    point: int
    position: Position
    chain: bytes
    blocks: U64
    contents: memoryview
    overwritten: U64

    def right(self) -> BlockSet:
        """The blocks that are right with this point."""
        return BlockSet.of_blocks(np.union1d(self.blocks, self.overwritten))

    def held(self) -> list[tuple[int, bytes]]:
        """(block, 4096 bytes) of each."""
        contents = self.contents
        return [
            (block, bytes(contents[at * BLOCK : (at + 1) * BLOCK]))
            for at, block in enumerate(self.blocks.tolist())
        ]


class StagedFixups:
    """Of one copy. ``stage`` gives a future that is done once the batch is part of its point, durably; cancelling
    it drops the batch."""

    def __init__(self) -> None:
        self._staged: list[tuple[Fixups, asyncio.Future[int]]] = []

    def stage(self, fixups: Fixups) -> asyncio.Future[int]:
        """The blocks that were stored, once the point is agreed."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._staged.append((fixups, future))
        return future

    def of(self, point: Point) -> list[Fixups]:
        """The batches that belong to this point."""
        found = []
        for fixups, future in self._staged:
            if fixups.point != point.number or future.done():
                continue
            if (fixups.position, fixups.chain) == (point.position, point.chain):
                found.append(fixups)
            else:
                future.set_exception(ConnectionError("the point was cut elsewhere than it had been named"))
        return found

    def only(self, batch: Fixups, count: int) -> None:
        """Of this batch only its first ``count`` blocks became part of the point: there was no room for more."""
        kept = replace(batch, blocks=batch.blocks[:count], contents=batch.contents[: count * BLOCK])
        self._staged = [(kept if staged is batch else staged, future) for staged, future in self._staged]

    def agreed(self, number: int) -> None:
        """The point of this number is agreed, durably: tell whoever waits for a batch of it, or of one before."""
        staged, self._staged = self._staged, []
        for fixups, future in staged:
            if future.done():
                continue
            if fixups.point == number:
                future.set_result(len(fixups.blocks))
            elif fixups.point < number:
                future.set_exception(ConnectionError("the point had been agreed before it was named"))
            else:
                self._staged.append((fixups, future))
