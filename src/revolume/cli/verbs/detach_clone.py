"""``revolume detach-clone DIR``: copy what a clone's parent still has of it, so that it needs no parent."""

from __future__ import annotations

from typing import Annotated

import typer

from revolume.cli.options import JsonOption
from revolume.cli.output import print_json, print_line, print_note
from revolume.cli.target import existing
from revolume.cli.values import parse_seconds
from revolume.errors import UsageError

CloneArgument = Annotated[str, typer.Argument(metavar="DIR", help="The clone's directory.", show_default=False)]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="Then stop waiting for it, with exit status 6; it goes on.")
]


def register(app: typer.Typer) -> None:
    app.command("detach-clone")(detach_clone)


def detach_clone(clone: CloneArgument, timeout: TimeoutOption = None, json: JsonOption = False) -> None:
    """Make a clone independent: copy what its parent still has of it.

    Both are served meanwhile. Interrupted, it goes on in the background, and after a restart where it was. Once it
    is done the clone can be served by itself, as soon as its parent has been stopped once.
    """
    from revolume.api.client import connect
    from revolume.cli.job_wait import run_job

    seconds = None if timeout is None else parse_seconds(timeout)
    client = connect(existing(clone))
    if client is None:
        raise UsageError(
            "not-served",
            f"{clone} is not being served.",
            "Serve its parent, then ask again.",
        )
    with client:
        job = run_job(client, "detach-clone", {}, timeout_s=seconds, as_json=json)
    if json:
        print_json(job)
    else:
        print_line(str(job["result"]["told"]))
        print_note(f"Its parent goes on serving it until that is stopped; then: revolume serve {clone}")
