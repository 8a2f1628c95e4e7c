"""``revolume history DIR --range A:B``: when these bytes last changed."""

from __future__ import annotations

from typing import Annotated

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_note, print_table
from revolume.cli.target import existing
from revolume.cli.values import parse_size, show_time
from revolume.errors import UsageError

RangeOption = Annotated[
    str, typer.Option("--range", metavar="A:B", help="From byte A to byte B, sizes as 4096, 1M, 2G.")
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="So many of them at most.")]


def register(app: typer.Typer) -> None:
    app.command()(history)


def history(volume: VolumeArgument, span: RangeOption, limit: LimitOption = 20, json: JsonOption = False) -> None:
    """List the writes that changed some bytes, newest first.

    Each can be opened as VOLUME@wNUMBER; the moment before a write is @w of the number before.
    """
    from revolume.api.client import connect

    start, end = _range(span)
    client = connect(existing(volume))
    if client is None:
        raise UsageError("not-served", f"{volume} is not being served.", "Serve it: 'revolume serve DIR'.")
    with client:
        found = client.changes(start, end, limit)
    if json:
        print_json({"changes": found})
    elif found:
        rows = [
            (
                f"w{each['write']}",
                show_time(each["time_ns"]),
                each["how"],
                str(each["offset"]),
                str(each["length"]),
            )
            for each in found
        ]
        print_table(("WRITE", "TIME", "HOW", "OFFSET>", "LENGTH>"), rows)
    else:
        print_note("Nothing that is retained has changed these bytes.")


def _range(text: str) -> tuple[int, int]:
    begin, colon, end = text.partition(":")
    if not colon or not end:
        raise UsageError("bad-range", f"{text[:80]!a} is not a range.", "Write A:B, as in 0:4096 or 1G:1088M.")
    start, stop = (0 if begin in ("", "0") else parse_size(begin)), parse_size(end)
    if start >= stop:
        raise UsageError("bad-range", f"{text[:80]!a} is empty.", "The end lies behind the beginning.")
    return start, stop
