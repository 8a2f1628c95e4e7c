"""``revolume fetch DIR --from MIRROR --moment M``: a moment that another copy holds is brought to this node."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from revolume.cli.options import JsonOption
from revolume.cli.output import print_json, print_line
from revolume.cli.values import parse_seconds
from revolume.errors import UsageError

_VolumeArgument = Annotated[
    str,
    typer.Argument(metavar="DIR", help="A served primary's directory; or a new or empty one.", show_default=False),
]
FromOption = Annotated[
    str,
    typer.Option("--from", metavar="MIRROR", help="A mirror's name; or ADDR, where any copy's node listens."),
]
_MomentOption = Annotated[
    str, typer.Option("--moment", metavar="MOMENT", help="-10m, a time, w123456, cp42, or a snapshot's name.")
]
_NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="What it is called here; else as there.")
]
_SuspectOption = Annotated[bool, typer.Option("--suspect", help="Also one that is known to be suspect there.")]
_ForceOption = Annotated[
    bool, typer.Option("--force", help="A new primary, although another primary of the volume lives.")
]
TlsOption = Annotated[
    str | None, typer.Option("--tls-dir", metavar="DIR", help="Certificates; of a served volume its own are used.")
]
PeerOption = Annotated[
    str | None,
    typer.Option("--peer", metavar="NAME", help="The name that the other node's certificate must have."),
]
_TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="Then stop waiting for it, with exit status 6; it goes on.")
]


def register(app: typer.Typer) -> None:
    app.command()(fetch)


def fetch(
    volume: _VolumeArgument,
    source: FromOption,
    moment: _MomentOption,
    name: _NameOption = None,
    suspect: _SuspectOption = False,
    force: _ForceOption = False,
    tls_dir: TlsOption = None,
    peer: PeerOption = None,
    timeout: _TimeoutOption = None,
    json: JsonOption = False,
) -> int:
    """Bring a moment that another copy of the volume holds to this node.

    To a primary that is served it comes as a snapshot: only the blocks travel that the primary does not have. It
    is opened and copied as DIR@NAME, and restored to. In a new or empty directory it becomes a primary of the
    volume as of then. 'revolume points DIR --from MIRROR' lists what there is.
    """
    from revolume.api.client import connect
    from revolume.history.moments import check_snapshot_name, parse_moment

    parse_moment(moment)
    if name is not None:
        check_snapshot_name(name)
    seconds = None if timeout is None else parse_seconds(timeout)
    client = connect(volume) if os.path.isdir(volume) else None
    if client is None:
        if name is not None:
            raise UsageError("not-served", f"{volume} is not being served.", "Serve it; or leave --name out.")
        told = fetch_to_empty(volume, source, moment, suspect, force, tls_dir, peer, as_json=json)
        print_json(told) if json else print_line(told["told"])
        return 0
    from revolume.cli.job_wait import exit_status, run_job
    from revolume.cli.mirror_options import place

    orders = {"from": place(source), "moment": moment, "suspect": suspect, "name": name}
    with client:
        job = run_job(client, "fetch", orders, timeout_s=seconds, as_json=json)
    print_json(job) if json else print_line(job["result"]["told"])
    return exit_status(job)


def fetch_to_empty(
    volume: str,
    source: str,
    moment: str,
    suspect: bool,
    force: bool,
    tls_dir: str | None,
    peer: str | None,
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Make a primary in a new or empty directory; what was made."""
    import asyncio
    import dataclasses

    from revolume.cli.mirror_options import place
    from revolume.cli.open_session import silence_log
    from revolume.cli.progress import progress
    from revolume.host import real_host
    from revolume.node.addresses import refuse_plaintext_links
    from revolume.node.new_primary import Wish, make_primary
    from revolume.node.service_options import history_preserving
    from revolume.node.tls_contexts import source_context

    address = place(source)
    if address == source and ":" not in source:
        raise UsageError(
            "no-mirror", f"{volume} is not being served, so it knows no mirror {source[:64]!a}.",
            "Give the address of a node that has the volume: --from unix:PATH or HOST:PORT.",
        )  # fmt: skip
    refuse_plaintext_links([address], tls_dir)
    silence_log()
    options = dataclasses.replace(history_preserving(volume), tls_dir=tls_dir, budget_bytes=None)
    wish = Wish(address, moment, suspect, force, source_context(options), peer)

    async def made() -> dict[str, Any]:
        host = real_host()
        try:
            with progress(as_json=as_json) as report:
                return dataclasses.asdict(await make_primary(host, options, wish, report))
        finally:
            await host.work.close()

    return asyncio.run(made())
