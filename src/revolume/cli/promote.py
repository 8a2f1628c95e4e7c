"""``revolume promote DIR``: a mirror becomes a primary, in the process that serves it or in its directory."""

from __future__ import annotations

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing


def register(app: typer.Typer) -> None:
    app.command()(promote)


def promote(volume: VolumeArgument, json: JsonOption = False) -> None:
    """Make a mirror the primary.

    Refused while its source is connected. A stopped mirror is served without --mirror-listen afterwards.
    """
    from revolume.api.client import connect

    client = connect(existing(volume))
    if client is not None:
        with client:
            told = client.promote()
    else:
        import asyncio
        import dataclasses

        from revolume.cli.promotion import promote_stopped

        told = dataclasses.asdict(asyncio.run(promote_stopped(volume)))
    if json:
        print_json(told)
    else:
        print_line(f"{told['name']} is a primary now: epoch {told['epoch']}, w{told['write']}, cp{told['point']}")
