"""``revolume grow DIR SIZE``: make a volume larger, while it is used or not."""

from __future__ import annotations

from typing import Annotated

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.values import parse_size, show_size

SizeArgument = Annotated[
    str, typer.Argument(metavar="SIZE", help="The new size (20G), or by how much more (+10G).")
]


def register(app: typer.Typer) -> None:
    app.command()(grow)


def grow(volume: VolumeArgument, size: SizeArgument, json: JsonOption = False) -> None:
    """Make a volume larger.

    Clients see the new size when they connect anew.
    """
    from revolume.cli.client import admin_client

    asked = parse_size(size.removeprefix("+"))
    with admin_client(volume) as client:
        if size.startswith("+"):
            asked += int(client.status()["size"])
        now = client.grow(asked)
    if json:
        print_json({"size": now})
    else:
        print_line(f"the volume has {show_size(now)} ({now} bytes)")
