"""``revolume switchover DIR --to NAME``: the running primary hands over to its mirror, and becomes its mirror."""

from __future__ import annotations

from typing import Annotated

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing
from revolume.cli.verbs.demote import ListenOption
from revolume.errors import UsageError

ToOption = Annotated[str, typer.Option("--to", metavar="NAME", help="The mirror's name, as status shows it.")]


def register(app: typer.Typer) -> None:
    app.command()(switchover)


def switchover(
    volume: VolumeArgument, to: ToOption, mirror_listen: ListenOption = None, json: JsonOption = False
) -> None:
    """Hand a running primary over to one of its mirrors, without losing a write.

    Writes are held for a moment; then the mirror is the primary, with this node among its mirrors, and clients are
    disconnected here: they go on at the other node's address. Refused while the mirror is away or far behind.
    """
    from revolume.api.client import connect
    from revolume.cli.mirror_options import mirror_address
    from revolume.node.addresses import absolute

    listen = None if mirror_listen is None else absolute(mirror_address(mirror_listen))
    client = connect(existing(volume))
    if client is None:
        raise UsageError(
            "not-running", f"{volume} is not being served, so it can't hand over.",
            "Use 'revolume demote DIR' here, and 'revolume promote' at the mirror.",
        )  # fmt: skip
    with client:
        told = client.switch_over(to, listen)
    if json:
        print_json(told)
    else:
        print_line(told["told"])
