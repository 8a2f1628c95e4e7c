"""Having the kernel write the open segment out early, so that dirty pages stay few and syncs short."""

from __future__ import annotations

import asyncio

from revolume.blocks.geometry import BLOCK
from revolume.host.work import Work
from revolume.log.write.appender import Appender

WRITEBACK_BYTES = 16 << 20


class Writeback:
    """Asks the kernel to write dirty pages of the log early, one request at a time. In a thread, because a request
    waits when the disk's queue is full."""

    def __init__(self, appender: Appender, work: Work) -> None:
        self._appender = appender
        self._work = work
        self._hint: asyncio.Future[None] | None = None
        self.reached = 0
        """Unsynced bytes at the last hint; with fewer a sync has come between."""
        self.due_above = WRITEBACK_BYTES
        """With more unsynced bytes a hint is due."""

    def begin(self, unsynced_bytes: int) -> None:
        """Start writing what was appended lately. ``unsynced_bytes``: bytes appended since the last sync."""
        self.reached, self.due_above = unsynced_bytes, unsynced_bytes + WRITEBACK_BYTES
        segment = self._appender.segment
        if segment is None or (self._hint is not None and not self._hint.done()):
            return
        end = self._appender.next_block * BLOCK
        begin = max(0, end - 2 * WRITEBACK_BYTES)
        self._hint = asyncio.ensure_future(self._work.call(segment.file.writeback, begin, end - begin))

    async def settled(self) -> None:
        """Wait for a request that is under way; the file must not be closed before."""
        if self._hint is not None:
            await asyncio.wait([self._hint])
