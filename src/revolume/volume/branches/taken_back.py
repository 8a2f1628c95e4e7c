"""What a copy wrote alone, read step by step and written into the files of a branch.

A step leads from the common point, or a named moment, to the next such moment or the end of the log. Which blocks
were changed in it, the log's columns say. What they hold at a branch's end is asked of the live map as a promotion
would fill it, so that partial blocks are merged; at a moment before, of the log (``moment_source.py``). Every
digest is compared. Each version is written once: a moment's table is what changed up to it, over the table of the
moment before. A block that can't be read goes into the branch as one that can't be: every read of it is an
error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, digest_array
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapMeta
from revolume.chain.versions import EVERY_WRITE, newest_in
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.host.work import Work
from revolume.log.format.columns import Columns
from revolume.volume.branches.branch_files import BranchWriter
from revolume.volume.livemap.reader import Reader

U64 = npt.NDArray[np.uint64]
PIECE_BLOCKS = 1024
ATTEMPTS = 3
"""So often is a block read before it is taken for lost."""


@dataclass(frozen=True, slots=True)
class ChangedBlocks:
    """Blocks changed from one write to another: one by one (uint64, ascending), and as zero ranges. What is named
    one by one is no zero for lying in a range."""

    blocks: U64
    zeroes: Ranges

    def with_blocks(self, blocks: U64) -> ChangedBlocks:
        """These (uint64) too, one by one."""
        return ChangedBlocks(np.union1d(self.blocks, blocks), self.zeroes)

    def then(self, later: ChangedBlocks) -> ChangedBlocks:
        """These, and what was changed after that."""
        still = self.blocks[later.zeroes.get(self.blocks) == 0]
        return ChangedBlocks(np.union1d(still, later.blocks), self.zeroes.with_ranges(list(later.zeroes)))


@dataclass(frozen=True, slots=True)
class Stage:
    """A moment as it is written. ``table``: the number of its table; ``changed``: since the stage before, or since
    the common point. ``reader`` reads the volume, of ``size`` bytes, as it was then."""

    table: int
    meta: MapMeta
    changed: ChangedBlocks
    reader: Reader
    size: int


@dataclass(frozen=True, slots=True)
class Written:
    """What went into the files: blocks with content there, and of each stage how many blocks its table names."""

    data: int
    blocks: tuple[int, ...]


def changed_between(pieces: list[Columns], after: WriteNumber, upto: WriteNumber = EVERY_WRITE) -> ChangedBlocks:
    """The blocks that these transfers changed in the writes ``(after, upto]``."""
    found = newest_in(pieces, after, upto)
    partly = np.array([fragment.block for fragment in found.fragments], np.uint64)
    return ChangedBlocks(np.union1d(found.delta.blocks, partly), found.delta.zeroes)


class TakingBack:
    """Of one branch: ``number`` is that of its file of blocks."""

    def __init__(self, directory: Directory, number: int, work: Work) -> None:
        self._directory = directory
        self._number = number
        self._work = work

    async def write(self, volume: bytes, stages: Sequence[Stage]) -> Written:
        """Write the files, durable with their names when it returns. ``stages``: oldest first, the branch's end
        last. OSError: the disk failed, or is full; none is left then."""
        tables = [stage.table for stage in stages]
        writer = await self._work.call(BranchWriter, self._directory, self._number, tables)
        counts, table = [], DeltaMap()
        try:
            for stage in stages:
                table = await self._staged(writer, stage, table)
                counts.append(table.changed().block_count())
                await self._work.call(writer.table, stage.table, volume, stage.meta, table)
            await self._work.call(writer.finish)
            return Written(writer.data, tuple(counts))
        except BaseException:
            await self._work.call(writer.discard)
            raise
        finally:
            writer.close()

    async def _staged(self, writer: BranchWriter, stage: Stage, before: DeltaMap) -> DeltaMap:
        """The stage's table, over that of the stage ``before``, of which what could not be read is tried again."""
        lost = before.blocks[before.digests == np.uint64(LOST_DIGEST)]
        made = await self._copied(writer, stage, np.union1d(stage.changed.blocks, lost))
        return made.with_zeroes(stage.changed.zeroes).over(before)

    async def _copied(self, writer: BranchWriter, stage: Stage, blocks: U64) -> DeltaMap:
        locations, digests = np.zeros(len(blocks), np.uint64), np.zeros(len(blocks), np.uint64)
        for at in range(0, len(blocks), PIECE_BLOCKS):
            here = slice(at, min(len(blocks), at + PIECE_BLOCKS))
            content, digests[here] = await self._read(stage, blocks[here])
            locations[here] = await self._work.call(writer.put, content, digests[here])
        return DeltaMap(blocks, locations, digests)

    async def _read(self, stage: Stage, blocks: U64) -> tuple[memoryview, U64]:
        """Their content, and digests: 0 where a block reads as zeroes, LOST_DIGEST where it can't be read."""
        content = memoryview(bytearray(len(blocks) * BLOCK))
        reads = list(_reads(blocks, content, stage.size))
        waiting = stage.reader.read_now(reads)
        lost = [index for index in waiting if not await _waited(stage.reader, *reads[index])]
        digests = await self._work.call(digest_array, content, len(blocks))
        digests[digests == np.uint64(ZERO_DIGEST)] = 0
        digests[lost] = LOST_DIGEST
        return content, digests


def _reads(blocks: U64, content: memoryview, size: int) -> Iterator[tuple[int, memoryview]]:
    for index, block in enumerate(blocks.tolist()):
        length = max(0, min(BLOCK, size - block * BLOCK))
        yield block * BLOCK, content[index * BLOCK : index * BLOCK + length]


async def _waited(reader: Reader, offset: int, view: memoryview) -> bool:
    for _ in range(ATTEMPTS):
        try:
            await reader.read(offset, view)
            return True
        except Damaged:
            continue
    view[:] = bytes(len(view))
    return False
