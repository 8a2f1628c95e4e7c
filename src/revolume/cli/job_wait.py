"""A verb that orders a job: it begins the job at the running volume, shows its progress, and waits for its end.

The job belongs to the node. A verb that is interrupted, or has waited long enough, leaves it running and says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from revolume.api.client import ControlClient
from revolume.api.problems import error_from
from revolume.cli.options import FINDING
from revolume.cli.output import print_note
from revolume.cli.progress import progress
from revolume.errors import NotFound, RevolumeError, TimedOut

_FIRST_PAUSE_S: Final = 0.05
_PAUSE_S: Final = 0.5


def run_job(
    client: ControlClient, kind: str, orders: Mapping[str, Any], *, timeout_s: float | None, as_json: bool
) -> dict[str, Any]:
    """Begin a job and wait until it is done; the job, as the control socket has it (``schemas.JobSchema``). Raises
    what it failed with; TimedOut after ``timeout_s``; RevolumeError if somebody else cancelled it."""
    job = client.start_job(kind, **orders)
    try:
        return _ended(wait_for_job(client, job, timeout_s=timeout_s, as_json=as_json))
    except KeyboardInterrupt:
        print_note(f"{job['id']} goes on. {_how(job)}")
        raise


def exit_status(job: Mapping[str, Any]) -> int:
    """Of the verb whose job is done: 0, or 5 with a finding."""
    return FINDING if job["finding"] else 0


def wait_for_job(
    client: ControlClient, job: dict[str, Any], *, timeout_s: float | None, as_json: bool
) -> dict[str, Any]:
    """The job once it has ended, however it did. TimedOut after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s if timeout_s is not None else None
    pause = _FIRST_PAUSE_S
    with progress(as_json=as_json) as report:
        while not job["ended_ns"]:
            report(job["stage"] or job["what"], job["done"], job["total"])
            if deadline is not None and time.monotonic() >= deadline:
                cause = f"{job['id']} is not done yet: {job['stage'] or job['state']}."
                raise TimedOut("timed-out", cause, f"It goes on. {_how(job)}")
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_S)
            job = _asked_again(client, job)
    return job


def _asked_again(client: ControlClient, job: Mapping[str, Any]) -> dict[str, Any]:
    """RevolumeError: the volume has been opened anew, after a promotion for example, and its jobs ended before."""
    try:
        return client.job(job["id"])
    except NotFound:
        raise RevolumeError(
            "job-ended", f"{job['id']} ended before it was done: the volume was opened anew, as by a promotion.",
            "'revolume jobs DIR' shows what goes on by itself.",
        ) from None  # fmt: skip


def _ended(job: dict[str, Any]) -> dict[str, Any]:
    if job["state"] == "failed":
        raise error_from(job["error"] or {})
    if job["state"] == "cancelled":
        raise RevolumeError("job-cancelled", f"{job['id']} was cancelled before it was done.")
    return job


def _how(job: Mapping[str, Any]) -> str:
    return f"'revolume jobs DIR' shows it, and 'revolume jobs DIR --cancel {job['id']}' ends it."
