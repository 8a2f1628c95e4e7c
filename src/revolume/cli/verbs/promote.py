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
    bool, typer.Option("--yes", help="Also if another mirror has more, or this one less than it acknowledged.")
]


def register(app: typer.Typer) -> None:
    app.command()(promote)


def promote(
    volume: VolumeArgument,
    nbd: NbdOption = None,
    others: OthersOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Make a mirror the primary.

    Refused while its source is connected, or while somebody listens at an --nbd address still. Serve a mirror that
    was stopped without --mirror-listen afterwards. Where there are several mirrors, promote the one that has most:
    with --others it is refused if another one has more. A mirror that has more than the one that was promoted has
    to be made anew from an empty directory.
    """
    from revolume.api.client import connect
    from revolume.cli.addresses import absolute
    from revolume.cli.mirror_to import mirror_address
    from revolume.cli.reach import reach
    from revolume.mirror.wording import lacking_words

    addresses = [absolute(text) for text in nbd or []]
    if len(set(addresses)) < len(addresses):
        raise UsageError("address-twice", "An --nbd address is given twice.", "Leave one out.")
    asked = [mirror_address(text) for text in others or []]
    with reach(volume) as reached:
        status = reached.status()
        if lacks := status.get("lacks"):
            print_note(lacking_words(lacks, "this copy"))
        if (source := status.get("source")) and not json:
            print_note(_position(source))
    client = connect(existing(volume))
    if client is not None:
        with client:
            told = client.promote(addresses, asked, yes)
    else:
        told = _promoted_in_its_directory(volume, addresses, asked, yes)
    if json:
        print_json(told)
    else:
        print_line(f"{told['name']} is a primary now: epoch {told['epoch']}, w{told['write']}, cp{told['point']}")
        for uri in told["nbd"]:
            print_line(f"ready {uri}")


def _position(source: dict[str, Any]) -> str:
    """What this mirror has, to be compared with what others have."""
    return (
        f"this mirror holds the log up to position {source['received']}, and agrees with its source up to "
        f"cp{source['agreed_point']} (position {source['agreed_position']})"
    )


def _promoted_in_its_directory(
    volume: str, addresses: list[str], others: list[str], yes: bool
) -> dict[str, Any]:
    import asyncio
    import dataclasses

    from revolume.cli.promotion import promote_stopped

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
    return dataclasses.asdict(asyncio.run(promote_stopped(volume, yes)))
