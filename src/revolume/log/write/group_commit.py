"""Group commit: one sync answers everyone who waited for it.

A sync covers every file dirtied since the last one, through the descriptor that wrote it, up to the
position captured *before* it started. Waiters are released by position, so that a thousand FUA writes that
arrive while a sync runs share the next one.

A failed sync poisons the log for good. After EIO the kernel may have marked the lost pages clean; a second
sync would succeed and prove nothing (PostgreSQL learned it in 2018), so none is ever tried.

Between awaits: ``_dirty`` and the captured position are taken together, in one turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from revolume.blocks.numbers import Position
from revolume.errors import Poisoned
from revolume.host.disk import File
from revolume.host.work import Work
from revolume.log.write.appender import NodeHeaderState


class GroupCommit:
    """Syncs the log and holds this node's durable position, which begins where ``header`` says and is kept there.
    ``position()`` returns the newest position up to which every write is complete; ``appended()`` the newest of
    all, which may lie within a write that is half there. ``on_poison`` is called once, with the cause, when a sync
    or a write of the log has failed."""

    def __init__(
        self,
        work: Work,
        position: Callable[[], Position],
        header: NodeHeaderState,
        on_poison: Callable[[str], None] = lambda cause: None,
        appended: Callable[[], Position] = lambda: Position(0),
    ) -> None:
        self._work = work
        self._position = position
        self._appended = appended
        self._header = header
        self._on_poison = on_poison
        self._followers: list[Callable[[Position], None]] = []
        self._dirty: dict[str, File] = {}
        self._waiters: list[tuple[Position, asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None
        self.durable = header.durable
        self.unsynced_bytes = 0
        self.syncs = 0
        self.failure: Poisoned | None = None

    def follow(self, follower: Callable[[Position], None]) -> None:
        """Call ``follower`` with each new durable position, before waiters are released."""
        self._followers.append(follower)

    def dirtied(self, file: File, size: int) -> None:
        """``size`` bytes were written to ``file`` since the last sync."""
        if file.name not in self._dirty:
            self._dirty[file.name] = file
        self.unsynced_bytes += size

    async def wait_durable(self, position: Position) -> None:
        """Return once everything up to ``position`` is on the disk; Poisoned if it can't be."""
        if self.failure is not None:
            raise self.failure
        if position <= self.durable:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((position, future))
        self.start()
        await future

    def start(self) -> None:
        """Start a sync unless one is running; a running one starts the next while there are waiters."""
        if self._running is None and self.failure is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def synced(self) -> None:
        """Return once everything written so far, local records too, is on the disk."""
        await self.wait_idle()  # a sync that runs may have begun before the last write
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            raise self.failure
        self._waiters.append((Position(0), future))
        self.start()
        await future

    async def wait_idle(self) -> None:
        """Return when no sync is running."""
        while self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        try:
            while True:
                await self._sync_once()
                # Who waits for what has not been written yet is answered by the sync that follows on it: going
                # round for them would hold up the loop, and with it the very write that they wait for.
                if self.failure is not None or all(p > self._position() for p, _ in self._waiters):
                    return
        finally:
            self._running = None

    async def _sync_once(self) -> None:
        target, appended = self._position(), self._appended()
        files, self._dirty = list(self._dirty.values()), {}
        self.unsynced_bytes = 0
        try:
            for file in files:
                await self._work.call_sync(file.datasync)
        except OSError as error:
            self.poison(f"Syncing the log failed: {error.strerror}.")
            return
        self.syncs += 1
        self._header.synced = max(target, appended)
        self._advance(target)

    def _advance(self, target: Position) -> None:
        self.durable = self._header.durable = target
        for follower in self._followers:
            follower(target)
        waiters, self._waiters = self._waiters, []
        for position, future in waiters:
            if future.done():
                continue
            if position <= target:
                future.set_result(None)
            else:
                self._waiters.append((position, future))

    def poison(self, cause: str) -> Poisoned:
        """Fail every waiter and every later call with Poisoned, which is returned. Idempotent: the first cause
        stands."""
        if self.failure is None:
            hint = "Check the disk, then open the volume again: it recovers what was durable."
            self.failure = Poisoned("poisoned", cause, hint)
            self._on_poison(cause)
        waiters, self._waiters = self._waiters, []
        for _, future in waiters:
            if not future.done():
                future.set_exception(self.failure)
        return self.failure
