"""Mirrors that find that they differ are verified one after the other, without an order."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from revolume.host import real_host
from revolume.jobs.job import Job
from revolume.jobs.jobs import Jobs
from revolume.node.verify_orders import KIND, VerifyJobs
from revolume.volume.members.found_differences import FoundDifferences
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState
from revolume.volume.state.events import Events


class Mirrors(list[Mirror]):
    def get(self, name: str) -> Mirror:
        return next(mirror for mirror in self if mirror.name == name)


async def begun(jobs: Jobs) -> Job:
    async with asyncio.timeout(30):
        while (running := jobs.running(KIND)) is None:
            await asyncio.sleep(0.02)
    return running


def test_one_that_differs_while_another_is_verified_has_its_turn() -> None:
    """It says so once a session: nobody would hear of it again. One that is equal by then is left alone."""

    async def run() -> None:
        host = real_host()
        one, other, third = (Mirror(MirrorState.unjoined(name, MirrorMode.SYNC)) for name in "abc")
        volume: Any = SimpleNamespace(
            mirrors=Mirrors((one, other, third)), context=SimpleNamespace(host=host), size=1 << 20, name="vol",
            manifest=SimpleNamespace(state=SimpleNamespace(verified=())),
            found_differences=FoundDifferences(Events(lambda: 0)),
        )  # fmt: skip
        links: Any = SimpleNamespace(get=lambda name: None)  # nobody is connected: a job waits
        jobs = Jobs(host)
        verify = VerifyJobs(volume, links, jobs)
        for mirror in volume.mirrors:
            volume.found_differences.told(mirror, 5)
        volume.found_differences.told(other, 0)
        await begun(jobs)
        assert [job.what for job in jobs.all()] == ["compares a with vol"]
        await jobs.cancel(jobs.all()[0].id)
        running = await begun(jobs)
        assert running.what == "compares c with vol"
        volume.found_differences.told(one, 0)
        volume.found_differences.told(one, 6)
        await verify.stop()
        await jobs.cancel(running.id)
        await asyncio.sleep(0.3)
        assert jobs.running(KIND) is None
        await jobs.close()
        await host.work.close()

    asyncio.run(run())
