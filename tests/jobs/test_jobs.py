"""Jobs: one of a kind at a time, what each says of itself, and every way to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import pytest

from revolume.errors import NotFound, Refused, TimedOut, UsageError
from revolume.host import real_host
from revolume.jobs.job import Job, JobPlan, JobState, Outcome
from revolume.jobs.jobs import PAST_MAX, Jobs


def played(script: Callable[[Jobs], Coroutine[Any, Any, None]]) -> None:
    """Play ``script`` with the jobs of one volume, and close them."""

    async def run() -> None:
        jobs = Jobs(real_host())
        try:
            await script(jobs)
        finally:
            await jobs.close()

    asyncio.run(run())


def kind_of(work: Callable[[Job], Awaitable[Outcome]]) -> Callable[[Mapping[str, Any]], JobPlan]:
    return lambda orders: JobPlan(f"on {orders.get('what', 'all')}", work, "blocks")


async def for_ever(job: Job) -> Outcome:
    job.report("waiting", 1, 4)
    await asyncio.Event().wait()
    return Outcome()


async def until_ended(job: Job) -> None:
    while not job.state.ended:
        await asyncio.sleep(0)


def test_a_job_is_queued_runs_and_is_done_with_its_result() -> None:
    async def work(job: Job) -> Outcome:
        assert job.state is JobState.RUNNING
        job.report("counting", 3, 4)
        return Outcome({"told": "3 of 4"}, finding=True)

    async def script(jobs: Jobs) -> None:
        jobs.register("count", kind_of(work))
        job = jobs.start("count", {"what": "blocks"})
        assert (job.state, job.what, job.started_ns) == (JobState.QUEUED, "on blocks", 0)
        await until_ended(job)
        assert (job.state, job.stage, job.done, job.total, job.unit) == (JobState.DONE, "counting", 3, 4, "blocks")
        assert job.outcome == Outcome({"told": "3 of 4"}, finding=True)
        assert 0 < job.started_ns <= job.ended_ns
        assert jobs.get(job.id) is job

    played(script)


def test_of_a_kind_one_job_runs_and_another_kind_beside_it() -> None:
    async def script(jobs: Jobs) -> None:
        jobs.register("first", kind_of(for_ever))
        jobs.register("second", kind_of(for_ever))
        job = jobs.start("first", {})
        with pytest.raises(Refused, match=job.id):
            jobs.start("first", {})
        other = jobs.start("second", {})
        await asyncio.sleep(0)
        assert [each.state for each in jobs.all()] == [JobState.RUNNING] * 2
        await jobs.cancel(job.id)
        assert (job.state, other.state) == (JobState.CANCELLED, JobState.RUNNING)
        assert jobs.running("first") is None
        jobs.start("first", {})

    played(script)


def test_a_job_that_is_cancelled_before_it_has_begun_never_begins() -> None:
    async def script(jobs: Jobs) -> None:
        jobs.register("wait", kind_of(for_ever))
        job = jobs.start("wait", {})
        assert await jobs.cancel(job.id) is job
        assert (job.state, job.started_ns) == (JobState.CANCELLED, 0)
        assert await jobs.cancel(job.id) is job, "cancelling is idempotent"

    played(script)


def test_what_a_job_fails_with_is_kept() -> None:
    async def refused(job: Job) -> Outcome:
        raise TimedOut("gone", "The mirror is gone.", "Look for it.")

    async def no_disk(job: Job) -> Outcome:
        raise OSError(5, "Input/output error")

    async def script(jobs: Jobs) -> None:
        jobs.register("refused", kind_of(refused))
        jobs.register("no-disk", kind_of(no_disk))
        first, second = jobs.start("refused", {}), jobs.start("no-disk", {})
        await until_ended(first)
        await until_ended(second)
        assert [first.state, second.state] == [JobState.FAILED] * 2
        assert first.error is not None
        assert (first.error.code, first.error.exit_status) == ("gone", 6)
        assert second.error is not None
        assert (second.error.code, second.error.cause) == ("system", "Input/output error.")

    played(script)


def test_a_fault_of_ours_is_a_failed_job_and_reaches_the_loop() -> None:
    async def broken(job: Job) -> Outcome:
        raise ZeroDivisionError("division")

    async def script(jobs: Jobs) -> None:
        seen: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        jobs.register("broken", kind_of(broken))
        job = jobs.start("broken", {})
        await until_ended(job)
        await asyncio.sleep(0)
        assert job.error is not None and job.error.code == "internal"
        assert [str(each["exception"]) for each in seen] == ["division"]

    played(script)


def test_closing_ends_what_runs_and_begins_nothing_more() -> None:
    async def script(jobs: Jobs) -> None:
        jobs.register("wait", kind_of(for_ever))
        job = jobs.start("wait", {})
        await asyncio.sleep(0)
        await jobs.close()
        assert job.state is JobState.CANCELLED
        with pytest.raises(Refused, match="closed"):
            jobs.start("wait", {})

    played(script)


def test_so_many_past_jobs_are_remembered_and_never_one_forgotten_that_runs() -> None:
    async def at_once(job: Job) -> Outcome:
        return Outcome()

    async def script(jobs: Jobs) -> None:
        jobs.register("wait", kind_of(for_ever))
        jobs.register("at-once", kind_of(at_once))
        waiting, first = jobs.start("wait", {}), jobs.start("at-once", {})
        await until_ended(first)
        for _ in range(PAST_MAX):
            last = jobs.start("at-once", {})
            await until_ended(last)
        await asyncio.sleep(0)
        assert len(jobs.all()) == PAST_MAX + 1
        assert (jobs.all()[0], jobs.all()[-1]) == (waiting, last)
        with pytest.raises(NotFound):
            jobs.get(first.id)

    played(script)


def test_a_kind_that_there_is_not_and_orders_that_make_no_sense() -> None:
    def factory(orders: Mapping[str, Any]) -> JobPlan:
        raise UsageError("bad-rate", "No.")

    async def script(jobs: Jobs) -> None:
        jobs.register("picky", factory)
        with pytest.raises(UsageError, match="picky"):
            jobs.start("nothing", {})
        with pytest.raises(UsageError, match="No"):
            jobs.start("picky", {"rate": -1})
        assert jobs.all() == []

    played(script)
