"""``revolume detach DIR NAME``: give a mirror up, for good: nothing waits for it, nothing is kept for it."""

from __future__ import annotations

from typing import Annotated

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The mirror's name, as status shows it.")]


def register(app: typer.Typer) -> None:
    app.command()(detach)


def detach(volume: VolumeArgument, name: NameArgument, json: JsonOption = False) -> None:
    """Give a mirror up, as 'revolume mirror remove' does.

    Durable before anything is answered without it. Don't promote that mirror afterwards: it misses what comes.
    """
    given_up(volume, name)
    if json:
        print_json({"detached": name})
    else:
        print_line(f"mirror {name} is given up")


def given_up(volume: str, name: str) -> None:
    """Give the mirror up, whether the volume runs or not. NotFound: there is none of that name."""
    from revolume.api.client import connect

    client = connect(existing(volume))
    if client is not None:
        with client:
            client.detach(name)
    else:
        from revolume.host import real_host
        from revolume.volume.members.offline_orders import detach_stopped

        detach_stopped(real_host(), volume, name)
