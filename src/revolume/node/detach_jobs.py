"""Jobs of kind ``detach-clone``: a clone copies what its parent still has.

By order; after a restart it goes on by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from revolume.errors import Refused, UsageError
from revolume.jobs.job import Job, JobPlan, Outcome
from revolume.jobs.jobs import Jobs
from revolume.pace.pacer import Pacer
from revolume.volume.clone_detaching import CloneDetaching
from revolume.volume.image.origin_image import OriginImage
from revolume.volume.primary import Volume

KIND: Final = "detach-clone"


class DetachJobs:
    """Of one clone that is served. ``pacer``: the node's. ``detached`` is awaited once the clone needs its parent
    no more."""

    def __init__(self, volume: Volume, jobs: Jobs, pacer: Pacer, detached: Callable[[], Awaitable[None]]) -> None:
        self._volume = volume
        self._pacer = pacer
        self._detached = detached
        jobs.register(KIND, self._plan)
        origin = volume.image.origin
        if origin is not None and origin.record.detaching:
            jobs.start(KIND, {})

    def _plan(self, orders: Mapping[str, Any]) -> JobPlan:
        if orders:
            raise UsageError("bad-order", f"{KIND} has no order {min(orders)[:64]!a}.", "It has none.")
        origin = self._volume.image.origin
        if origin is None or origin.released:
            raise Refused("independent", f"{self._volume.name} is no clone any more: it has everything itself.")
        return JobPlan(f"what {origin.record.parent} still has of it", lambda job: self._work(job, origin))

    async def _work(self, job: Job, origin: OriginImage) -> Outcome:
        volume = self._volume
        detaching = CloneDetaching(
            volume.context.directory, log=volume.log, image=volume.image, folder=volume.folder,
            healer=volume.healer,
        )  # fmt: skip
        copied = await detaching.run(origin, (self._pacer,), job.report)
        await self._detached()
        told = f"{volume.name} is independent of {origin.record.parent}: {copied >> 20} MiB were copied."
        return Outcome({"told": told, "bytes": copied, "directory": volume.context.directory.path})
