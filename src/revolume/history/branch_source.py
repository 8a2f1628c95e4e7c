"""Where a view of a branch finds its blocks: in the branch's table, else as of the common point below it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, DATA_WORD, RESCUED, RESCUED_SHIFT, ZERO, kinds
from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.geometry import BLOCK
from revolume.chain.layered_map import LayeredMap
from revolume.errors import Damaged
from revolume.history.view_source import ViewSource
from revolume.host.disk import Buffer
from revolume.volume.branches.branch_files import BranchFiles
from revolume.volume.livemap.reader import ReadVersion, Store
from revolume.volume.volume_base import OpenVolume

U64 = npt.NDArray[np.uint64]


class BranchStore(Store):
    """The volume's files, and the branch's."""

    def __init__(self, below: Store, files: BranchFiles) -> None:
        super().__init__(below.pool, below.image, below.rescued)
        self._files = files

    def pread(self, kind: int, address: int, buffers: list[Buffer], nowait: bool) -> bool:
        """Fill ``buffers`` from the branch's blocks where the address is one of theirs, else from the volume's
        files. False: it would have to wait, or ends."""
        number, index = divmod(address - RESCUED, 1 << RESCUED_SHIFT)
        if kind != DATA or number != self._files.number:
            return super().pread(kind, address, buffers, nowait)
        if nowait:
            return self._files.blocks.preadv_nowait(buffers, index * BLOCK)
        return self._files.blocks.preadv(buffers, index * BLOCK) == sum(map(len, buffers))


class BranchSource(ViewSource):
    """What a view of a branch reads from. No block is partially modified there: at the common point a record
    carried them whole, and in the branch they were put together when it was made."""

    def __init__(self, volume: OpenVolume, below: ViewSource, files: BranchFiles) -> None:
        super().__init__(volume, below.write, files.table)
        self._below = below
        self._files = files

    @property
    def damaged(self) -> bool:
        """A page of the common point's maps has been met that is not what was written: ``exchange`` them. The
        branch's own table can't be made anew."""
        return self._below.damaged

    def exchange(self, made: LayeredMap | None) -> None:
        """Look up the common point in these maps from now on."""
        self._below.exchange(made)

    def close(self) -> None:
        """Close the branch's files."""
        self._files.close()

    def lookup(self, blocks: U64) -> tuple[U64, U64]:
        """Nothing is in memory: what the common point has there, the branch may have overwritten."""
        return np.zeros(len(blocks), np.uint64), np.zeros(len(blocks), np.uint64)

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool:
        """Resolve, in place, the locations that are 0: in the branch's table, else as of the common point. False:
        pages would have to be read, only with ``nowait``. Damaged: a page is not what was written, or one of the
        blocks was lost when the branch was made."""
        missing = np.flatnonzero(words == 0)
        found = self._files.table.get(blocks[missing], nowait)
        if found is None:
            return False
        hit = found[0] != 0
        at = missing[hit]
        words[at], digests[at] = found[0][hit], found[1][hit]
        if (digests[at] == np.uint64(LOST_DIGEST)).any():
            raise Damaged(
                "read-mismatch", "A block of the branch could not be read any more when the branch was made.",
                "Other blocks of it are whole.",
            )  # fmt: skip
        zero = at[kinds(words[at]) == ZERO]
        words[zero], digests[zero] = 0, 0
        rest = missing[~hit]
        words_below, digests_below = self._below.lookup(blocks[rest])
        if not self._below.settle(blocks[rest], words_below, digests_below, nowait):
            return False
        words[rest], digests[rest] = words_below, digests_below
        return True

    def words(self, blocks: U64) -> U64:
        """Locations with their addresses (uint64, one for each of ``blocks``); what the branch has is newer than
        anything in the log. Reads the disk."""
        found = self._files.table.get(blocks, False)
        assert found is not None
        return np.where(found[0] != 0, np.uint64(DATA_WORD | ADDRESS_MASK), self._below.words(blocks))

    def changed_blocks(self) -> Iterator[U64]:
        """The numbers of blocks that the branch changed, then of those that may have changed between the horizon
        and the common point, in pieces, each of which ascends. Waits for the disk."""
        yield from super().changed_blocks()
        yield from self._below.changed_blocks()

    def partial(self, block: int) -> bytes | bytearray | None:
        """The 4096 bytes of a block that was partially modified at the common point; None if it isn't one, or is
        damaged."""
        return self._below.partial(block)

    async def merge_partial(self, block: int, read_version: ReadVersion) -> None:
        """Do nothing: partial blocks were put together when the view of the common point was opened. Damaged: this
        one could not be."""
        await self._below.merge_partial(block, read_version)
