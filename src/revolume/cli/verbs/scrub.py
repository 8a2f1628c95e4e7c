"""``revolume scrub DIR``: read everything that a running volume keeps, and heal what is damaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing
from revolume.cli.values import parse_rate, parse_seconds
from revolume.errors import UsageError

RateOption = Annotated[
    str | None, typer.Option("--rate", metavar="SIZE", help="A second, at most; none for no limit of its own.")
]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="Then stop waiting for it, with exit status 6; it goes on.")
]


def register(app: typer.Typer) -> None:
    app.command()(scrub)


def scrub(
    volume: VolumeArgument, rate: RateOption = None, timeout: TimeoutOption = None, json: JsonOption = False
) -> int:
    """Read everything that a running volume keeps, and compare it with its digests.

    What is damaged is healed from a mirror, or at a mirror from its source, where one is connected. It goes on in
    the background when this is interrupted, and after a restart where it was. Exit 5 if anything was damaged.
    """
    from revolume.api.client import connect
    from revolume.cli.job_wait import exit_status, run_job

    orders = {} if rate is None else {"rate": parse_rate(rate)}
    seconds = None if timeout is None else parse_seconds(timeout)
    client = connect(existing(volume))
    if client is None:
        raise UsageError(
            "not-served", f"{volume} is not being served, so nothing can be healed.",
            "Look at it with 'revolume check DIR', or serve it: 'revolume serve DIR'.",
        )  # fmt: skip
    with client:
        job = run_job(client, "scrub", orders, timeout_s=seconds, as_json=json)
    if json:
        print_json(job)
    else:
        _print(job["result"])
    return exit_status(job)


def _print(result: Mapping[str, Any]) -> None:
    for sentence in result["found"]:
        print_line(f"{sentence}.")
    if result["damaged"] > len(result["found"]):
        print_line(f"… {result['damaged'] - len(result['found'])} more")
    told = str(result["told"])
    print_line(told[:1].upper() + told[1:])
