"""``revolume mirror replace DIR NAME``: forget which copy a mirror is, so that another one may become it."""

from __future__ import annotations

from typing import Annotated

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The mirror's name, as status shows it.")]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Also if answered writes may live only on the copy that is given up.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(verbs)


verbs = typer.Typer(name="mirror", help="What a primary knows of its mirrors.", no_args_is_help=True)


@verbs.command()
def replace(volume: VolumeArgument, name: NameArgument, yes: YesOption = False, json: JsonOption = False) -> None:
    """Let another copy become the mirror NAME.

    Once a copy has joined, the mirror is that copy: an empty directory or another copy at its address is refused.
    This gives the copy up. Until the next one has joined, answers do not wait for this mirror.
    """
    from revolume.api.client import connect

    client = connect(existing(volume))
    if client is not None:
        with client:
            told = client.replace_mirror(name, yes)
    else:
        from revolume.host import real_host
        from revolume.volume.replacing import replace_stopped

        told = replace_stopped(real_host(), volume, name, yes)
    if json:
        print_json({"replaced": name, "told": told})
    else:
        print_line(told)
