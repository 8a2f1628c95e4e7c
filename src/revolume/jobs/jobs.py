"""The jobs of a volume that is being served: which kinds there are, what runs, and what has ended lately.

Of a kind one job runs at a time. A job belongs to the volume in the role that it has: when the volume is closed,
for a change of role too, its jobs end first (``close``). What must survive that is kept by the kind, durably.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from revolume.errors import NotFound, Refused, RevolumeError, UsageError
from revolume.host import Host
from revolume.host.error_text import error_text
from revolume.jobs.job import Job, JobFactory, JobPlan

PAST_MAX: Final = 64
"""So many jobs that have ended are remembered, the newest."""


class Jobs:
    """Of one volume that is served. Used in the loop alone."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._factories: dict[str, JobFactory] = {}
        self._jobs: dict[str, Job] = {}  # by id, oldest first
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of those that have not ended
        self._closed = False

    def register(self, kind: str, factory: JobFactory) -> None:
        """There are jobs of this kind from now on; ``factory`` makes one out of what is asked for."""
        assert kind not in self._factories, kind
        self._factories[kind] = factory

    def start(self, kind: str, orders: Mapping[str, Any]) -> Job:
        """Begin a job, and return it. UsageError: there is no such kind, or the orders make no sense; Refused: one
        of the kind runs already, or the kind refuses; whatever else its factory raises."""
        factory = self._factories.get(kind)
        if factory is None:
            known = ", ".join(sorted(self._factories)) or "none"
            raise UsageError(
                "no-such-job-kind", f"There are no jobs of kind {kind[:64]!a}.", f"There are: {known}."
            )
        self._refuse_second(kind)
        return self._begin(kind, factory(orders))

    def _refuse_second(self, kind: str) -> None:
        if self._closed:
            raise Refused("closing", "The volume is being closed.", "Ask again when it is served anew.")
        running = self.running(kind)
        if running is not None:
            raise Refused(
                "job-running", f"There is a {kind} under way already: {running.id}, {running.what}.",
                "Wait for it, or cancel it with 'revolume jobs DIR --cancel ID'.",
            )  # fmt: skip

    def _begin(self, kind: str, plan: JobPlan) -> Job:
        identity = f"{kind}-{self._host.entropy.token(4).hex()}"
        job = Job(self._host.clock, identity, kind, plan.what, plan.unit)
        self._jobs[job.id] = job
        task = asyncio.get_running_loop().create_task(self._run(job, plan), name=job.id)
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._ended(job))
        return job

    async def _run(self, job: Job, plan: JobPlan) -> None:
        job.begin()
        try:
            job.finish(await plan.work(job))
        except RevolumeError as error:
            job.fail(error)
        except OSError as error:
            job.fail(RevolumeError("system", error_text(error), "See what the node logged."))
        except Exception as error:
            hint = "This is a fault of revolume's; the node's log shows where."
            job.fail(RevolumeError("internal", f"{type(error).__name__}: {error}.", hint))
            raise

    def _ended(self, job: Job) -> None:
        """Also of a task that was cancelled before it had begun."""
        del self._tasks[job.id]
        if not job.state.ended:
            job.cancelled()
        past = [each.id for each in self._jobs.values() if each.state.ended]
        for identity in past[: max(0, len(past) - PAST_MAX)]:
            del self._jobs[identity]

    @property
    def closing(self) -> bool:
        """The volume is being closed: that is why jobs are cancelled now."""
        return self._closed

    def running(self, kind: str) -> Job | None:
        """The job of this kind that has not ended."""
        return next((job for job in self._jobs.values() if job.kind == kind and not job.state.ended), None)

    def all(self) -> list[Job]:
        """Those that run, and the newest of those that have ended; oldest first."""
        return list(self._jobs.values())

    def get(self, identity: str) -> Job:
        """NotFound: there is none of this id, or it ended long ago."""
        job = self._jobs.get(identity)
        if job is None:
            hint = "'revolume jobs DIR' lists those that are known since the volume was opened."
            raise NotFound("no-such-job", f"There is no job {identity[:64]!a}.", hint)
        return job

    async def cancel(self, identity: str) -> Job:
        """End a job now; the job, which has ended. Idempotent. NotFound: there is none."""
        job = self.get(identity)
        await self._cancel([job.id])
        return job

    async def close(self) -> None:
        """End all jobs; none begins any more. Idempotent."""
        self._closed = True
        await self._cancel(list(self._tasks))

    async def _cancel(self, identities: list[str]) -> None:
        tasks = [self._tasks[identity] for identity in identities if identity in self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
