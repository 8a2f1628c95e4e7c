"""``revolume wait DIR``: until a volume is served, or until its mirrors are in sync. For scripts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.values import parse_seconds
from revolume.errors import NotFound, RevolumeError
from revolume.host.owner import trusted

_PAUSE_S: Final = 0.1
_ANSWER_S: Final = 1.0
"""So long at least is an answer waited for."""
_TIMED_OUT: Final = 6
Answer = Mapping[str, Any]
InSyncOption = Annotated[
    bool, typer.Option("--in-sync", help="Until all its mirrors are in sync; at a mirror: it is a whole copy.")
]
MirrorOption = Annotated[
    list[str] | None, typer.Option("--mirror", metavar="NAME", help="Until this one is in sync. Repeatable.")
]
TimeoutOption = Annotated[str, typer.Option("--timeout", help="Then give up, with exit status 6.")]


def register(app: typer.Typer) -> None:
    app.command()(wait)


def wait(
    volume: VolumeArgument,
    in_sync: InSyncOption = False,
    mirror: MirrorOption = None,
    timeout: TimeoutOption = "60s",
    json: JsonOption = False,
) -> None:
    """Wait until a volume is served, or its mirrors are in sync.

    A sync mirror is in sync once clients' answers wait for it (status calls it required).
    """
    deadline = time.monotonic() + parse_seconds(timeout)
    while True:
        answer = _asked(volume, max(_ANSWER_S, deadline - time.monotonic()))
        lacking = _lacking(volume, answer, in_sync, mirror or [])
        if not lacking and answer is not None:
            break
        if time.monotonic() > deadline:
            raise _timed_out(lacking, timeout)
        time.sleep(_PAUSE_S)
    if json:
        print_json(answer)
    else:
        print_line(_told(answer, in_sync or bool(mirror)))


def _asked(volume: str, patience_s: float) -> Answer | None:
    """Its status; None while nobody serves it. A process that is stopped or hangs does not answer: with exit
    status 6 when ``patience_s`` is over, which is when the wait is."""
    from revolume.api.client import connect

    try:
        client = connect(trusted(volume), patience_s)
    except TimeoutError:
        return None
    if client is None:
        return None
    with client:
        try:
            return client.status(patience_s, patient=True)
        except RevolumeError as error:
            if error.code == "volume-gone":
                return None
            raise


def _lacking(volume: str, answer: Answer | None, in_sync: bool, names: list[str]) -> str:
    """What is not so yet, as a sentence; empty if nothing is. NotFound: there is no mirror of that name."""
    if answer is None:
        return f"{volume} is not being served."
    if answer.get("role") == "secondary":
        return _copy_lacks(answer) if in_sync or names else ""
    mirrors = {mirror["name"]: mirror for mirror in answer.get("mirrors", ())}
    for name in names:
        if name not in mirrors:
            raise NotFound("no-mirror", f"{answer['name']} has no mirror {name}.", f"It has: {_names(mirrors)}.")
    if in_sync and not mirrors:
        raise NotFound("no-mirror", f"{answer['name']} has no mirrors.", "Serve it with --mirror-to.")
    wanted = names or (mirrors if in_sync else ())
    return next((sentence for name in wanted if (sentence := _mirror_lacks(mirrors[name]))), "")


def _copy_lacks(answer: Answer) -> str:
    source = answer["source"]
    if not answer["volume_id"] or source["base"] is not None:
        return "Its base is not complete yet."
    return "" if source["connected"] else "Its source is not connected."


def _mirror_lacks(mirror: Answer) -> str:
    if mirror["state"] != "in sync":
        return f"Mirror {mirror['name']} is not in sync: {mirror['state']}. {mirror['reason']}".strip()
    if mirror["mode"] == "sync" and not mirror["required"]:
        return f"Answers do not wait for mirror {mirror['name']} yet."
    return ""


def _names(mirrors: Mapping[str, Answer]) -> str:
    return ", ".join(mirrors) or "none"


def _told(answer: Answer, in_sync: bool) -> str:
    if not in_sync:
        return f"{answer['name'] or answer['directory']} is served."
    if answer.get("role") == "secondary":
        return f"{answer['name']} is a complete copy, agreed on cp{answer['point']}."
    return f"{answer['name']} is in sync with {_names({mirror['name']: mirror for mirror in answer['mirrors']})}."


def _timed_out(lacking: str, timeout: str) -> RevolumeError:
    error = RevolumeError("timed-out", f"{lacking} Timed out after {timeout}.", "See 'revolume status'.")
    error.exit_status = _TIMED_OUT
    return error
