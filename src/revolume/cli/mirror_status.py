"""The lines of ``revolume status`` about mirroring: a primary's mirrors, a mirror's source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from revolume.cli.values import show_seconds, show_size, show_time
from revolume.mirror.wording import lacking_words

Answer = Mapping[str, Any]
Field = tuple[str, str]


_VERIFY = "a verification is due: 'revolume verify'"


def waiting(answer: Answer) -> Iterator[str]:
    """Why clients' answers wait, if they do."""
    for mirror in answer.get("mirrors", ()):
        if mirror["waits"]:
            yield mirror["waits"]


def mirroring(answer: Answer) -> Iterator[Field]:
    """Everything else."""
    if answer.get("listening"):
        yield "listens", f"for other nodes at {answer['listening']}"
    for mirror in answer.get("mirrors", ()):
        yield from _mirror(mirror)
    yield from _members(answer)
    if answer.get("source") is not None:
        yield from _source(answer["source"], answer)
    elif answer.get("lacks"):
        yield "not here", lacking_words(answer["lacks"], "this copy")


def member_line(member: Answer) -> str:
    """Of a copy of the volume, in one line."""
    at = f" at {member['address']}" if member["address"] not in ("", member["name"]) else ""
    what = "required" if member["required"] else "joined" if member["joined"] else "not joined yet"
    words = "primary" if member["mode"] == "primary" else f"mirror, {member['mode']}, {what}"
    return f"{member['name']}{at}: {words}{' (this copy)' if member['this'] else ''}"


def copy_lines(answer: Answer) -> Iterator[str]:
    """Of all copies of the volume, as a mirror knows them; and that this one is none of them any more, if so."""
    yield from map(member_line, answer.get("members", ()))
    if removed := (answer.get("source") or {}).get("removed"):
        yield removed


def _members(answer: Answer) -> Iterator[Field]:
    """The copies of the volume that are not shown as this primary's mirrors."""
    shown = {mirror["name"] for mirror in answer.get("mirrors", ())}
    for member in answer.get("members", ()):
        if member["name"] not in shown:
            former = member["mode"] == "primary" and not member["this"] and answer.get("role") == "primary"
            yield "member", member_line(member) + (", before" if former else "")


def mirror_line(mirror: Answer) -> str:
    """Name, address, state, mode, and what it stands for, in one line."""
    at = f" at {mirror['address']}" if mirror["address"] not in ("", mirror["name"]) else ""
    what = "required" if mirror["required"] else "joined" if mirror["joined"] else "not joined yet"
    if mirror.get("detached_ns"):
        what = "detached by deadline"
    percent = "" if mirror["joined"] or not mirror["address"] else f" {mirror['base_fraction']:.0%}"
    return f"{mirror['name']}{at}: {mirror['state']}{percent}, mode {mirror['mode']}, {what}"


def _mirror(mirror: Answer) -> Iterator[Field]:
    yield "mirror", mirror_line(mirror)
    if mirror["lost_seconds"]:
        yield "", f"not connected for {mirror['lost_seconds']:.0f} s"
    if mirror["reason"] and mirror["state"] != "in sync":
        yield "", mirror["reason"]
    if mirror["joined"] and mirror["state"] != "in sync" and (kept := _kept(mirror)):
        yield "", kept
    if mirror.get("order"):
        yield "", mirror["order"].replace("NAME", mirror["name"])
    yield from _on_lost(mirror)
    if mirror.get("differs_since"):
        yield "", f"differs, in blocks that are not known yet: found at cp{mirror['differs_since']}; {_VERIFY}"
    if mirror["level_at"]:
        yield "", f"holds less than it had acknowledged: level again at position {mirror['level_at']}"
    if mirror["left_bytes"]:
        yield "", _left(mirror)
    if mirror["older"]:
        yield "", mirror["older"]
    if mirror["lacks"]:
        yield "", lacking_words(mirror["lacks"])
    if mirror["received"]:
        yield "", _positions(mirror)
    if mirror["log_bytes"]:
        yield "", _sent(mirror)
    if mirror.get("verified_ns"):
        yield "", f"verified {show_time(mirror['verified_ns'])}: {mirror['verified']}"


