"""``revolume promote DIR``: a mirror becomes a primary, in the process that serves it or in its directory.

With ``--nbd`` the running one also listens at the addresses where clients knew the old primary."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note
from revolume.cli.target import existing
from revolume.errors import UsageError

NbdOption = Annotated[
    list[str] | None,
    typer.Option("--nbd", metavar="ADDR", help="Listen there too: the old primary's address. Repeatable."),
]


OthersOption = Annotated[
    list[str] | None,
    typer.Option("--others", metavar="ADDR", help="Another mirror, which must not have more. Repeatable."),
]
YesOption = Annotated[
    bool,
    typer.Option(
        "--yes", "--force", help="Also if another mirror has more, or this one may lack what was answered."
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Also where nothing proves that it has everything that was answered.")
]


def register(app: typer.Typer) -> None:
    app.command()(promote)


def promote(
    volume: VolumeArgument,
    nbd: NbdOption = None,
    others: OthersOption = None,
    yes: YesOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Make a mirror the primary.

    Refused while its source is connected, or while somebody listens at an --nbd address still. Serve a mirror that
    was stopped without --mirror-listen afterwards. Where there are several mirrors, promote the one that has most:
    with --others it is refused if another one has more. What a mirror has that the promoted one has not, it takes
    back by 'revolume resync --take-back', and keeps it readable as a branch.
    """
    from revolume.api.client import connect
    from revolume.cli.client import read_client
    from revolume.cli.mirror_options import mirror_address
    from revolume.mirror.wording import lacking_words
    from revolume.node.addresses import absolute

    addresses = [absolute(text) for text in nbd or []]
    if len(set(addresses)) < len(addresses):
        raise UsageError("address-twice", "An --nbd address is given twice.", "Leave one out.")
    asked = [mirror_address(text) for text in others or []]
    with read_client(volume) as reader:
        status = reader.status()
        if lacks := status.get("lacks"):
            print_note(lacking_words(lacks, "this copy"))
        if (source := status.get("source")) and not json:
            print_note(_position(source, status["horizon_write"]))
            print_note(_loss(status))
    client = connect(existing(volume))
    if client is not None:
        with client:
            told = client.promote(addresses, asked, yes or force)
    else:
        told = _promoted_in_its_directory(volume, addresses, asked, yes or force)
    if json:
        print_json(told)
    else:
        if told["proof"]:
            print_note(told["proof"])
        print_line(f"{told['name']} is a primary now: epoch {told['epoch']}, w{told['write']}, cp{told['point']}")
        for uri in told["nbd"]:
            print_line(f"ready {uri}")


def _position(source: dict[str, Any], begins: int) -> str:
    """What this mirror has, to be compared with what others have."""
    return (
        f"this mirror holds the log up to position {source['received']}, and agrees with its source up to "
        f"cp{source['agreed_point']} (position {source['agreed_position']}); its history begins at w{begins}"
    )


def _loss(status: dict[str, Any]) -> str:
    """What may be lost by it, as far as this copy knows."""
    from revolume.mirror.wording import loss_words

    source = status["source"]
    own = next((member for member in status.get("members", ()) if member["this"]), None)
    return loss_words(
        mode="" if own is None else own["mode"],
        required=own is not None and own["required"],
        position=source["received"],
        why_not=source["why_not"],
        last_ns=status["time_ns"],
        lost_ns=0 if source["connected"] else source["since_ns"],
    )


def _promoted_in_its_directory(volume: str, addresses: list[str], others: list[str], yes: bool) -> dict[str, Any]:
    import asyncio
    import dataclasses

    from revolume.host import real_host
    from revolume.node.promotion import promote_stopped

    if addresses:
        raise UsageError(
            "not-running", f"{volume} is not being served, so it listens nowhere.",
            "Leave --nbd out, and give it to 'revolume serve' afterwards.",
        )  # fmt: skip
    if others and not yes:
        raise UsageError(
            "not-running", f"{volume} is not being served, so it can't ask other mirrors.",
            "Serve it with --mirror-listen first; or leave --others out.",
        )  # fmt: skip

    async def promoted() -> dict[str, Any]:
        host = real_host()
        try:
            return dataclasses.asdict(await promote_stopped(host, volume, yes))
        finally:
            await host.work.close()

    return asyncio.run(promoted())
