"""Footers of sealed segments, written beside appending, and synced later.

A segment without its footer is read by its headers, so nothing depends on one until a clean stop promises that
they are all on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from revolume.host.open_files import out_of_descriptors
from revolume.host.work import Work
from revolume.log.format.segment import Segment, write_footer
from revolume.log.write.appender import Appender, NodeHeaderState
from revolume.log.write.group_commit import GroupCommit
from revolume.log.write.segment_pool import SegmentPool
from revolume.volume.state.events import Events


class FooterWriter:
    """Footers of one volume's log. ``header``: what this node states in each, as in the headers of transfers."""

    def __init__(
        self,
        volume_id: bytes,
        work: Work,
        pool: SegmentPool,
        commit: GroupCommit,
        header: NodeHeaderState,
        events: Events,
    ) -> None:
        self._volume_id = volume_id
        self._work = work
        self._pool = pool
        self._commit = commit
        self._header = header
        self._events = events
        self._writing: set[asyncio.Task[None]] = set()
        self.unwritten: dict[int, Callable[[], None]] = {}
        """By use number, what writes the footer of a sealed segment that has none yet."""
        self._sealed: dict[int, Segment] = {}
        """By use number, segments whose footers are written; not all of them are on the disk."""
        self.doubtful: frozenset[int] = frozenset()
        """Use numbers of segments that a crash may have left without a footer."""

    def adopt(self, sealed: Mapping[int, Segment]) -> None:
        """Segments, by use number, whose footers an earlier opening wrote and may not have synced."""
        self._sealed = dict(sealed)
        self.doubtful = frozenset(sealed)

    def seal(self, segment: Segment, appender: Appender) -> None:
        """The appender leaves this segment: have its footer written by a thread."""
        stated = (self._commit.durable, self._header.edit)
        chains = (appender.chain_before, appender.chain)
        write = partial(
            write_footer, segment, self._volume_id, appender.columns, appender.next_block, chains, stated
        )
        self.unwritten[segment.use] = write
        task = asyncio.create_task(self._write(segment, write))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def written(self) -> None:
        """Wait until every segment sealed so far has its footer, or that has failed."""
        while self._writing:
            await asyncio.wait(list(self._writing))

    async def durable(self) -> None:
        """Write what is missing, and wait until all footers are on the disk. Poisoned if that can't be."""
        await self.written()
        for use, segment in list(self._sealed.items()):
            if self._pool.by_use.get(use) is segment:
                try:
                    if write := self.unwritten.get(use):  # the disk failed when it was its turn
                        await self._work.call_sync(write)
                        self.unwritten.pop(use, None)
                    await self._work.call_sync(segment.file.datasync)
                except OSError as error:
                    raise self._commit.poison(f"Syncing the log failed: {error.strerror}.") from error

    async def _write(self, segment: Segment, write: Callable[[], None]) -> None:
        """Where it fails a clean stop tries again."""
        try:
            await self._work.call(write)
            self.unwritten.pop(segment.use, None)
        except OSError as error:
            self._events.tell(f"the footer of segment file {segment.index} was not written: {error.strerror}")
        self._note(segment)
        await self._sync_oldest()

    async def _sync_oldest(self) -> None:
        """A segment that waits for its sync keeps its file open, so only some may wait. The log's own syncs have
        reached the oldest long ago: little more than its footer is left."""
        pool = self._pool
        waiting = sorted(self._sealed.keys() - self.unwritten.keys())
        for use in waiting[: -(pool.kept_open // 4)]:
            if self._commit.failure is not None or use not in self._sealed or use not in pool.by_use:
                continue
            try:
                await self._work.call_sync(self._sealed[use].file.datasync)
            except OSError as error:
                if out_of_descriptors(error):
                    return  # nothing was tried: the next one that is sealed tries again
                if use in pool.by_use:  # else it was recycled meanwhile, and nobody needs it
                    self._commit.poison(f"Syncing the log failed: {error.strerror}.")
                continue
            self._sealed.pop(use, None)
            pool.sealed(use)

    def _note(self, segment: Segment) -> None:
        """To be synced later, at a clean stop at the latest; what is recycled before needs it no more."""
        by_use = self._pool.by_use
        self._sealed[segment.use] = segment
        self._sealed = {use: each for use, each in self._sealed.items() if by_use.get(use) is each}
        self.unwritten = {use: write for use, write in self.unwritten.items() if use in by_use}
