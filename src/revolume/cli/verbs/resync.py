"""``revolume resync DIR``: bring mirrors up to date now, or say beforehand how that would be done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.progress import Report, progress
from revolume.cli.target import existing
from revolume.cli.values import parse_bulk_window, parse_rate, parse_seconds
from revolume.errors import Refused, TimedOut, UsageError
from revolume.node.resync_preference import check_preference

if TYPE_CHECKING:
    from revolume.api.client import ControlClient

_PAUSE_S: Final = 0.2
_IN_SYNC: Final = "in sync"
_REFUSED: Final = "refused"
Answer = Mapping[str, Any]
MirrorOption = Annotated[
    list[str] | None, typer.Option("--mirror", metavar="NAME", help="Only this one. Repeatable.")
]
PreferOption = Annotated[
    str,
    typer.Option(
        "--prefer",
        help="auto: by the log unless that sends far more than the difference; history: by the log, which keeps "
        "the mirror's history whole; bytes: by what sends less.",
    ),
]
TakeBackOption = Annotated[
    bool,
    typer.Option(
        "--take-back",
        help="A mirror that has gone its own way takes back what it wrote alone, and keeps it as a branch.",
    ),
]
RateOption = Annotated[
    str | None,
    typer.Option(
        "--rate", metavar="SIZE", help="A second, at most, of all bulk until the node starts anew; none lifts it."
    ),
]
WindowOption = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar="22:00-06:00",
        help="Of the day, in the node's time zone, for all bulk until it starts anew; none lifts it.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say how it would be done, and what it sends.")]
CancelOption = Annotated[
    bool,
    typer.Option(
        "--cancel",
        help="Drop what was ordered, and end a difference that is being sent; what has come of it stays. None "
        "begins again by itself: the next resync goes on.",
    ),
]
TimeoutOption = Annotated[str, typer.Option("--timeout", help="Then stop waiting for it, with exit status 6.")]


def register(app: typer.Typer) -> None:
    app.command()(resync)


def resync(
    volume: VolumeArgument,
    mirror: MirrorOption = None,
    prefer: PreferOption = "auto",
    take_back: TakeBackOption = False,
    rate: RateOption = None,
    window: WindowOption = None,
    dry_run: DryRunOption = False,
    cancel: CancelOption = False,
    timeout: TimeoutOption = "24h",
    json: JsonOption = False,
) -> None:
    """Bring mirrors up to date, by the cheapest way that is proved, and wait until they are in sync.

    A primary does that by itself whenever it reaches a mirror: this looks beforehand, says what is preferred, and
    does not wait for the next attempt. It goes on if this command is broken off, and after a restart of either
    node; --cancel ends it.
    """
    check_preference(prefer)
    if cancel:
        _cancel(volume, mirror or [], json, asks_more=take_back or dry_run or prefer != "auto")
        return
    limits = _limits(rate, window)
    client = _running(volume)
    with client:
        refusals = {each["name"]: each["refusals"] for each in client.status().get("mirrors", ())}
        plans = client.resync(mirror or [], prefer, take_back=take_back, dry_run=dry_run, **limits)
        if not json:
            for plan in plans:
                if not plan["refused"]:
                    print_line(plan["told"])
        _refuse(plans)
        if not dry_run:
            with progress(as_json=False) as report:
                before = {plan["name"]: refusals.get(plan["name"], 0) for plan in plans}
                _until_in_sync(client, before, parse_seconds(timeout), report)
    if json:
        print_json(plans)
    elif not dry_run:
        print_line(f"In sync: {', '.join(plan['name'] for plan in plans)}.")


def _cancel(volume: str, names: Sequence[str], json: bool, asks_more: bool) -> None:
    if asks_more:
        raise UsageError("cancel-alone", "--cancel orders nothing else.", "Cancel first, then order anew.")
    with _running(volume) as client:
        told = client.resync(names, "auto", cancel=True)
    if json:
        print_json(told)
    else:
        for each in told:
            print_line(each["told"])


def _limits(rate: str | None, window: str | None) -> dict[str, int | str]:
    """What was said of them."""
    limits: dict[str, int | str] = {}
    if rate is not None:
        limits["rate"] = parse_rate(rate)
    if window is not None:
        limits["window"] = str(parse_bulk_window(window) or "")
    return limits


def _running(volume: str) -> ControlClient:
    from revolume.api.client import connect

    client = connect(existing(volume))
    if client is None:
        raise UsageError("not-served", f"{volume} is not being served.", "Serve it: 'revolume serve DIR'.")
    return client


def _refuse(plans: Sequence[Answer]) -> None:
    """Refused: one of them is not brought up to date."""
    for plan in plans:
        if plan["refused"]:
            cause = f"Mirror {plan['name']} is not brought up to date: {plan['reason']}"
            raise Refused(plan["strategy"], cause, plan["hint"])


def _until_in_sync(client: ControlClient, names: Mapping[str, int], seconds: float, report: Report) -> None:
    """``names``: of the mirrors, with how often each had been refused before. Refused: one is again."""
    deadline = time.monotonic() + seconds
    while lacking := [m for m in _mirrors(client, names) if m["state"] != _IN_SYNC]:
        for each in lacking:
            if each["state"] == _REFUSED and each["refusals"] > names[each["name"]]:
                cause = f"Mirror {each['name']} is not brought up to date: {each['reason']}"
                raise Refused("mirror-refused", cause, "See 'revolume status'.")
        if time.monotonic() > deadline:
            first = lacking[0]
            cause = f"Mirror {first['name']} is not in sync yet: {first['state']}. {first['reason']}"
            raise TimedOut("timed-out", cause, "It goes on; see 'revolume status'.")
        for each in lacking:
            total = each["left_bytes"] or each["lag_bytes"]
            report(f"{each['name']} {each['state']}", 0, total)
        time.sleep(_PAUSE_S)


def _mirrors(client: ControlClient, names: Mapping[str, int]) -> list[Answer]:
    return [each for each in client.status()["mirrors"] if each["name"] in names]
