"""The lines of ``revolume status`` about mirroring: a primary's mirrors, a mirror's source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from revolume.cli.values import show_seconds, show_size
from revolume.mirror.wording import lacking_words

Answer = Mapping[str, Any]
Field = tuple[str, str]


def waiting(answer: Answer) -> Iterator[str]:
    """Why clients' answers wait, if they do."""
    for mirror in answer.get("mirrors", ()):
        if mirror["waits"]:
            yield mirror["waits"]


def mirroring(answer: Answer) -> Iterator[Field]:
    """Everything else."""
    for mirror in answer.get("mirrors", ()):
        yield from _mirror(mirror)
    if answer.get("source") is not None:
        yield from _source(answer["source"], answer)
    elif answer.get("lacks"):
        yield "not here", lacking_words(answer["lacks"], "this copy")


def _mirror(mirror: Answer) -> Iterator[Field]:
    at = f" at {mirror['address']}" if mirror["address"] not in ("", mirror["name"]) else ""
    what = "required" if mirror["required"] else "joined" if mirror["joined"] else "not joined yet"
    percent = "" if mirror["joined"] or not mirror["address"] else f" {mirror['base_fraction']:.0%}"
    yield "mirror", f"{mirror['name']}{at}: {mirror['state']}{percent}, {mirror['mode']}, {what}"
    if mirror["lost_seconds"]:
        yield "", f"not connected for {mirror['lost_seconds']:.0f} s"
    if mirror["reason"] and mirror["state"] != "in sync":
        yield "", mirror["reason"]
    if mirror["level_at"]:
        yield "", f"holds less than it had acknowledged: level again at position {mirror['level_at']}"
    if mirror["warning"]:
        yield "", mirror["warning"]
    if mirror["left_bytes"]:
        yield "", _left(mirror)
    if mirror["lacks"]:
        yield "", lacking_words(mirror["lacks"])
    if mirror["received"]:
        yield "", _positions(mirror)
    if mirror["log_bytes"]:
        yield "", _sent(mirror)


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
    since = f" since {source['since']}" if source["since"] else ""
    if source["connected"]:
        yield "source", f"{source['peer']}, epoch {source['source_epoch']}, connected{since}"
    else:
        yield "source", f"not connected{since}: {source['reason']}"
    if source["received"]:
        yield (
            "",
            f"received {source['received']}, durable {source['durable']}, agreed on cp{source['agreed_point']} "
            f"(position {source['agreed_position']})",
        )
    if source["refusals"]:
        yield "", f"{source['refusals']} connections were refused"
    if answer.get("lacks"):
        yield "", lacking_words(answer["lacks"], "this copy")
    if source["failure"]:
        yield "", source["failure"]
    yield "promotable", "yes" if source["promotable"] else f"no: {source['why_not']}"
