"""Records manifest edits, one after the other, each durable before the next.

Every transfer of the log states the last edit that was durable when it was written (``NodeHeaderState.edit``), so
the writer keeps that number too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from revolume.errors import NoSpace, Poisoned, RevolumeError
from revolume.host.disk import out_of_room
from revolume.host.work import Work
from revolume.log.write.appender import NodeHeaderState
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import State
from revolume.volume.uncancelled_tasks import UncancelledTasks


class ManifestWriter:
    """The open manifest. ``find_room`` empties the room that was kept back on the disk, in a thread, and says
    whether there was any."""

    def __init__(
        self,
        work: Work,
        manifest: Manifest,
        header: NodeHeaderState,
        find_room: Callable[[], bool],
        tasks: UncancelledTasks,
    ) -> None:
        self._work = work
        self._find_room = find_room
        self._tasks = tasks
        self._lock = asyncio.Lock()
        self._poison: Callable[[str], Poisoned] | None = None
        self.header = header
        self.manifest = manifest

    @property
    def state(self) -> State:
        """Everything that the durable edits amount to."""
        return self.manifest.state

    @property
    def number(self) -> int:
        """The last durable edit's number."""
        return self.manifest.number

    def poison_with(self, poison: Callable[[str], Poisoned]) -> None:
        """The log stands open from now on: a failed sync of the manifest is told to ``poison``, which says what is
        raised. Before that a volume is being opened, and a failure is the opening's."""
        self._poison = poison

    async def record(self, *edits: tuple[EditKind, bytes]) -> None:
        """All of these edits are durable when it returns. Cancelling the caller does not stop an edit: the next
        one must not begin beside it. Poisoned: a sync failed. NoSpace, RevolumeError: nothing was recorded."""
        await self._tasks.finish(self._record(*edits))

    async def renew(self) -> None:
        """Write the whole state into the manifest's other file. OSError: the manifest is as it was."""
        await self._work.call_sync(self.manifest.renew)
        self.header.edit = self.manifest.number

    async def close_clean(self) -> None:
        """Write the last state, behind every edit that was asked for; none may be asked for any more."""
        async with self._lock:
            await self._work.call_sync(self.manifest.close_clean)

    def close(self) -> None:
        """Let go of the file."""
        self.manifest.close()

    async def _record(self, *edits: tuple[EditKind, bytes]) -> None:
        async with self._lock:
            try:
                await self._append(*edits)
            except OSError as error:
                raise self._not_recorded(error) from error
            self.header.edit = self.manifest.number
            if self.manifest.failure is not None:  # these edits stand, none will follow
                self._not_recorded(self.manifest.failure)

    async def _append(self, *edits: tuple[EditKind, bytes]) -> None:
        """With no room, once more with the room that was kept back."""
        try:
            await self._work.call_sync(self.manifest.record, *edits)
        except OSError as error:
            if not out_of_room(error) or self.manifest.failure is not None:
                raise
            if not await self._work.call_sync(self._find_room):
                raise
            await self._work.call_sync(self.manifest.record, *edits)

    def _not_recorded(self, error: OSError) -> RevolumeError:
        """A failed sync poisons the volume; without it nothing has happened, and it may be tried again."""
        cause = f"Writing the manifest failed: {error.strerror}."
        if self.manifest.failure is not None and self._poison is not None:
            return self._poison(cause)
        kind = NoSpace if out_of_room(error) else RevolumeError
        return kind("manifest-not-written", cause, "Look at the disk; nothing that was promised is lost.")
