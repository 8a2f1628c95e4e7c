"""``revolume check DIR``: the offline verifier."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from revolume.cli.options import FINDING, JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.suspect_moments import suspect_period
from revolume.cli.values import counted, show_size
from revolume.errors import Refused

if TYPE_CHECKING:
    from revolume.offline.walk.report import CheckReport


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(volume: VolumeArgument, json: JsonOption = False) -> int:
    """Verify everything in a stopped volume.

    Every structure and every digest is read. Exit 0 only if all hold, and the base of a mirror is complete; 5 if
    not; 1 if it could not be verified.
    """
    from revolume.cli.target import existing

    refuse_running(existing(volume), "checked")
    from revolume.cli.progress import progress
    from revolume.host import real_host
    from revolume.offline.check.check import check as verify

    with progress(as_json=json) as report:
        found = verify(real_host(), volume, report)
    if json:
        print_json({"good": found.good, "report": found})
    else:
        _print(found)
    return 0 if found.good else FINDING


def refuse_running(directory: str, done: str) -> None:
    """Raises Refused if the volume runs: what is read must not move."""
    from revolume.api.client import connect

    client = connect(directory)
    if client is not None:
        client.close()
        raise Refused(
            "volume-running",
            f"The volume {directory} is running; only a stopped one can be {done}.",
            "Stop it first.",
        )


def _print(found: CheckReport) -> None:
    for problem in found.problems:
        print_line(f"{problem.where}: {problem.what}")
    for period in found.suspect:
        print_line(f"history is suspect: {suspect_period(dataclasses.asdict(period))}")
    if found.incomplete:
        print_line(found.incomplete)
    if found.elsewhere:
        print_line(found.elsewhere)
    verdict = "good" if found.good else counted(len(found.problems), "problem")
    print_line(
        f"{verdict}: {counted(found.segments, 'segment')}, {counted(found.transfers, 'transfer')}, "
        f"{counted(found.blocks, 'block')}, {counted(found.points, 'point')}, "
        f"{counted(found.moments, 'named moment')}, {show_size(found.bytes_read)} read"
    )
