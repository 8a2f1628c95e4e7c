"""``revolume status DIR``: one screen about one volume. ``--json`` has every value that there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import typer

from revolume.cli.mirror_status import mirroring, waiting
from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import paint_state, print_fields, print_json
from revolume.cli.suspect_moments import suspect_period
from revolume.cli.values import counted, show_seconds, show_size, show_time

_FORESEEN_S: Final = 30 * 86400.0

Answer = Mapping[str, Any]
Field = tuple[str, str]


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(volume: VolumeArgument, json: JsonOption = False) -> None:
    """Show a volume: state, history, connections."""
    from revolume.cli.client import read_client

    with read_client(volume) as client:
        answer = client.status()
    if json:
        print_json(answer)
    else:
        fields = [*_state(answer), *mirroring(answer)]
        if answer["volume_id"]:
            fields += [*_history(answer), *_branches(answer), *_room(answer)]
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
    yield "history", f"{since}{of}; {counted(answer['points'], 'point')}{last}"
    for snapshot in answer["snapshots"]:
        if snapshot.get("branch"):
            continue
        yield "snapshot", f"{snapshot['name']} is w{snapshot['write']} of {show_time(snapshot['time_ns'])}"
    yield from _clones(answer)
    for period in answer.get("suspect", ()):
        yield "suspect", suspect_period(period)


def _clones(answer: Answer) -> Iterator[Field]:
    """Those over it, and what it lies over itself. An older service has none."""
    if origin := answer.get("origin"):
        what = "; it is being made independent" if origin["detaching"] else ""
        yield "clone of", f"{origin['parent']} in {origin['directory']} at {origin['moment']}{what}"
    for each in answer.get("clones", ()):
        how = "" if each["open"] else f", not open: {each['reason']}"
        yield "clone", f"{each['name']} of {each['moment']}, in {each['directory']}{how}"


def _jump(jump: Answer) -> Field:
    share = f"block {jump['next_block']} of {jump['volume_blocks']}"
    what = f"{counted(jump['blocks'], 'changed block')}, {show_size(jump['bytes'])} beside the image"
    return "jump", f"from cp{jump['since']} to cp{jump['point']}, up to {share}: {what}"


def _branches(answer: Answer) -> Iterator[Field]:
    """What this copy wrote alone. An older service has none."""
    branches = answer.get("branches", ())
    for each in branches:
        took = f"{counted(each['writes'], 'write')} behind cp{each['point']}, {show_size(each['bytes'])}"
        yield "branch", f"{each['name']}: {took}, taken back {show_time(each['made_ns'])}"
        if names := [moment["name"] for moment in each.get("moments", ())]:
            yield "", f"snapshots on it, read as @branch:{each['name']}:NAME: {', '.join(names)}"
    if branches:
        oldest = branches[0]["name"]
        where = answer["directory"]
        told = f"revolume copy {where}@branch:{oldest} FILE; revolume branch drop {where} {oldest}"
        yield "", f"warning: branch {oldest} is kept until it is dropped: {told}"


def _room(answer: Answer) -> Iterator[Field]:
    from revolume.volume.state.status import Forecast

    budget = f" of {show_size(answer['log_budget_bytes'])}" if answer["log_budget_bytes"] else ""
    yield (
        "log",
        f"{show_size(answer['log_bytes'])}{budget}, {show_size(answer['log_ready_bytes'])} more is ready",
    )
    yield from _keep(answer.get("keep"))
    folding = ", being folded into" if answer["folding"] else ""
    yield "image", f"a sparse file of {show_size(answer['image_bytes'])}{folding}"
    if answer["map_bytes"]:
        yield "map", f"{answer['map_entries']} entries in {show_size(answer['map_bytes'])} of memory"
    if answer.get("jump"):
        yield _jump(answer["jump"])
    yield from _scrub(answer.get("scrub"))
    for holder in answer["holders"]:
        yield _holder(holder)
    if answer["forecast"] is not None and answer["state"] not in ("degraded", "full"):
        foreseen = Forecast(**answer["forecast"])
        if foreseen.matters:
            yield "forecast", foreseen.sentence
    if answer["gave_way"]:
        yield "gave way", f"{answer['gave_way']} views and overlays were ended for the room that they kept"
    if answer.get("healed_blocks"):
        yield "healed", _healed(answer["healed_blocks"])
    if answer.get("unhealed_count"):
        first = ", ".join(f"block {each['block']} in the {each['place']}" for each in answer["unhealed"][:4])
        yield "not healed", f"{counted(answer['unhealed_count'], 'damaged block')} that no other copy has: {first}"
    for table in answer.get("damaged_tables", ()):
        yield "not readable", _damaged_table(table)
    if answer["read_mismatches"]:
        yield "damage", f"{answer['read_mismatches']} reads met a block that was not what had been written"


def _keep(keep: Answer | None) -> Iterator[Field]:
    """What is kept, and what goes first. An older service does not say."""
    if keep is None:
        return
    single = f", {counted(keep['pinned_points'], 'single point')} before" if keep["pinned_points"] else ""
    yield "keep", f"{keep['policy']}{single}"
    if keep["pinned_points"] and keep["full_in_s"] is not None and keep["full_in_s"] < _FORESEEN_S:
        yield "", f"its budget is used up in {show_seconds(keep['full_in_s'])}; then {keep['goes_next']}"


def _damaged_table(table: Answer) -> str:
    names = ", ".join(table["snapshots"])
    lost = f"snapshots that can't be read whole: {names}" if names else "no snapshot needs it"
    return f"{table['file']}, which says what was rescued up to w{table['write']}, is damaged; {lost}"


def _healed(count: int) -> str:
    were = "block that was damaged was" if count == 1 else "blocks that were damaged were"
    return f"{count} {were} put right from another copy"


def _scrub(scrub: Answer | None) -> Iterator[Field]:
    """The pass under way, and the last one. A stopped volume and an older service have none."""
    if scrub is None:
        return
    if scrub["under_way"]:
        how = "" if scrub["running"] else ", not running now"
        read, total = show_size(scrub["bytes_read"]), show_size(max(scrub["bytes_read"], scrub["bytes_total"]))
        found = _damaged(scrub["damaged"], scrub["healed"])
        yield "scrub", f"since {show_time(scrub['started_ns'])}, {read} of about {total}, {found}{how}"
    if scrub["last_ended_ns"]:
        found = _damaged(scrub["last_damaged"], scrub["last_healed"])
        read, ended = show_size(scrub["last_bytes_read"]), show_time(scrub["last_ended_ns"])
        yield "scrubbed", f"last {ended}: {read}, {found}"


def _damaged(damaged: int, healed: int) -> str:
    return f"{counted(damaged, 'place')} damaged, {healed} healed" if damaged else "nothing damaged"


def _holder(holder: Answer) -> Field:
    if holder["pinned"]:
        if holder["name"].startswith("branch "):
            return "pinned", f"w{holder['write']}, by {holder['name']}, which takes {show_size(holder['bytes'])}"
        room = f", for which {show_size(holder['bytes'])} were rescued" if holder["bytes"] else ""
        return "pinned", f"w{holder['write']}, by {holder['name']}{room}"
    room = f", {show_size(holder['bytes'])} of its own" if holder["bytes"] else ""
    return "held by", f"{holder['name']} from w{holder['write']} on{room}"


def _service(answer: Answer) -> Iterator[Field]:
    restore = answer.get("restore") or {}  # a stopped volume and an older service have none
    if restore.get("stage"):
        far = f"{show_size(restore['done'])} of {show_size(restore['total'])}"
        yield "restore", f"under way, {restore['stage']}: {far}; clients are not let in until it is over"
    elif restore.get("told"):
        yield "restore", restore["told"]
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
