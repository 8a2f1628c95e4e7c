"""Jobs of kind ``scrub``: by order, when the last one is long ago, and after a restart where it was.

The copy of a mirror may be closed and opened anew while it is scrubbed (a jump, a part of a write that is cut
off). The job waits for the copy that is there then, and goes on with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from revolume.errors import Refused, RevolumeError, UsageError
from revolume.host import Host
from revolume.jobs.job import Job, JobPlan, Outcome
from revolume.jobs.jobs import Jobs
from revolume.pace.limits import BulkLimits, checked_rate
from revolume.pace.pacer import Pacer
from revolume.volume.scrub.scrubber import Scrubbed, Scrubber, VolumeClosed, sentence

KIND: Final = "scrub"
LOOK_S: Final = 60.0
"""How often it is looked whether one is due, at least; of a short period ten times in it."""
_REOPENED_S: Final = 0.2


class ScrubJobs:
    """Of one volume that is served. ``current``: the scrubber of the copy that is here; it raises Refused where
    there is none that could be scrubbed, and why. ``pacer``: the node's. ``period_s``: a scrub begins by itself
    when the last one is so long ago; 0: never."""

    def __init__(
        self, host: Host, jobs: Jobs, current: Callable[[], Scrubber], pacer: Pacer, period_s: float | None
    ) -> None:
        """``period_s`` None: what is under way does not go on by itself either."""
        self._host = host
        self._jobs = jobs
        self._current = current
        self._pacer = pacer
        self._opened_ns = host.clock.wall_ns()
        self._task: asyncio.Task[None] | None = None
        self._period_s = period_s or 0.0
        jobs.register(KIND, self._plan)
        if period_s is not None:
            self._task = asyncio.get_running_loop().create_task(self._rounds(), name="scrub rounds")

    async def stop(self) -> None:
        """No job begins by itself any more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # Jobs

    def _plan(self, orders: Mapping[str, Any]) -> JobPlan:
        """``orders``: rate, in bytes a second. Without it the rate of the pass under way holds, if one is."""
        unknown = orders.keys() - {"rate"}
        if unknown:
            raise UsageError("bad-order", f"A scrub has no order {min(unknown)[:64]!a}.", "It has: rate.")
        scrubber = self._current()
        rate = orders.get("rate")
        if rate is None:
            rate = scrubber.record.rate if scrubber.record.under_way else 0
        elif not isinstance(rate, int) or isinstance(rate, bool) or rate < 0:
            raise UsageError("bad-rate", f"{str(rate)[:64]!a} is no rate in bytes a second.")
        elif rate:
            checked_rate(rate, str(rate))
        words = f", at most {rate >> 10:,} KiB/s" if rate else ""
        return JobPlan(f"everything that this copy keeps{words}", lambda job: self._work(job, rate))

    async def _work(self, job: Job, rate: int) -> Outcome:
        own = Pacer(self._host.clock, BulkLimits(rate))
        try:
            while True:
                try:
                    return _outcome(await self._current().run((self._pacer, own), job.report, rate))
                except VolumeClosed:
                    await self._host.clock.sleep(_REOPENED_S)
        except asyncio.CancelledError:
            if not self._jobs.closing:  # somebody has cancelled it: it is not to go on by itself
                await self._current().give_up()
            raise

    # By itself

    async def _rounds(self) -> None:
        while True:
            try:
                if self._jobs.running(KIND) is None and self._due():
                    self._jobs.start(KIND, {})
            except RevolumeError:
                pass  # there is nothing here that could be scrubbed now
            await self._host.clock.sleep(min(LOOK_S, self._period_s / 10 or LOOK_S))

    def _due(self) -> bool:
        record = self._current().record
        if record.under_way or not self._period_s:
            return record.under_way
        since_ns = record.last.started_ns or self._opened_ns
        return self._host.clock.wall_ns() - since_ns >= self._period_s * 1e9


def _outcome(scrubbed: Scrubbed) -> Outcome:
    last = scrubbed.last
    result = {
        "told": f"{sentence(last)}.", "bytes_read": last.counts.read, "damaged": last.counts.damaged,
        "healed": last.counts.healed, "found": list(scrubbed.found), "started_ns": last.started_ns,
        "ended_ns": last.ended_ns,
    }  # fmt: skip
    return Outcome(result, finding=last.counts.damaged > 0)


def nothing_to_scrub(why: str) -> Refused:
    """There is no copy here, or it is not whole."""
    return Refused("nothing-to-scrub", why, "Scrub it when it is a whole copy.")
