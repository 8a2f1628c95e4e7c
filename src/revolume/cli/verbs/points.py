"""``revolume points DIR``: the consistency points that are kept, and what a moment is."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note, print_table
from revolume.cli.values import show_time
from revolume.history.moments import parse_moment

_SHOWN: Final = 20

AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="MOMENT", help="Say what this moment is, and the points on both sides."),
]
AllOption = Annotated[bool, typer.Option("--all", help=f"Every point, not only the last {_SHOWN}.")]


def register(app: typer.Typer) -> None:
    app.command()(points)


def points(
    volume: VolumeArgument, at: AtOption = None, every: AllOption = False, json: JsonOption = False
) -> None:
    """List the consistency points, or find a moment."""
    from revolume.cli.reach import reach

    if at is not None:
        parse_moment(at)
    with reach(volume) as reached:
        answer = reached.points(at)
        names = {} if json else _names(reached.snapshots())
    if json:
        print_json(answer)
    elif at is not None:
        _print_moment(answer["at"])
    else:
        _print_points(answer["points"], names, every=every)


def _names(snapshots: list[dict[str, Any]]) -> dict[int, str]:
    """The snapshots' names by the write that they name."""
    names: dict[int, list[str]] = {}
    for snapshot in snapshots:
        names.setdefault(snapshot["write"], []).append(snapshot["name"])
    return {write: ", ".join(sorted(those)) for write, those in names.items()}


def _print_points(listed: list[dict[str, Any]], names: dict[int, str], *, every: bool) -> None:
    if not listed:
        print_note("There is no consistency point yet.")
        return
    shown = listed if every else listed[-_SHOWN:]
    rows = [
        (
            f"cp{point['number']}",
            f"w{point['write']}",
            show_time(point["time_ns"]),
            str(point["changed_blocks"]),
            names.get(point["write"], ""),
        )
        for point in shown
    ]
    print_table(("POINT", "WRITE", "TIME", "BLOCKS>", "SNAPSHOT"), rows)
    if len(shown) < len(listed):
        print_note(f"{len(listed) - len(shown)} earlier ones: --all shows them, --at finds a moment.")


def _print_moment(moment: dict[str, Any]) -> None:
    print_line(f"{moment['asked']} is w{moment['write']} of {show_time(moment['time_ns'])}")
    print_line(f"export name: {moment['export']}")
    if moment.get("note"):
        print_note(f"note: {moment['note']}.")
    for side in ("before", "after"):
        point = moment[f"point_{side}"]
        print_line(
            f"point {side}: " + (f"cp{point['number']} of {show_time(point['time_ns'])}" if point else "none")
        )
