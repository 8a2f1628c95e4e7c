"""``revolume du DIR``: what a volume takes of its disk, and what dropping each holder would give back."""

from __future__ import annotations

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_fields, print_json, print_note, print_table
from revolume.cli.target import existing
from revolume.cli.values import show_size
from revolume.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(du)


def du(volume: VolumeArgument, json: JsonOption = False) -> None:
    """Say what a running volume takes of its disk, and who keeps how much of it.

    ALONE comes back when that holder is dropped or closed; SHARED is kept for others as well. Of a clone this is
    what its parent keeps for it: its own directory has a 'du' of its own.
    """
    from revolume.api.client import connect

    client = connect(existing(volume))
    if client is None:
        raise UsageError("not-served", f"{volume} is not being served.", "Serve it: 'revolume serve DIR'.")
    with client:
        found = client.usage()
    if json:
        print_json(found)
        return
    print_fields([(part, show_size(found[f"{part}_bytes"])) for part in ("image", "log", "rescued")])
    if not found["holders"]:
        print_note("Nobody keeps anything besides.")
        return
    rows = [
        (
            each["name"], f"w{each['write']}", show_size(each["exclusive_bytes"]), show_size(each["shared_bytes"]),
            each["why"],
        )
        for each in found["holders"]
    ]  # fmt: skip
    print_table(("KEPT FOR", "AT", "ALONE>", "SHARED>", ""), rows)
