"""A verb and the job that it has begun: over the real control socket, how it waits, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revolume.api.app import application
from revolume.api.client import ControlClient, connect
from revolume.api.control import AdminApi
from revolume.api.server import ControlServer
from revolume.cli.job_wait import exit_status, run_job
from revolume.cli.main import main
from revolume.errors import NotFound, Refused, RevolumeError, TimedOut, UsageError
from revolume.jobs.job import Job, JobPlan, Outcome
from tests.support.memory_volume import MemoryVolume


async def work(job: Job, orders: dict[str, Any]) -> Outcome:
    job.report("working", 1, 2)
    await asyncio.sleep(orders.get("seconds", 0))
    if "fails" in orders:
        raise Refused("no", "It does not.", "Never.")
    return Outcome({"told": "worked"}, finding=bool(orders.get("finding")))


class Served:
    """A volume that is served in a thread of its own, with one kind of job, ``work``."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ControlClient:
        self._thread.start()
        self._in_loop(self._start())
        client = connect(self._directory)
        assert client is not None
        self._client = client
        return client

    async def _start(self) -> None:
        volume = MemoryVolume()
        volume.jobs.register("work", lambda orders: JobPlan("the whole", lambda job: work(job, dict(orders))))
        self._server = ControlServer(self._directory, application(AdminApi(volume, volume.resolve)))
        await self._server.start()
        self._jobs = volume.jobs

    def _in_loop(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._in_loop(self._jobs.close())
        self._in_loop(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def run(client: ControlClient, timeout_s: float | None = None, **orders: Any) -> dict[str, Any]:
    return run_job(client, "work", orders, timeout_s=timeout_s, as_json=False)


def test_a_job_is_waited_for_and_its_finding_is_the_exit_status(tmp_path: Path) -> None:
    with Served(tmp_path) as client:
        good, found = run(client), run(client, seconds=0.2, finding=True)
        assert (good["state"], good["result"]["told"], exit_status(good)) == ("done", "worked", 0)
        assert (found["stage"], found["done"], found["total"], exit_status(found)) == ("working", 1, 2, 5)
        assert [each["id"] for each in client.jobs()] == [good["id"], found["id"]]
        assert found["started"].endswith("Z") and found["ended_ns"] > found["started_ns"]


def test_what_a_job_failed_with_is_raised_as_if_the_verb_had_done_the_work(tmp_path: Path) -> None:
    with Served(tmp_path) as client:
        with pytest.raises(Refused) as caught:
            run(client, fails=True)
        assert (caught.value.code, caught.value.hint, caught.value.exit_status) == ("no", "Never.", 4)


def test_after_the_timeout_the_job_goes_on(tmp_path: Path) -> None:
    with Served(tmp_path) as client:
        with pytest.raises(TimedOut, match="goes on") as caught:
            run(client, 0.1, seconds=30)
        assert caught.value.exit_status == 6
        (job,) = client.jobs()
        assert job["state"] == "running"
        with pytest.raises(Refused, match=job["id"]):
            run(client)
        assert client.cancel_job(job["id"])["state"] == "cancelled"
        assert run(client)["state"] == "done"


def test_a_job_that_somebody_else_cancels(tmp_path: Path) -> None:
    with Served(tmp_path) as client:
        threading.Timer(0.3, lambda: client.cancel_job(client.jobs()[0]["id"])).start()
        with pytest.raises(RevolumeError) as caught:
            run(client, seconds=30)
        assert (caught.value.code, caught.value.exit_status) == ("job-cancelled", 1)


def test_interrupted_the_verb_leaves_its_job_running_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    with Served(tmp_path) as client:
        threading.Timer(
            0.3, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        ).start()
        try:
            with pytest.raises(KeyboardInterrupt):
                run(client, seconds=30)
        finally:
            signal.signal(signal.SIGINT, heard)
        (job,) = client.jobs()
        assert job["state"] == "running"
        assert f"{job['id']} goes on" in capsys.readouterr().err


def test_jobs_lists_and_cancels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Served(tmp_path) as client:
        run(client, finding=True)
        job = client.start_job("work", seconds=30)
        until(lambda: client.job(job["id"])["state"] == "running")
        assert main(["jobs", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert "done, with a finding" in shown and "worked" in shown and "working 1 B of 2 B" in shown
        assert main(["jobs", str(tmp_path), "--cancel", job["id"]]) == 0
        assert capsys.readouterr().out == f"{job['id']}: cancelled.\n"
        assert main(["jobs", str(tmp_path), "--cancel", "work-0"]) == NotFound.exit_status
        assert main(["jobs", str(tmp_path / "nowhere")]) == NotFound.exit_status


def test_jobs_of_a_volume_that_is_not_served(tmp_path: Path) -> None:
    assert main(["jobs", str(tmp_path)]) == UsageError.exit_status


def test_orders_that_are_none_are_a_request_that_makes_no_sense(tmp_path: Path) -> None:
    with Served(tmp_path) as client, pytest.raises(UsageError, match="kind"):
        client._object("POST", "/v1/jobs", {"orders": 1})


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_volume_that_is_opened_anew_knows_the_job_no_more(tmp_path: Path) -> None:
    """A promotion ends the jobs of the mirror that was."""
    with (served := Served(tmp_path)) as client:
        threading.Timer(0.3, lambda: served._jobs._jobs.clear()).start()
        with pytest.raises(RevolumeError, match="opened anew") as found:
            run_job(client, "work", {"seconds": 60}, timeout_s=20, as_json=True)
        assert found.value.code == "job-ended"
