"""``revolume demote DIR``: a primary becomes a mirror's copy, in the process that serves it or in its
directory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing

ListenOption = Annotated[
    str | None,
    typer.Option("--mirror-listen", metavar="ADDR", help="Listen for a source there; else where it is recorded."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Also while clients are connected: they are disconnected.")]


def register(app: typer.Typer) -> None:
    app.command()(demote)


def demote(
    volume: VolumeArgument, mirror_listen: ListenOption = None, yes: YesOption = False, json: JsonOption = False
) -> None:
    """Make the primary a mirror's copy, which waits for a source.

    Nothing is lost: it stands at its last consistency point, and keeps its log, its history and what it knows of
    the other copies. 'revolume promote' makes it the primary again. To hand over to a mirror without a pause, use
    'revolume switchover'.
    """
    from revolume.api.client import connect
    from revolume.cli.mirror_options import mirror_address
    from revolume.node.addresses import absolute

    listen = None if mirror_listen is None else absolute(mirror_address(mirror_listen))
    client = connect(existing(volume))
    if client is not None:
        with client:
            told = client.demote(listen, yes)
    else:
        told = _demoted_in_its_directory(volume, listen)
    if json:
        print_json(told)
    else:
        print_line(told["told"])


def _demoted_in_its_directory(volume: str, listen: str | None) -> dict[str, Any]:
    import asyncio
    import dataclasses

    from revolume.host import real_host
    from revolume.node.demotion import demote_stopped

    async def demoted() -> dict[str, Any]:
        host = real_host()
        try:
            return dataclasses.asdict(await demote_stopped(host, volume, listen))
        finally:
            await host.work.close()

    return asyncio.run(demoted())
