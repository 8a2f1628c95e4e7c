"""``revolume points DIR``: the consistency points that are kept, and what a moment is."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note, print_table
from revolume.cli.values import show_size, show_time
from revolume.cli.verbs.fetch import PeerOption, TlsOption
from revolume.history.moments import parse_moment

_SHOWN: Final = 20

AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="MOMENT", help="Say what this moment is, and the points on both sides."),
]
_FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="MIRROR", help="What this mirror holds: its name, or ADDR, where a node listens."
    ),
]
_PROOFS_SHOWN = 5
"""Of what commands found ('revolume prove'), the newest."""
TimelineOption = Annotated[
    bool, typer.Option("--timeline", help="Which stretches of the past there are, why, and what they take.")
]
AllOption = Annotated[bool, typer.Option("--all", help=f"Every point, not only the last {_SHOWN}.")]


def register(app: typer.Typer) -> None:
    app.command()(points)


def points(
    volume: VolumeArgument,
    at: AtOption = None,
    every: AllOption = False,
    stretches: TimelineOption = False,
    source: _FromOption = None,
    tls_dir: TlsOption = None,
    peer: PeerOption = None,
    json: JsonOption = False,
) -> None:
    """List the consistency points, find a moment, or show how much of the past there is.

    With --from, the points that another copy holds, of which 'revolume fetch' brings one here.
    """
    from revolume.cli.client import read_client

    if source is not None:
        from revolume.cli.moments_there import held_there, print_held

        held = held_there(volume, source, tls_dir, peer, as_json=json)
        print_json(held) if json else print_held(held["moments"], every=every)
        return
    if stretches:
        _timeline(volume, json=json)
        return
    if at is not None:
        parse_moment(at)
    with read_client(volume) as client:
        answer = client.points(at)
        names = {} if json else _names(client.snapshots())
        proofs = client.proofs()
    if json:
        print_json({**answer, "proofs": proofs})
    elif at is not None:
        _print_moment(answer["at"])
    else:
        _print_points(answer["points"], names, every=every)
        for proof in proofs[-_PROOFS_SHOWN:]:
            took = f"in {proof['duration_ms'] / 1000:.1f} s"
            at_point = f"w{proof['write']} (cp{proof['point']})"
            print_line(f"{at_point} {proof['verdict']} {took}, {show_time(proof['time_ns'])}: {proof['command']}")


_KINDS = {"every": "every moment", "point": "one moment", "suspect": "suspect", "gap": "nothing"}


def _timeline(volume: str, *, json: bool) -> None:
    from revolume.cli.client import read_client
    from revolume.cli.timeline import timeline

    with read_client(volume) as client:
        found = timeline(client.status())
    if json:
        print_json({"timeline": found})
        return
    rows = [
        (
            _KINDS[each.kind],
            f"w{each.since}" if each.since == each.until else f"w{each.since} to w{each.until}",
            show_time(each.since_ns) if each.since_ns else "",
            show_time(each.until_ns) if each.until_ns and each.until_ns != each.since_ns else "",
            show_size(each.bytes) if each.bytes else "",
            each.cause,
        )
        for each in found
    ]
    print_table(("WHAT OPENS", "WRITES", "FROM", "TO", "TAKES>", "WHY"), rows)


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
            "suspect" if point.get("suspect") else "",
        )
        for point in shown
    ]
    if any(row[-1] for row in rows):
        print_table(("POINT", "WRITE", "TIME", "BLOCKS>", "SNAPSHOT", "SUSPECT"), rows)
        print_note("A suspect one is not what the volume was then: --at says why, and names good ones.")
    else:
        print_table(("POINT", "WRITE", "TIME", "BLOCKS>", "SNAPSHOT"), [row[:-1] for row in rows])
    if len(shown) < len(listed):
        print_note(f"{len(listed) - len(shown)} earlier ones: --all shows them, --at finds a moment.")


def _print_moment(moment: dict[str, Any]) -> None:
    print_line(f"{moment['asked']} is w{moment['write']} of {show_time(moment['time_ns'])}")
    print_line(f"export name: {moment['export']}")
    if moment.get("note"):
        print_note(f"note: {moment['note']}.")
    if moment.get("suspect"):
        _print_suspect(moment["suspect"])
    for side in ("before", "after"):
        point = moment[f"point_{side}"]
        print_line(
            f"point {side}: " + (f"cp{point['number']} of {show_time(point['time_ns'])}" if point else "none")
        )


def _print_suspect(suspect: dict[str, Any]) -> None:
    print_line(f"it is {suspect['told']}")
    for side, point in (("before", suspect["good_before"]), ("behind", suspect["good_after"])):
        named = f"cp{point['number']} of {show_time(point['time_ns'])}" if point else "none"
        print_line(f"nearest good point {side}: {named}")
