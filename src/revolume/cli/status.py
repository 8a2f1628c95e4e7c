"""``revolume status DIR``: one screen about one volume. ``--json`` has every value that there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from revolume.cli.mirror_status import mirroring, waiting
from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import paint_state, print_fields, print_json
from revolume.cli.values import show_size, show_time
from revolume.volume.status import Forecast

Answer = Mapping[str, Any]
Field = tuple[str, str]


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(volume: VolumeArgument, json: JsonOption = False) -> None:
    """Show a volume: state, history, connections."""
    from revolume.cli.reach import reach

    with reach(volume) as reached:
        answer = reached.status()
    if json:
        print_json(answer)
    else:
        fields = [*_state(answer), *mirroring(answer)]
        if answer["volume_id"]:
            fields += [*_history(answer), *_room(answer)]
        print_fields([*fields, *_service(answer)])


def _state(answer: Answer) -> Iterator[Field]:
    yield "volume", f"{answer['name'] or 'none yet'} in {answer['directory']}"
    reason = "" if answer["state"] == "online" else f": {answer['reason']}"
    yield "state", f"{paint_state(answer['state'])}{reason}"
    for sentence in waiting(answer):
        if sentence != answer["reason"]:
            yield "waiting", sentence
    if "role" in answer:
        yield "role", answer["role"]
    if not answer["volume_id"]:
        return
    yield "size", f"{show_size(answer['size'])} ({answer['size']} bytes)"
    yield "present", f"w{answer['write']} of {show_time(answer['time_ns'])}, epoch {answer['epoch']}"


def _history(answer: Answer) -> Iterator[Field]:
    since = f"every write since w{answer['horizon_write']}"
    of = f" of {show_time(answer['horizon_time_ns'])}" if answer["horizon_time_ns"] else ""
    last = f", the last is cp{answer['point']}" if answer["points"] else ""
    yield "history", f"{since}{of}; {answer['points']} points{last}"
    for snapshot in answer["snapshots"]:
        yield "snapshot", f"{snapshot['name']} is w{snapshot['write']} of {show_time(snapshot['time_ns'])}"


def _room(answer: Answer) -> Iterator[Field]:
    budget = f" of {show_size(answer['log_budget_bytes'])}" if answer["log_budget_bytes"] else ""
    yield (
        "log",
        f"{show_size(answer['log_bytes'])}{budget}, {show_size(answer['log_ready_bytes'])} more is ready",
    )
    folding = ", being folded into" if answer["folding"] else ""
    yield "image", f"{show_size(answer['image_bytes'])}{folding}"
    if answer["map_bytes"]:
        yield "map", f"{answer['map_entries']} entries in {show_size(answer['map_bytes'])} of memory"
    for holder in answer["holders"]:
        room = f", {show_size(holder['bytes'])} of its own" if holder["bytes"] else ""
        yield "held by", f"{holder['name']} from w{holder['write']} on{room}"
    if answer["forecast"] is not None and answer["state"] not in ("degraded", "full"):
        yield "forecast", Forecast(**answer["forecast"]).sentence
    if answer["gave_way"]:
        yield "gave way", f"{answer['gave_way']} views and overlays were ended for the room that they kept"
    if answer["read_mismatches"]:
        yield "damage", f"{answer['read_mismatches']} reads met a block that was not what had been written"


def _service(answer: Answer) -> Iterator[Field]:
    for uri in answer.get("nbd", ()):
        yield "nbd", uri
    for client in answer.get("connections", ()):
        export = client.get("export") or "no export yet"
        yield (
            "client",
            f"{client.get('peer', '?')}: {export}, {client.get('in_flight', 0)} requests in flight",
        )
    for event in answer["events"]:
        times = f" ({event['count']} times since {show_time(event['first_ns'])})" if event["count"] > 1 else ""
        level = "" if event["level"] == "info" else f"{event['level']}: "
        yield "event", f"{show_time(event['last_ns'])} {level}{event['message']}{times}"
