"""``revolume jobs DIR``: the long operations on a running volume, and the end of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note, print_table
from revolume.cli.target import existing
from revolume.cli.values import show_size, show_time
from revolume.errors import UsageError

CancelOption = Annotated[str | None, typer.Option("--cancel", metavar="ID", help="End this job now.")]


def register(app: typer.Typer) -> None:
    app.command()(jobs)


def jobs(volume: VolumeArgument, cancel: CancelOption = None, json: JsonOption = False) -> None:
    """List the long operations that run, and those that have ended lately; or end one."""
    from revolume.api.client import connect

    client = connect(existing(volume))
    if client is None:
        raise UsageError("not-served", f"{volume} is not being served, so it has no jobs.", "Serve it first.")
    with client:
        listed = [client.cancel_job(cancel)] if cancel is not None else client.jobs()
    if json:
        print_json(listed)
    elif cancel is not None:
        print_line(f"{listed[0]['id']}: {listed[0]['state']}.")
    else:
        _print(listed)


def _print(listed: list[dict[str, Any]]) -> None:
    if not listed:
        print_note("There are no jobs.")
        return
    rows = [
        (
            job["id"],
            job["what"],
            _state(job),
            show_time(job["started_ns"]) if job["started_ns"] else "",
            _told(job),
        )
        for job in listed
    ]
    print_table(("JOB", "WHAT", "STATE", "BEGUN", ""), rows)


def _state(job: Mapping[str, Any]) -> str:
    return "done, with a finding" if job["finding"] else str(job["state"])


def _told(job: Mapping[str, Any]) -> str:
    """How far it is, or how it ended."""
    if job["error"] is not None:
        return str(job["error"].get("detail", ""))
    if job["ended_ns"]:
        return str(job["result"].get("told", ""))
    amounts = [show_size(each) if job["unit"] == "bytes" else str(each) for each in (job["done"], job["total"])]
    unit = "" if job["unit"] == "bytes" else f" {job['unit']}"
    return f"{job['stage']} {amounts[0]} of {amounts[1]}{unit}".strip() if job["total"] else str(job["stage"])
