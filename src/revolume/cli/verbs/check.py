"""``revolume check DIR``: the offline verifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.values import show_size
from revolume.errors import Refused

if TYPE_CHECKING:
    from revolume.offline.report import CheckReport


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(volume: VolumeArgument, json: JsonOption = False) -> int:
    """Verify everything in a stopped volume.

    Every structure and every digest is read. Exit 0 only if all hold, and the base of a mirror is complete.
    """
    from revolume.cli.target import existing

    refuse_running(existing(volume), "checked")
    from revolume.cli.progress import progress
    from revolume.host import real_host
    from revolume.offline.check import check as verify

    with progress(as_json=json) as report:
        found = verify(real_host(), volume, report)
    if json:
        print_json({"good": found.good, "report": found})
    else:
        _print(found)
    return 0 if found.good else 1


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
    if found.incomplete:
        print_line(found.incomplete)
    verdict = "good" if found.good else f"{len(found.problems)} problems"
    print_line(
        f"{verdict}: {found.segments} segments, {found.transfers} transfers, {found.blocks} blocks, "
        f"{found.points} points, {found.moments} named moments, {show_size(found.bytes_read)} read"
    )
