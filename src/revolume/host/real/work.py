"""Real threads and the real helper process.

The helper is an interpreter that does one job at a time, started by the first job and started anew after it was
lost. The next job waits here, so that killing the helper (a cancelled job, the end) hits the one job that is
meant. It is killed through a pidfd: a pid may belong to somebody else by then.

It is a command of its own, not a copy of this process and not Python's "spawn", which imports the caller's
program a second time: whoever uses this as a library may be any program.

It is started from the loop's thread on purpose: the kernel's promise to kill it with its parent is tied to
the thread that started it, and a pool's threads come and go. All else that waits for it does so in one thread of
its own, in order: start, jobs, end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any, cast

from revolume.host.disk import Disk
from revolume.host.real import helper
from revolume.host.work import Arguments, JobFailed, Result

BEGIN = "import sys; from revolume.host.real.helper import main; main(*map(int, sys.argv[1:]))"


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
        if not self._closed and (self._helper is None or not self._helper.alive()):
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

    __slots__ = ("_connection", "_pidfd", "_process", "_thread", "killed")

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection[Any, Any]) -> None:
        self._process = process
        self._connection = connection
        self._pidfd = os.pidfd_open(process.pid)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="revolume-helper")
        self.killed = False

    @classmethod
    async def start(cls, niceness: int) -> Helper:
        ours, theirs = Pipe()
        with theirs:
            process = spawned(theirs.fileno(), niceness)
        started = cls(process, ours)
        try:
            await started._in_turn(ours.recv_bytes, "while it started")
        except BaseException:
            started.kill()
            raise
        return started

    def alive(self) -> bool:
        """Asked before a job, so that a helper that was lost while idle costs no job."""
        if not self.killed and self._process.poll() is not None:
            self.kill()
        return not self.killed

    async def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> helper.Outcome:
        def exchange() -> helper.Outcome:
            self._connection.send_bytes(pickle.dumps((fn, args)))
            return cast(helper.Outcome, pickle.loads(self._connection.recv_bytes()))

        return await self._in_turn(exchange, f"during {fn.__name__}")

    async def _in_turn(self, step: Callable[[], Result], when: str) -> Result:
        """In its thread. A helper that is lost fails its job; one whose job nobody waits for is killed."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, step)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.kill()
            raise _failed(f"The helper process ended {when}.") from None
        except asyncio.CancelledError:
            self.kill()
            raise

    def kill(self) -> None:
        """On the spot; what is left is cleared away in its thread."""
        if self.killed:
            return
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._thread.submit(self._ended)
        self._thread.shutdown(wait=False)

    def shutdown(self) -> None:
        """Ends an idle one in order; waits until the process is gone."""
        if not self.killed:
            self.killed = True
            self._thread.submit(self._ended)
        self._thread.shutdown(wait=True)

    def _ended(self) -> None:
        self._connection.close()
        self._process.wait()
        os.close(self._pidfd)


def spawned(fd: int, niceness: int) -> subprocess.Popen[bytes]:
    """A helper as a child of the calling thread, with its end of the socket pair, which stays the caller's to
    close."""
    command = [sys.executable, "-P", "-c", BEGIN, *map(str, (fd, os.getpid(), niceness))]
    imports = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
    return subprocess.Popen(
        command, env=imports, pass_fds=[fd], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def _unwrapped(outcome: helper.Outcome) -> object:
    if isinstance(outcome, helper.Returned):
        return outcome.value
    if isinstance(outcome, helper.Unpicklable):
        failure: Exception = _failed(f"The job ended with {outcome.what}.")
    else:
        failure = outcome.error()
    failure.add_note(f"In the helper process:\n{outcome.trace}")
    raise failure


def _failed(cause: str) -> JobFailed:
    return JobFailed("job-failed", cause, "It may have run out of memory; the next job gets a new one.")
