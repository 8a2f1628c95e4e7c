"""A writable overlay: the throw-away writable layer over a view (``,rw``).

It boots yesterday's machine and lets it replay its journal; nothing of it stays. Changed blocks lie in a
sparse file without a name, each at its own offset, and a table says which. A change that covers part of a
block needs the block first: if it can't be had without waiting, the change asks for room (``WouldBlock``),
and ``room`` fetches the blocks concerned.

It takes of the disk that the live volume lives on, so it has a quota, a tenth of what is free when it is opened
unless the server was describe_view otherwise, and never takes what is kept back for the volume (the reserve, two
segments of the log). A change beyond that is ENOSPC to the overlay's own client, before anything of it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from revolume.blocks.geometry import BLOCK, fragments, touched_blocks
from revolume.errors import NoSpace
from revolume.history.views import View
from revolume.log.write.operations import OP_WRITE, Op, WouldBlock

SHARE = 10
"""By default an overlay may take one part in so many of what is free when it is opened."""


class WritableOverlay:
    """Reads and writes over one view; all changes are discarded when the view closes. ``quota_bytes``: what it may
    take on the disk; None: a tenth of what is free."""

    def __init__(self, view: View, token: str, quota_bytes: int | None = None) -> None:
        volume = self._volume = view.volume
        self._view = view
        self.bytes = 0
        self.quota_bytes = self._free_bytes() // SHARE if quota_bytes is None else quota_bytes
        name = f"scratch-{token}"
        self._file = volume.context.maps_directory.open(name, create=True, exclusive=True)
        volume.context.maps_directory.remove(name)
        self._file.truncate(-(-view.size // BLOCK) * BLOCK)
        self._work = volume.context.host.work
        self._mine = np.zeros(-(-view.size // BLOCK), bool)
        self._data = np.zeros(-(-view.size // BLOCK), bool)  # of those that are mine, which take room
        view.lease.held_bytes = lambda: self.bytes
        view.closing.append(self._file.close)  # nothing of it stays

    def append(self, ops: list[Op]) -> None:
        """Apply changes in order. WouldBlock: one of them needs a block from the disk first (``room`` fetches it).
        NoSpace: they exceed the quota, or what is free. In both cases none was applied."""
        self._admit([touched_blocks(offset, length) for kind, offset, length, _ in ops if kind == OP_WRITE])
        for _, offset, length, _ in ops:
            for block, _, _ in fragments(offset, length):
                if not self._mine[block] and not self._fetch_now(block):
                    raise WouldBlock
        for kind, offset, length, payload in ops:
            self._apply(kind, offset, length, payload)

    # Room

    def _free_bytes(self) -> int:
        """Bytes that overlays may take of the disk: what is free, without what is kept for the volume."""
        volume = self._volume
        kept = volume.reserve.missing + volume.reserve.slack + 2 * volume.log.pool.segment_blocks * BLOCK
        return max(0, volume.context.directory.free_bytes() - kept)

    def _admit(self, spans: Sequence[tuple[int, int]]) -> None:
        """NoSpace unless these (first, count) blocks may hold data."""
        new = sum(count - int(np.count_nonzero(self._data[first : first + count])) for first, count in spans)
        if not new:
            return
        if self.bytes + new * BLOCK > self.quota_bytes:
            blocks = np.unique(np.concatenate([np.arange(first, first + count) for first, count in spans]))
            new = len(blocks) - int(np.count_nonzero(self._data[blocks]))
        if self.bytes + new * BLOCK > self.quota_bytes:
            raise NoSpace(
                "overlay-full",
                f"This throw-away overlay may hold {self.quota_bytes} bytes.",
                "Serve the volume with a larger --overlay-quota.",
            )
        if new * BLOCK > self._free_bytes():
            raise NoSpace(
                "overlay-no-room",
                "What is free on the disk is kept for the volume, and not for throw-away overlays.",
                "Free room on the disk.",
            )

    def _note(self, first: int, end: int, data: bool) -> None:
        """Record that these blocks are in the overlay from now on, with data or as holes."""
        had = int(np.count_nonzero(self._data[first:end]))
        self._mine[first:end] = True
        self._data[first:end] = data
        self.bytes += ((end - first if data else 0) - had) * BLOCK

    # Changes

    def _apply(self, kind: int, offset: int, length: int, payload: memoryview | None) -> None:
        first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
        if kind == OP_WRITE and payload is not None:
            self._file.pwritev([payload], offset)
            self._note(first, end, True)
            return
        self._file.punch(offset, length)
        whole = -(-offset // BLOCK), (offset + length) // BLOCK
        if whole[0] < whole[1]:
            self._note(*whole, False)

    def _fetch_now(self, block: int) -> bool:
        view = memoryview(bytearray(self._block_size(block)))
        if self._view.reader.read_now([(block * BLOCK, view)]):
            return False
        self._keep(block, view)
        return True

    def _keep(self, block: int, content: memoryview) -> None:
        self._admit([(block, 1)])
        self._file.pwritev([content], block * BLOCK)
        self._note(block, block + 1, True)

    def _block_size(self, block: int) -> int:
        return min(BLOCK, self._view.size - block * BLOCK)

    async def room(self, ops: list[Op]) -> None:
        """Read the blocks that these changes cover in part into the overlay. Damaged, NoSpace."""
        for _, offset, length, _ in ops:
            for block, _, _ in fragments(offset, length):
                if not self._mine[block]:
                    view = memoryview(bytearray(self._block_size(block)))
                    await self._view.reader.read(block * BLOCK, view)
                    if not self._mine[block]:
                        self._keep(block, view)

    def _parts(self, offset: int, view: memoryview) -> list[tuple[bool, int, memoryview]]:
        """(in the overlay, offset, buffer) of each run of blocks that all lie in the overlay, or all below it."""
        first, end = offset // BLOCK, -(-(offset + len(view)) // BLOCK)
        mine = self._mine[first:end]
        edges = np.flatnonzero(mine[1:] != mine[:-1]) + 1
        bounds = [offset, *((first + edge) * BLOCK for edge in edges.tolist()), offset + len(view)]
        return [
            (bool(self._mine[at // BLOCK]), at, view[at - offset : to - offset]) for at, to in pairwise(bounds)
        ]

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """Serve the reads (offset in bytes, buffer) that need no waiting; the indexes of the others."""
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
        """Fill ``view`` from ``offset`` on, from the overlay and the view below it. Damaged: a block below is not
        what was written."""
        for mine, at, part in self._parts(offset, view):
            if mine:
                await self._work.call(self._file.preadv, [part], at)
            else:
                await self._view.reader.read(at, part)

    def mine(self, first: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """A mask (bool): which of these blocks lie in the overlay."""
        return self._mine[first : first + count]
