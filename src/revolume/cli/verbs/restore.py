"""``revolume restore DIR --to MOMENT``: a running primary goes back, in place, to a retained moment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing
from revolume.cli.values import parse_seconds, parse_size
from revolume.cli.verbs.fetch import PeerOption, TlsOption, fetch_to_empty
from revolume.errors import RevolumeError, UsageError

if TYPE_CHECKING:
    from revolume.api.client import ControlClient

_ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="MOMENT", help="-10m, a time, w123456, cp42, or a snapshot's name."),
]
_UndoOption = Annotated[bool, typer.Option("--undo", help="Go back to what was before the last restore.")]
_RangeOption = Annotated[
    str | None, typer.Option("--range", metavar="BEGIN:END", help="Only these bytes, in multiples of 4096.")
]
_DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say how much differs.")]
_YesOption = Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said what would be done.")]
_DisconnectOption = Annotated[
    bool, typer.Option("--disconnect", help="End the connections of clients that may write to the volume.")
]


_UndoForOption = Annotated[
    str,
    typer.Option("--undo-for", metavar="SPAN", help="For so long the state before is kept, or 'forever'."),
]
_FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="MIRROR", help="Fetch the moment there, if it is not here: a name, or ADDR."),
]


def register(app: typer.Typer) -> None:
    app.command()(restore)


def restore(
    volume: VolumeArgument,
    to: _ToOption = None,
    undo: _UndoOption = False,
    range_: _RangeOption = None,
    dry_run: _DryRunOption = False,
    yes: _YesOption = False,
    disconnect: _DisconnectOption = False,
    undo_for: _UndoForOption = "7d",
    source: _FromOption = None,
    tls_dir: TlsOption = None,
    peer: PeerOption = None,
    json: JsonOption = False,
) -> None:
    """Bring a volume, and its mirrors, back to a retained moment.

    What it holds now is kept for --undo-for as a snapshot, before-restore-…, to which --undo goes back. Refused
    while clients are connected that may write, or while a required mirror is away. It is done as one: a crash
    leaves all or nothing. With --from, a moment that only another copy holds is fetched first; in a new or empty
    directory that makes a primary of it.
    """
    from revolume.api.client import connect

    if (to is None) == (not undo):
        raise UsageError("usage", "Say to which moment: --to MOMENT, or --undo.", "revolume restore --help.")
    undo_for_s = _undo_seconds(undo_for)
    begin, end = _bytes(range_) if range_ is not None else (None, None)
    client = connect(existing(volume)) if source is None or os.path.isdir(volume) else None
    if client is None:
        if source is None or to is None or range_ is not None:
            raise UsageError(
                "not-served", f"{volume} is not being served.", "Serve it first: 'revolume serve DIR'."
            )
        made = fetch_to_empty(volume, source, to, False, False, tls_dir, peer, as_json=json)
        print_json(made) if json else print_line(made["told"])
        return
    with client:
        if source is not None and to is not None:
            to = _fetched(client, source, to, as_json=json)
        told = client.restore(
            to or "", undo=undo, begin=begin, end=end, dry_run=dry_run, yes=yes, disconnect=disconnect,
            undo_for=undo_for_s,
        )  # fmt: skip
    if json:
        print_json(told)
    else:
        print_line(told["told"])


def _undo_seconds(text: str) -> float:
    """0: until the snapshot is dropped."""
    seconds = 0.0 if text == "forever" else parse_seconds(text)
    if not seconds and text != "forever":
        cause = "--undo-for 0 would keep nothing to go back to."
        raise UsageError("usage", cause, "Say --undo-for 7d, or --undo-for forever.")
    return seconds


def _fetched(client: ControlClient, source: str, moment: str, *, as_json: bool) -> str:
    """The moment is here, fetched from the other copy if need be; how it is called here."""
    from revolume.cli.job_wait import run_job
    from revolume.cli.mirror_options import place

    try:
        orders = {"from": place(source), "moment": moment}
        job = run_job(client, "fetch", orders, timeout_s=None, as_json=as_json)
    except RevolumeError as error:
        if error.code != "moment-is-here":
            raise
        return moment
    if not as_json:
        print_line(job["result"]["told"])
    return str(job["result"]["name"])


def _bytes(text: str) -> tuple[int, int]:
    begin, colon, end = text.partition(":")
    if not colon:
        raise UsageError("bad-range", f"{text[:80]!a} is not a range.", "Say BEGIN:END, as in 1G:1088M.")
    return parse_size(begin), parse_size(end)
