"""What happens beside appending: footers for sealed segments, and headers that state how far all is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from revolume.host.open_files import out_of_descriptors
from revolume.log.appender import Appender
from revolume.log.segment import Segment, write_footer
from revolume.volume.core import Core


def watch(core: Core) -> None:
    """Have both done from now on."""
    core.writer.on_seal = Sealer(core).seal
    core.commit.on_durable = Durables(core).moved


class Sealer:
    """Footers of sealed segments, written by a thread."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def seal(self, segment: Segment, appender: Appender) -> None:
        """The appender leaves this segment."""
        core = self._core
        stated = (core.commit.durable, core.manifest.number)
        chains = (appender.chain_before, appender.chain)
        write = partial(
            write_footer, segment, core.volume_id, appender.columns, appender.next_block, chains, stated
        )
        core.unwritten[segment.use] = write
        task = asyncio.create_task(self._write(segment, write))
        core.footers.add(task)
        task.add_done_callback(core.footers.discard)

    async def _write(self, segment: Segment, write: Callable[[], None]) -> None:
        """Without its footer a segment is read by its headers; a clean stop tries again."""
        core = self._core
        try:
            await core.host.work.call(write)
            core.unwritten.pop(segment.use, None)
        except OSError as error:
            core.events.tell(f"the footer of segment file {segment.index} was not written: {error.strerror}")
        self._note(segment)
        await self._sync_oldest()

    async def _sync_oldest(self) -> None:
        """A segment that waits for its sync keeps its file open, so only some may wait. The log's own syncs have
        reached the oldest long ago: little more than its footer is left."""
        core = self._core
        waiting = sorted(core.sealed.keys() - core.unwritten.keys())
        for use in waiting[: -(core.pool.kept_open // 4)]:
            if core.commit.failure is not None or use not in core.sealed or use not in core.pool.by_use:
                continue
            try:
                await core.host.work.call_sync(core.sealed[use].file.datasync)
            except OSError as error:
                if out_of_descriptors(error):
                    return  # nothing was tried: the next one that is sealed tries again
                if use in core.pool.by_use:  # else it was recycled meanwhile, and nobody needs it
                    core.commit.poison(f"Syncing the log failed: {error.strerror}.")
                continue
            core.sealed.pop(use, None)
            core.pool.sealed(use)

    def _note(self, segment: Segment) -> None:
        """To be synced later, at a clean stop at the latest; what is recycled before needs it no more."""
        core = self._core
        core.sealed[segment.use] = segment
        core.sealed = {use: s for use, s in core.sealed.items() if core.pool.by_use.get(use) is s}
        core.unwritten = {use: write for use, write in core.unwritten.items() if use in core.pool.by_use}


class Durables:
    """What moves when the durable position moves."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def moved(self, position: int) -> None:
        """From now on every header states it."""
        self._core.recorder.stated.durable = position
