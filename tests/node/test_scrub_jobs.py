"""Jobs of kind scrub: what may be ordered, and a copy that is closed and opened anew while it is scrubbed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from revolume.errors import Refused, UsageError
from revolume.host import Host
from revolume.jobs.job import JobState
from revolume.jobs.jobs import Jobs
from revolume.node.scrub_jobs import ScrubJobs
from revolume.pace.pacer import Pacer
from revolume.volume.primary import Volume
from tests.volume.store import Store, inline_host, make_store, opened

SLOW = 256 << 10
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return asyncio.run(make_store(inline_host(), tmp_path_factory.mktemp("scrub-jobs") / "v"))


class Served:
    """A volume, its jobs, and the kind scrub among them; ``reopen`` closes it and opens it anew."""

    def __init__(self, host: Host, path: Path, volume: Volume) -> None:
        self._host = host
        self._path = path
        self.volume = volume
        self.jobs = Jobs(host)
        self.scrubs = ScrubJobs(host, self.jobs, lambda: self.volume.scrubber, Pacer(host.clock), None)

    async def reopen(self) -> None:
        await self.volume.close()
        self.volume = await opened(self._host, self._path)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.01)


def played(store: Store, path: Path, scenario: Callable[[Served], Awaitable[None]]) -> None:
    shutil.copytree(store.path, path / "v")

    async def run() -> None:
        host = inline_host()
        served = Served(host, path / "v", await opened(host, path / "v"))
        try:
            await scenario(served)
        finally:
            await served.jobs.close()
            await served.volume.close()

    asyncio.run(run())


def test_a_job_goes_on_with_the_copy_that_was_opened_anew(store: Store, tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        job = served.jobs.start("scrub", {"rate": SLOW})
        await served.until(lambda: served.volume.scrubber.record.counts.read > 0)
        began = served.volume.scrubber.record.started_ns
        await served.reopen()
        assert job.state is JobState.RUNNING
        await served.until(lambda: job.state.ended)
        assert job.state is JobState.DONE and not job.outcome.finding
        last = served.volume.manifest.state.scrub.last
        assert last.started_ns == began and job.outcome.result["bytes_read"] == last.counts.read

    played(store, tmp_path, scenario)


def test_what_is_cancelled_does_not_go_on_and_what_is_closed_does(store: Store, tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        job = served.jobs.start("scrub", {"rate": SLOW})
        await served.until(lambda: served.volume.scrubber.record.under_way)
        await served.jobs.cancel(job.id)
        assert not served.volume.manifest.state.scrub.under_way
        served.jobs.start("scrub", {"rate": SLOW})
        await served.until(lambda: served.volume.scrubber.record.under_way)
        await served.jobs.close()
        record = served.volume.manifest.state.scrub
        assert record.under_way and record.rate == SLOW

    played(store, tmp_path, scenario)


def test_without_an_order_the_rate_of_the_pass_under_way_holds(store: Store, tmp_path: Path) -> None:
    async def scenario(served: Served) -> None:
        served.jobs.start("scrub", {"rate": SLOW})
        await served.until(lambda: served.volume.scrubber.record.under_way)
        await served.jobs.close()
        again = Jobs(inline_host())
        ScrubJobs(inline_host(), again, lambda: served.volume.scrubber, Pacer(inline_host().clock), None)
        job = again.start("scrub", {})
        assert job.what.endswith("at most 256 KiB/s")
        await again.close()

    played(store, tmp_path, scenario)


@pytest.mark.parametrize("orders", [{"rate": -1}, {"rate": "fast"}, {"rate": True}, {"rate": 5}, {"speed": 1}])
def test_orders_that_make_no_sense(store: Store, tmp_path: Path, orders: dict[str, object]) -> None:
    async def scenario(served: Served) -> None:
        with pytest.raises(UsageError):
            served.jobs.start("scrub", orders)
        served.jobs.start("scrub", {"rate": SLOW})
        with pytest.raises(Refused, match="under way already"):
            served.jobs.start("scrub", {})

    played(store, tmp_path, scenario)
