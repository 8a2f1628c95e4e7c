"""``revolume snapshot DIR NAME``: give the present a name; list names; drop one."""

from __future__ import annotations

from typing import Annotated

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note, print_table
from revolume.cli.values import show_time
from revolume.errors import UsageError
from revolume.history.moments import check_snapshot_name

NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The name; without one, names are listed.")
]
DropOption = Annotated[
    bool, typer.Option("--drop", help="Forget the name (and keep its moment only while history is kept).")
]


def register(app: typer.Typer) -> None:
    app.command()(snapshot)


def snapshot(
    volume: VolumeArgument, name: NameArgument = None, drop: DropOption = False, json: JsonOption = False
) -> None:
    """Name the present, list names, or drop one.

    A named moment is kept, and can be opened as VOLUME@NAME.
    """
    if name is None:
        if drop:
            raise UsageError("usage", "--drop needs the name to drop.", "revolume snapshot DIR NAME --drop.")
        _list(volume, json=json)
    elif drop:
        _drop(volume, check_snapshot_name(name), json=json)
    else:
        _make(volume, check_snapshot_name(name), json=json)


def _make(volume: str, name: str, *, json: bool) -> None:
    from revolume.cli.reach import change

    with change(volume) as reached:
        made = reached.snapshot(name)
    if json:
        print_json(made)
    else:
        print_line(f"{made['export']} is w{made['write']} of {show_time(made['time_ns'])}")


def _drop(volume: str, name: str, *, json: bool) -> None:
    from revolume.cli.reach import change

    with change(volume) as reached:
        reached.drop_snapshot(name)
    if json:
        print_json({"dropped": name})


def _list(volume: str, *, json: bool) -> None:
    from revolume.cli.reach import reach

    with reach(volume) as reached:
        listed = reached.snapshots()
    if json:
        print_json({"snapshots": listed})
    elif listed:
        rows = [
            (s["name"], f"w{s['write']}", f"cp{s['point']}", show_time(s["time_ns"]), s["export"]) for s in listed
        ]
        print_table(("NAME", "WRITE", "POINT", "TIME", "EXPORT"), rows)
    else:
        print_note("There is no snapshot yet.")
