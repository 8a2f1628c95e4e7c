"""What must not happen in the loop: waiting for a disk (a thread) and computing for long (the helper).

Three ways out of the loop, by what they cost:

- ``call``: a thread, for system calls and vectorised numpy, which let go of the interpreter lock;
- ``call_sync``: a thread of another pool, for fsync and fdatasync only, so that an answer that waits for
  a disk never stands behind readers that wait for another;
- ``job``: the helper *process*, for anything that holds the interpreter lock for more than moments. It
  works on immutable files with a disk of its own, one job at a time, at a lower priority, and can be
  killed at any point: a job changes nothing that somebody else reads before it has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

from revolume.errors import RevolumeError
from revolume.host.disk import Disk

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class JobFailed(RevolumeError):
    """The helper ended before the job did; nothing is known of how far it came. The next job gets a
    new helper, so trying once more is sensible, for ever is not."""


class Work(Protocol):
    async def call(self, fn: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
        """Runs in a thread. Cancelled before it has begun it never runs; afterwards it runs on to its
        end, unobserved: its buffers stay in use until then."""

    async def call_sync(self, fn: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
        """As ``call``, for fsync and fdatasync alone."""

    async def job(self, fn: Callable[[Disk, *Arguments], Result], *args: *Arguments) -> Result:
        """Runs ``fn(disk, *args)`` in the helper: ``fn`` at module level, arguments and result
        picklable. What it raises is raised here. Cancelling kills the job on the spot."""

    async def close(self) -> None:
        """Waits for the threads, ends the helper; a job that runs fails with JobFailed."""
