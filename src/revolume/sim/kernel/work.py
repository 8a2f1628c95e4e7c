"""``host.Work`` without threads: done in one piece at some instant between call and answer.

A lone ``datasync`` is the exception, because what happens *during* a sync matters most: it takes down what there
is to be synced when it begins, and only when it ends is that on the disk. What is written meanwhile is not
covered, and a power cut in between may keep any of it.

The time that a call takes is what the disk says its operations took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from revolume.host.disk import Disk
from revolume.host.open_files import PooledFile
from revolume.host.work import Arguments, JobFailed, Result
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.disk import SimDirectory, SimDisk, SimFile
from revolume.sim.kernel.process import Process

START_S = 0.0001


class SimWork:
    """One process's threads and helper."""

    def __init__(self, process: Process, disk: SimDisk, chance: Chance) -> None:
        self._process = process
        self._disk = disk
        self._chance = chance
        self._turn = asyncio.Lock()
        self._closed = False

    async def call(self, fn: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
        """Run ``fn`` and charge the virtual time that its disk operations took."""
        owner = getattr(fn, "__self__", None)
        if isinstance(owner, PooledFile) and fn.__name__ == "datasync":
            file, synced = owner.syncing()
            await self.call(file.datasync)
            synced()
            return cast(Result, None)
        if not args and isinstance(owner, SimFile | SimDirectory) and fn.__name__ in ("datasync", "sync"):
            await self._synced(owner)
            return cast(Result, None)
        return cast(Result, await self._done(fn, args))

    call_sync = call

    async def _synced(self, owner: SimFile | SimDirectory) -> None:
        await self._begin()
        finish = owner.begin_sync()
        loop, over = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        loop.call_later(self._disk.take_cost(), self._finish, finish, over)
        await over

    @staticmethod
    def _finish(finish: Callable[[], None], over: asyncio.Future[None]) -> None:
        """On the disk, whether or not anybody still waits for it."""
        error: Exception | None = None
        try:
            finish()
        except OSError as failed:
            error = failed
        if not over.done():
            over.set_result(None) if error is None else over.set_exception(error)

    async def _done(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        await self._begin()
        try:
            result, error = fn(*args), None
        except Exception as failed:
            result, error = None, failed
        await asyncio.sleep(self._disk.take_cost())
        if error is not None:
            raise error
        return result

    async def _begin(self) -> None:
        """A thread takes it up now, or in a while."""
        self._process.require_alive()
        self._disk.take_cost()
        if self._chance.hit(0.5):
            await asyncio.sleep(self._chance.delay(START_S))
        else:
            await asyncio.sleep(0)

    async def job(self, fn: Callable[[Disk, *Arguments], Result], *args: *Arguments) -> Result:
        """Run ``fn`` as in the helper process, which may be lost before the job or when it is done."""
        async with self._turn:
            lost = self._chance.random() if self._chance.hit(self._disk.faults.helper_lost) else 1.0
            if self._closed or lost < 0.5:
                raise _lost(fn)
            result: Result = await self._done(fn, (self._disk, *args))
            if lost < 1.0:
                raise _lost(fn)
            return result

    async def close(self) -> None:
        """Nothing is held."""
        self._closed = True


def _lost(fn: Callable[..., Any]) -> JobFailed:
    return JobFailed("job-failed", f"The helper process ended during {fn.__name__}.", "Try it once more.")
