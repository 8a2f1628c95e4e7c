"""``revolume keep DIR [POLICY]``: what is kept of the past, in how much room; change it, or see what that would
let go."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from revolume.api.keep_text import parse_policy, parse_when_full
from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note
from revolume.cli.values import counted, parse_size, show_seconds, show_size, show_time
from revolume.errors import UsageError

PolicyArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[POLICY]",
        help="24h, or tiers: every-write=24h every-cp=3d hourly=7d daily=30d. Without one, what is kept is shown.",
    ),
]
BudgetOption = Annotated[str | None, typer.Option("--budget", metavar="SIZE", help="Room for all of it.")]
FullOption = Annotated[
    str | None, typer.Option("--when-full", help="Without room: shrink (the oldest goes), block, or refuse.")
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]


def register(app: typer.Typer) -> None:
    app.command()(keep)


def keep(
    volume: VolumeArgument,
    policy: PolicyArgument = None,
    budget: BudgetOption = None,
    when_full: FullOption = None,
    dry_run: DryOption = False,
    json: JsonOption = False,
) -> None:
    """Show or change what is kept of the past.

    Spans count the time for which the volume is open. A mirror has a policy of its own.
    """
    text = " ".join(policy) if policy else None
    size = None if budget is None else parse_size(budget)
    if text is not None:
        parse_policy(text)
    if when_full is not None:
        parse_when_full(when_full)
    if text is None and size is None and when_full is None:
        if dry_run:
            raise UsageError(
                "usage", "--dry-run needs something that would change.", "revolume keep DIR 24h --dry-run."
            )
        _show(volume, json=json)
    else:
        _change(volume, {"policy": text, "budget": size, "when_full": when_full, "dry_run": dry_run}, json=json)


def _show(volume: str, *, json: bool) -> None:
    from revolume.cli.client import read_client

    with read_client(volume) as client:
        kept = client.kept()
    if json:
        print_json(kept)
    else:
        _print(kept)


def _change(volume: str, order: dict[str, Any], *, json: bool) -> None:
    from revolume.cli.client import admin_client

    with admin_client(volume) as client:
        kept = client.keep(**order)
    if json:
        print_json(kept)
        return
    if not order["dry_run"]:
        _print(kept)
    _print_going(kept["going"], would=order["dry_run"])


def _print(kept: dict[str, Any]) -> None:
    print_line(f"policy: {kept['policy']}; when full: {kept['when_full']}")
    taken = f"{show_size(kept['log_bytes'])} of log and {show_size(kept['pinned_bytes'])} beside it"
    print_line(f"room: {taken}, of {show_size(kept['budget_bytes'])}")
    print_line(f"every write: since {show_time(kept['oldest_ns'])}, {counted(kept['points'], 'point')}")
    if kept["pinned_points"]:
        since = show_time(kept["oldest_pinned_ns"])
        print_line(f"single points before that: {kept['pinned_points']}, since {since}")
    if kept["full_in_s"] is not None:
        print_line(f"at the present rate the budget is used up in {show_seconds(kept['full_in_s'])}")
    print_line(f"without room goes first: {kept['goes_next']}")


def _print_going(going: dict[str, Any], *, would: bool) -> None:
    if not going["points"] and not going["writes"]:
        print_note("Nothing would go by that." if would else "Nothing goes by that.")
        return
    what = f"{counted(going['points'], 'point')} and {counted(going['writes'], 'write')}"
    since, until = show_time(going["since_ns"]), show_time(going["until_ns"])
    verb = "would go" if would else "go"
    print_line(f"{what} {verb}, of {since} to {until}: {show_size(going['bytes'])} come back")
