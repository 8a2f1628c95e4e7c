"""Real threads and the real helper process.

The helper is an executor of one process, started by the first job and started anew after it was lost.
Jobs are handed to it one at a time, the next waits here, so that killing it (a cancelled job, the end)
hits the one job that is meant. It is killed through a pidfd: a pid may belong to somebody else by then.

It is started from the loop's thread on purpose: the kernel's promise to kill it with its parent is tied to
the thread that started it, and a pool's threads come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, cast

from revolume.host import helper
from revolume.host.disk import Disk
from revolume.host.work import Arguments, JobFailed, Result


class RealWork:
    __slots__ = ("_closed", "_helper", "_niceness", "_sync_threads", "_threads", "_turn")

    def __init__(self, *, threads: int = 4, sync_threads: int = 2, niceness: int = 5) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="revolume-call")
        self._sync_threads = ThreadPoolExecutor(sync_threads, thread_name_prefix="revolume-sync")
        self._niceness = niceness
        self._turn = asyncio.Lock()
        self._helper: Helper | None = None
        self._closed = False

    async def call(self, fn: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, fn, *args)

    async def call_sync(self, fn: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._sync_threads, fn, *args)

    async def job(self, fn: Callable[[Disk, *Arguments], Result], *args: *Arguments) -> Result:
        async with self._turn:
            outcome = await (await self._ready_helper()).run(fn, args)
        return cast(Result, _unwrapped(outcome))

    async def _ready_helper(self) -> Helper:
        """The one that is there, or a new one. ``close`` may have come while we waited."""
        if not self._closed and (self._helper is None or not await self._helper.alive()):
            self._helper = await Helper.start(self._niceness)
        if self._closed or self._helper is None:
            raise _failed("The helper process has been closed.")
        return self._helper

    async def close(self) -> None:
        self._closed = True
        if self._helper is not None and self._turn.locked():
            self._helper.kill()
        async with self._turn:  # whoever had it has failed by now, and so will those who wait for it
            if self._helper is not None:
                await asyncio.to_thread(self._helper.shutdown)
                self._helper = None
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._sync_threads.shutdown)


class Helper:
    """One helper process, from its start to its loss."""

    __slots__ = ("_pidfd", "_pool", "killed")

    def __init__(self, pool: ProcessPoolExecutor, pidfd: int) -> None:
        self._pool = pool
        self._pidfd = pidfd
        self.killed = False

    @classmethod
    async def start(cls, niceness: int) -> Helper:
        pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=helper.begin,
            initargs=(os.getpid(), niceness),
        )
        try:
            pid = await asyncio.wrap_future(pool.submit(os.getpid))
            return cls(pool, os.pidfd_open(pid))
        except (BrokenProcessPool, ProcessLookupError):
            pool.shutdown(wait=False)
            raise _failed("The helper process ended while it started.") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    async def alive(self) -> bool:
        """Asked before a job, so that a helper that was lost while idle costs no job."""
        if self.killed:
            return False
        try:
            await asyncio.wrap_future(self._pool.submit(os.getpid))
        except BrokenProcessPool:
            self.kill()
            return False
        return True

    async def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> helper.Outcome:
        try:
            return await asyncio.wrap_future(self._pool.submit(helper.run, fn, args))
        except BrokenProcessPool:
            self.kill()
            raise _failed(f"The helper process ended during {fn.__name__}.") from None
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> None:
        if self.killed:
            return
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        self._pool.shutdown(wait=False)

    def shutdown(self) -> None:
        """Ends an idle one in order; waits until the process is gone."""
        self._pool.shutdown(wait=True)
        if not self.killed:
            self.killed = True
            os.close(self._pidfd)


def _unwrapped(outcome: helper.Outcome) -> object:
    if isinstance(outcome, helper.Returned):
        return outcome.value
    if isinstance(outcome, helper.Unspeakable):
        failure: Exception = _failed(f"The job ended with {outcome.what}.")
    else:
        failure = outcome.error()
    failure.add_note(f"In the helper process:\n{outcome.trace}")
    raise failure


def _failed(cause: str) -> JobFailed:
    return JobFailed("job-failed", cause, "It may have run out of memory; the next job gets a new one.")
