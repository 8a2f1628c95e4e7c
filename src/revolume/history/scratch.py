"""A scratch: the throw-away writable layer over a view (``,rw``).

It boots yesterday's machine and lets it replay its journal; nothing of it stays. Changed blocks lie in a
sparse file without a name, each at its own offset, and a table says which. A change that covers part of a
block needs the block first: if it can't be had without waiting, the change asks for room (``NoRoomNow``),
and ``room`` fetches the blocks concerned.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from revolume.blocks.geometry import fragments
from revolume.history.views import View
from revolume.log.ops import OP_WRITE, NoRoomNow, Op

BLOCK = 4096


class Scratch:
    """Reads and writes over one view."""

    def __init__(self, view: View, token: str) -> None:
        core = view.volume.core
        self._view = view
        name = f"scratch-{token}"
        self._file = core.maps_directory.open(name, create=True, exclusive=True)
        core.maps_directory.remove(name)
        self._file.truncate(-(-view.size // BLOCK) * BLOCK)
        self._work = core.host.work
        self._mine = np.zeros(-(-view.size // BLOCK), bool)
        view.closing.append(self._file.close)  # nothing of it stays

    def append(self, ops: list[Op]) -> None:
        """Apply changes in order; NoRoomNow before any of them if one needs a block from the disk."""
        for _, offset, length, _ in ops:
            for block, _, _ in fragments(offset, length):
                if not self._mine[block] and not self._fetch_now(block):
                    raise NoRoomNow
        for kind, offset, length, payload in ops:
            self._apply(kind, offset, length, payload)

    def _apply(self, kind: int, offset: int, length: int, payload: memoryview | None) -> None:
        if kind == OP_WRITE and payload is not None:
            self._file.pwritev([payload], offset)
        else:
            self._file.punch(offset, length)
        self._mine[offset // BLOCK : -(-(offset + length) // BLOCK)] = True

    def _fetch_now(self, block: int) -> bool:
        view = memoryview(bytearray(self._block_size(block)))
        if self._view.reader.read_now([(block * BLOCK, view)]):
            return False
        self._file.pwritev([view], block * BLOCK)
        self._mine[block] = True
        return True

    def _block_size(self, block: int) -> int:
        return min(BLOCK, self._view.size - block * BLOCK)

    async def room(self, ops: list[Op]) -> None:
        """Fetch the blocks that these changes cover in part."""
        for _, offset, length, _ in ops:
            for block, _, _ in fragments(offset, length):
                if not self._mine[block]:
                    view = memoryview(bytearray(self._block_size(block)))
                    await self._view.reader.read(block * BLOCK, view)
                    if not self._mine[block]:
                        self._file.pwritev([view], block * BLOCK)
                        self._mine[block] = True

    def _parts(self, offset: int, view: memoryview) -> list[tuple[bool, int, memoryview]]:
        """(in the scratch, offset, buffer) of the stretches that lie on one side."""
        first, end = offset // BLOCK, -(-(offset + len(view)) // BLOCK)
        mine = self._mine[first:end]
        edges = np.flatnonzero(mine[1:] != mine[:-1]) + 1
        bounds = [offset, *((first + edge) * BLOCK for edge in edges.tolist()), offset + len(view)]
        return [
            (bool(self._mine[at // BLOCK]), at, view[at - offset : to - offset]) for at, to in pairwise(bounds)
        ]

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """See ``nbd.export.Export``."""
        return [index for index, read in enumerate(reads) if not self._one_now(*read)]

    def _one_now(self, offset: int, view: memoryview) -> bool:
        for mine, at, part in self._parts(offset, view):
            if mine:
                if not self._file.preadv_nowait([part], at):
                    return False
            elif self._view.reader.read_now([(at, part)]):
                return False
        return True

    async def read(self, offset: int, view: memoryview) -> None:
        """See ``nbd.export.Export``."""
        for mine, at, part in self._parts(offset, view):
            if mine:
                await self._work.call(self._file.preadv, [part], at)
            else:
                await self._view.reader.read(at, part)

    def mine(self, first: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which blocks have been changed here."""
        return self._mine[first : first + count]
