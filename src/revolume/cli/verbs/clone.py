"""``revolume clone DIR@MOMENT NAME``: a writable volume over a moment; list them; drop one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from revolume.cli.options import JsonOption, SuspectOption
from revolume.cli.output import print_json, print_line, print_note, print_table
from revolume.cli.target import parse_target
from revolume.cli.values import show_size, show_time
from revolume.errors import Refused, UsageError
from revolume.history.moments import check_volume_name, format_moment

_SUSPECT = ",suspect"

TargetArgument = Annotated[
    str, typer.Argument(metavar="DIR[@MOMENT]", help="The volume, and when: now if that is left out.")
]
NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The clone's name; without one, clones are listed.")
]
AtOption = Annotated[
    str | None, typer.Option("--at", metavar="NEWDIR", help="Where it is to lie: an empty directory.")
]
DropOption = Annotated[bool, typer.Option("--drop", help="Remove the clone, with all that was written to it.")]
YesOption = Annotated[bool, typer.Option("--yes", help="With --drop: it is meant.")]


def register(app: typer.Typer) -> None:
    app.command()(clone)


def clone(
    volume: TargetArgument,
    name: NameArgument = None,
    at: AtOption = None,
    suspect: SuspectOption = False,
    drop: DropOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Make a writable volume over a moment, list clones, or drop one.

    Nothing is copied: what the clone has not written it reads in its parent, which keeps that moment for it and
    serves both. It has a history of its own: NAME, NAME@MOMENT, and its directory for every verb.
    """
    text = volume.removesuffix(_SUSPECT)
    target = parse_target(text)
    if name is None:
        if drop or at is not None:
            raise UsageError("usage", "The clone's name is missing.", "revolume clone DIR@MOMENT NAME.")
        _list(target.directory, json=json)
    elif drop:
        if not yes:
            what = f"Clone {name} would be removed, with all that was written to it."
            raise Refused("drop-clone", what, "Say --yes if it is meant.")
        _drop(target.directory, name, json=json)
    else:
        moment = "now" if target.moment is None else format_moment(target.moment)
        place = "" if at is None else os.path.abspath(at)
        _make(target.directory, check_volume_name(name), moment, place, suspect or text != volume, json=json)


def _make(directory: str, name: str, moment: str, at: str, suspect: bool, *, json: bool) -> None:
    from revolume.cli.client import admin_client

    with admin_client(directory) as client:
        made = client.make_clone(name, moment, at, suspect)
    if json:
        print_json(made)
    else:
        print_line(f"clone {name} of {show_time(made['time_ns'])} is in {made['directory']}")
        print_note(f"It is served with its parent in {directory}, as export {name}.")


def _drop(directory: str, name: str, *, json: bool) -> None:
    from revolume.cli.client import admin_client

    with admin_client(directory) as client:
        client.drop_clone(name)
    if json:
        print_json({"dropped": name})
    else:
        print_line(f"clone {name} is dropped")


def _list(directory: str, *, json: bool) -> None:
    from revolume.cli.client import read_client

    with read_client(directory) as client:
        clones = client.status().get("clones", [])
    if json:
        print_json({"clones": clones})
    elif clones:
        print_table(("NAME", "OF", "TIME", "MADE", "RESCUED", "DIRECTORY", ""), [_row(each) for each in clones])
    else:
        print_note("There is no clone.")


def _row(each: Mapping[str, Any]) -> tuple[str, ...]:
    state = "being detached" if each["detaching"] else "" if each["open"] else f"not open: {each['reason']}"
    times = show_time(each["time_ns"]), show_time(each["made_ns"])
    of = f"{each['moment']} (w{each['write']})"
    return each["name"], of, *times, show_size(each["rescued_bytes"]), each["directory"], state