def _on_lost(mirror: Answer) -> Iterator[Field]:
    """Of a mirror that is not waited for for ever. An older service does not say."""
    if mirror.get("on_lost") == "detach":
        lease = f"; lease: {mirror['lease_seconds']:.1f} s" if mirror["lease_seconds"] else ""
        yield "", f"when lost: detached after {mirror['deadline_seconds']:g} s{lease}"
    if mirror.get("detached_ns"):
        since = f"detached since {show_time(mirror['detached_ns'])}"
        waits = "; answers wait until that counts" if mirror["required"] else ""
        yield "", f"{since}, required again once it is level{waits}"


def _kept(mirror: Answer) -> str:
    """What is kept for a mirror that is away or behind. An older service does not say."""
    cut = mirror.get("cut_point")
    lost = "" if cut is None else f"; it was lost at cp{cut}"
    match mirror.get("kept", ""):
        case "log":
            return f"the log is kept for it: {show_size(mirror['kept_log_bytes'])}{lost}"
        case "difference":
            return f"what changed is kept for it: {show_size(mirror['kept_difference_bytes'])}{lost}"
        case "regions":
            size = show_size(mirror["kept_difference_bytes"])
            return f"difference only (dirty region log): {size} have changed since cp{mirror['pin_point']}{lost}"
        case "nothing":
            return f"nothing is kept for it any more: it must be resynchronised{lost}"
        case _:
            return ""


def _left(mirror: Answer) -> str:
    took = "" if mirror["left_seconds"] is None else f", about {show_seconds(mirror['left_seconds'])}"
    return f"protects nothing yet: {show_size(mirror['left_bytes'])} of base and log have to be sent{took}"


def _positions(mirror: Answer) -> str:
    behind = f"{mirror['lag_seconds']:.1f} s, {show_size(mirror['lag_bytes'])} behind"
    return (
        f"received {mirror['received']}, durable {mirror['durable']}, agreed on cp{mirror['agreed_point']} "
        f"(position {mirror['agreed_position']}); {behind}"
    )


def _sent(mirror: Answer) -> str:
    base = f", {show_size(mirror['base_bytes'])} of base" if mirror["base_bytes"] else ""
    whole = f", {show_size(mirror['whole_bytes'])} asked for whole" if mirror["whole_bytes"] else ""
    return (
        f"{show_size(mirror['client_bytes'])} written, {show_size(mirror['log_bytes'])} sent as log, "
        f"{show_size(mirror['point_bytes'])} of it at points{base}{whole}; "
        f"references saved {show_size(mirror['saved_bytes'])}"
    )


def _source(source: Answer, answer: Answer) -> Iterator[Field]:
    since = f" since {show_time(source['since_ns'])}" if source["since_ns"] else ""
    if source["connected"]:
        yield "source", f"{source['peer']}, epoch {source['source_epoch']}, connected{since}"
    else:
        yield "source", f"not connected{since}: {source['reason']}"
    if source["before"]:
        yield "", source["before"]
    if source.get("removed"):
        yield "no member", source["removed"]
    if source["received"]:
        yield (
            "",
            f"received {source['received']}, durable {source['durable']}, agreed on cp{source['agreed_point']} "
            f"(position {source['agreed_position']})",
        )
    if source.get("on_lost") == "detach":
        held = f"{source['lease_seconds']:.1f} s" if source["lease_seconds"] else "none"
        was = ", and it was" if source["detached"] else ""
        yield "", f"detached when lost for {source['deadline_seconds']:g} s{was}; in-sync lease: {held}"
    if source["refusals"]:
        yield "", f"{source['refusals']} connections were refused"
    if answer.get("lacks"):
        yield "", lacking_words(answer["lacks"], "this copy")
    if source["failure"]:
        yield "", source["failure"]
    yield "promotable", "yes" if source["promotable"] else f"no: {source['why_not']}"
