"""``revolume branch list|drop DIR …``: what a copy wrote alone, and has taken back since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note, print_table
from revolume.cli.target import existing
from revolume.cli.values import show_size, show_time
from revolume.volume.branches.names import branch_moment

Answer = Mapping[str, Any]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The branch's name, as list shows it.")]


def register(app: typer.Typer) -> None:
    app.add_typer(verbs)


verbs = typer.Typer(name="branch", help="What this copy wrote alone, and has taken back.")


@verbs.command("list")
def show(volume: VolumeArgument, json: JsonOption = False) -> None:
    """List the branches, oldest first, and below each the snapshots that were taken on it.

    Each is opened as VOLUME@branch:NAME, a snapshot on it as VOLUME@branch:NAME:SNAPSHOT; both are copied out with
    'revolume copy DIR@branch:NAME FILE'.
    """
    from revolume.cli.client import read_client

    with read_client(volume) as client:
        answer = client.status()
    branches = answer.get("branches", ())
    if json:
        print_json({"branches": list(branches)})
    elif branches:
        rows = [row for branch in branches for row in _rows(answer["name"], branch)]
        print_table(("NAME", "BEHIND", "WRITES>", "TAKES", "LAST WRITE", "TAKEN BACK", "EXPORT"), rows)
    else:
        print_note("There is no branch.")


def _rows(volume: str, branch: Answer) -> Iterator[tuple[str, ...]]:
    """The branch, then the names that were given on it. An older service tells of no moments."""
    name, moments = branch["name"], branch.get("moments", ())
    yield (
        name, f"cp{branch['point']}", str(branch["writes"]), show_size(branch["bytes"]),
        show_time(branch["time_ns"]), show_time(branch["made_ns"]), f"{volume}@{branch_moment(name)}",
    )  # fmt: skip
    held = {moment["name"] for moment in moments}
    for lost in branch["snapshots"]:
        if lost not in held:
            yield f"  {lost}", "", "", "", "", "", "not kept"
    for moment in moments:
        text = branch_moment(name, moment["name"])
        yield f"  {moment['name']}", "", "", "", show_time(moment["time_ns"]), "", f"{volume}@{text}"


@verbs.command()
def drop(volume: VolumeArgument, name: NameArgument, json: JsonOption = False) -> None:
    """Give a branch up, and its room back."""
    from revolume.api.client import connect
    from revolume.volume.branches.names import check_branch_name

    bare = check_branch_name(name)
    client = connect(existing(volume))
    if client is not None:
        with client:
            client.drop_branch(bare)
    else:
        from revolume.host import real_host
        from revolume.volume.open.drop_branch import drop_branch_stopped

        drop_branch_stopped(real_host(), volume, bare)
    if json:
        print_json({"dropped": bare})
    else:
        print_line(f"branch {bare} is dropped")
