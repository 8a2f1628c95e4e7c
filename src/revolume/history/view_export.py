"""A view as one NBD connection sees it: read-only, or with an overlay that takes its writes.

Several connections may share one view (``HeldView``); each has an export of its own over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from revolume.blocks.extents import extents
from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.blocks.numbers import Position, WriteNumber
from revolume.history.allocation import ALLOCATION, Bitmaps, ChangedSince, Extents, allocation, span
from revolume.history.live_export import fill_page_cache
from revolume.history.moments import format_time
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.suspect_moment import suspect_words
from revolume.history.views import View
from revolume.history.writable_overlay import WritableOverlay
from revolume.log.write.operations import Op
from revolume.volume.volume_base import OpenVolume


@dataclass(slots=True)
class HeldView:
    """An open view with its users; it stays open for a while after the last of them has gone."""

    view: View
    overlay: WritableOverlay | None
    users: int = 0
    expiry: asyncio.TimerHandle | None = None


class ViewExport:
    """A view as an NBD export, for one connection; writable if it has an overlay. GaveWay is raised by every read
    and write once the view has been ended to make room."""

    def __init__(self, name: str, held: HeldView, moving: bool, bitmaps: Bitmaps, closed: Callable[[bool], None]):
        self._view = held.view
        self._scratch = held.overlay
        self._bitmaps = bitmaps
        self._closed = closed
        self.name = name
        self.description = describe_view(name, held.view.volume, held.view.moment)
        self.size = held.view.size
        self.read_only = held.overlay is None
        self.multi_conn = held.overlay is None and not moving
        self.position = Position(0)
        self.newest_write = held.view.moment.write
        self.since: dict[str, ChangedSince] = {}

    @property
    def held_bytes(self) -> int:
        """Bytes that this view's overlay takes on the disk; 0 without one."""
        return self._scratch.bytes if self._scratch is not None else 0

    def append(self, ops: list[Op]) -> Position:
        """Apply changes to the overlay; the position returned is always 0. WouldBlock, NoSpace: nothing was
        done."""
        assert self._scratch is not None
        self._view.lease.check()
        self._scratch.append(ops)
        return self.position

    async def room(self, ops: list[Op]) -> None:
        """Fetch the blocks that these changes cover in part, after WouldBlock."""
        assert self._scratch is not None
        with self._view.using():
            await self._scratch.room(ops)

    def released(self, position: Position) -> bool:
        """True: an overlay's writes are answered as soon as they are applied."""
        return True

    def on_release(self, position: Position, callback: Callable[[], None]) -> None:
        """Call ``callback`` at once: no answer waits for a mirror."""
        callback()

    async def durable(self, position: Position) -> None:
        """Return at once: an overlay is thrown away, so there is nothing to sync."""

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """Serve the reads (offset in bytes, buffer) that need no waiting; the indexes of the others. Every block
        read is compared with its digest. Damaged: one differs. GaveWay: the view has been ended."""
        self._view.lease.check()
        return (self._scratch or self._view.reader).read_now(reads)

    async def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset`` on. Damaged: a block is not what was written. GaveWay: the view has been
        ended."""
        with self._view.using():
            await (self._scratch or self._view.reader).read(offset, buffer)

    async def extents(self, context: str, offset: int, length: int) -> Extents:
        """Extents (bytes, flags) of a metadata context: what is allocated, or what changed since an earlier
        moment."""
        with self._view.using():
            return await self._extents(context, offset, length)

    async def _extents(self, context: str, offset: int, length: int) -> Extents:
        work = self._view.volume.context.host.work
        if context != ALLOCATION:
            return await self._bitmaps.changed(self, context, self._view.source, offset, length)
        if self._scratch is None:
            return await allocation(work, self._view.source, offset, length, self.size)
        first, count, length = span(offset, length, self.size)
        mine = self._scratch.mine(first, count)
        whole = ceil_div(self.size, BLOCK) * BLOCK
        below = await allocation(work, self._view.source, first * BLOCK, count * BLOCK, whole)
        flags = np.repeat([flag for _, flag in below], [size // BLOCK for size, _ in below])
        flags[mine] = 0
        return extents(first, count, flags, offset, length)

    async def cache(self, offset: int, length: int) -> None:
        """Read the range once, so that the kernel's page cache has it (NBD_CMD_CACHE)."""
        await fill_page_cache(self.read, offset, length)

    def close(self, said_goodbye: bool = False) -> None:
        """End this connection's use of the view. ``said_goodbye``: the client disconnected in order, so that a
        moving name need not be kept for its return."""
        self._closed(said_goodbye)


def describe_view(name: str, volume: OpenVolume, resolved: ResolvedMoment) -> str:
    """The description of a moment's export in NBD_INFO_DESCRIPTION and LIST: name, volume, time, and a note if
    there is one."""
    noted = f" ({resolved.note})" if resolved.note else ""
    marked = f", {suspect_words(resolved.suspicion)}" if resolved.suspicion is not None else ""
    return f"{name}: {volume.name} at {format_time(resolved.time_ns)}{noted}{marked}"


@dataclass(frozen=True, slots=True)
class DescribedView:
    """What NBD_OPT_INFO answers about a view that was not opened for it."""

    name: str
    description: str
    size: int
    newest_write: WriteNumber
    since: dict[str, ChangedSince]
    read_only: bool = True
    multi_conn: bool = True

    def close(self, said_goodbye: bool = False) -> None:
        """Do nothing: no view was opened."""
