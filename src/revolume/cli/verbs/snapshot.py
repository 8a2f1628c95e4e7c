"""``revolume snapshot DIR NAME``: give the present a name; list names; drop one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from revolume.cli.hook_command import parse_command, run_hook
from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note, print_table
from revolume.cli.values import parse_seconds, show_seconds, show_size, show_time
from revolume.errors import RevolumeError, UsageError
from revolume.history.moments import check_snapshot_name

_HOOK_SECONDS_MAX: Final = 3600.0
NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The name; without one, names are listed.")
]
DropOption = Annotated[
    bool, typer.Option("--drop", help="Forget the name (and keep its moment only while history is kept).")
]
ExpiresOption = Annotated[
    str | None,
    typer.Option("--expires", metavar="7d", help="Drop it once the volume has been open for so long since."),
]
HoldOption = Annotated[bool, typer.Option("--hold", help="Keep a snapshot from being dropped, also by --expires.")]
ReleaseOption = Annotated[bool, typer.Option("--release", help="It is not held any more.")]
BeforeOption = Annotated[
    str | None,
    typer.Option("--before", metavar="CMD", help="Run this first, to freeze a guest; it must succeed."),
]
AfterOption = Annotated[
    str | None, typer.Option("--after", metavar="CMD", help="Run this then, whatever has come of the rest.")
]
TimeOption = Annotated[str, typer.Option("--command-timeout", help="Each command is killed after so long.")]


def register(app: typer.Typer) -> None:
    app.command()(snapshot)


def snapshot(
    volume: VolumeArgument,
    name: NameArgument = None,
    drop: DropOption = False,
    expires: ExpiresOption = None,
    hold: HoldOption = False,
    release: ReleaseOption = False,
    before: BeforeOption = None,
    after: AfterOption = None,
    command_timeout: TimeOption = "30s",
    json: JsonOption = False,
) -> None:
    """Name the present, list names, hold or drop one.

    A named moment is kept, and can be opened as VOLUME@NAME.
    """
    making = expires is not None or before is not None or after is not None
    if sum((drop, hold, release, making)) > 1:
        cause = "--drop, --hold, --release, and making one do not go together."
        raise UsageError("usage", cause, "Give one of them.")
    if name is None:
        if drop or hold or release or making:
            raise UsageError("usage", "That needs a name.", "revolume snapshot DIR NAME.")
        _list(volume, json=json)
    elif drop:
        _drop(volume, check_snapshot_name(name), json=json)
    elif hold or release:
        _hold(volume, check_snapshot_name(name), hold, json=json)
    else:
        hooks = _hooks(before, after, command_timeout)
        _make(volume, check_snapshot_name(name), _seconds(expires), hooks, json=json)


def _seconds(expires: str | None) -> float:
    seconds = 0.0 if expires is None else parse_seconds(expires)
    if expires is not None and not seconds:
        raise UsageError("usage", "--expires 0 would drop it at once.", "Say for how long it is kept.")
    return seconds


@dataclass(frozen=True, slots=True)
class _Hooks:
    """What runs around taking a snapshot; (): nothing. ``seconds``: each at most."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    seconds: float

    def run_before(self, name: str) -> None:
        """RevolumeError: it failed, or its time was over."""
        if self.before:
            run_hook("--before", self.before, name, self.seconds)

    def run_after(self, name: str) -> None:
        """RevolumeError: it failed, or its time was over."""
        if self.after:
            run_hook("--after", self.after, name, self.seconds)


def _hooks(before: str | None, after: str | None, timeout: str) -> _Hooks:
    seconds = parse_seconds(timeout)
    if not 0 < seconds <= _HOOK_SECONDS_MAX:
        raise UsageError("usage", f"{timeout[:80]!a} is no time for a command.", "Use 30s, and an hour at most.")
    words = [
        () if text is None else parse_command(option, text)
        for option, text in (("--before", before), ("--after", after))
    ]
    return _Hooks(words[0], words[1], seconds)


def _make(volume: str, name: str, expires_s: float, hooks: _Hooks, *, json: bool) -> None:
    from revolume.cli.client import admin_client

    with admin_client(volume) as client:
        try:
            hooks.run_before(name)
            made = client.snapshot(name, expires_s)
        except BaseException:
            with suppress(RevolumeError):  # the first that went wrong is told
                hooks.run_after(name)
            raise
        hooks.run_after(name)
    if json:
        print_json(made)
    else:
        print_line(f"{made['export']} is w{made['write']} of {show_time(made['time_ns'])}")


def _hold(volume: str, name: str, held: bool, *, json: bool) -> None:
    from revolume.cli.client import admin_client

    with admin_client(volume) as client:
        client.hold_snapshot(name, held)
    if json:
        print_json({"name": name, "held": held})
    else:
        print_line(f"snapshot {name} is {'held' if held else 'released'}")


def _drop(volume: str, name: str, *, json: bool) -> None:
    from revolume.cli.client import admin_client

    with admin_client(volume) as client:
        client.drop_snapshot(name)
    if json:
        print_json({"dropped": name})
    else:
        print_line(f"snapshot {name} is dropped")


def _list(volume: str, *, json: bool) -> None:
    from revolume.cli.client import read_client

    with read_client(volume) as client:
        listed = client.snapshots()
    if json:
        print_json({"snapshots": listed})
    elif listed:
        rows = [
            (
                s["name"], f"w{s['write']}", f"cp{s['point']}", show_time(s["time_ns"]),
                show_size(s.get("rescued_bytes", 0)), _alone(s), _terms(s), s.get("holder", ""), s["export"],
            )
            for s in listed
        ]  # fmt: skip
        print_table(("NAME", "WRITE", "POINT", "TIME", "RESCUED", "ALONE", "UNTIL", "KEPT FOR", "EXPORT"), rows)
        for each in listed:
            if each.get("suspect"):
                print_note(f"{each['name']} is {each['suspect']['told']}")
    else:
        print_note("There is no snapshot yet.")


def _alone(listed: dict[str, Any]) -> str:
    """What dropping it would give back; the rest others share. A stopped volume and an older service do not
    say."""
    alone = listed.get("exclusive_bytes")
    return "" if alone is None else show_size(alone)


def _terms(listed: dict[str, Any]) -> str:
    words = ["held"] if listed.get("held") else []
    if listed.get("expires_in_s") is not None:
        words.append(f"{show_seconds(listed['expires_in_s'])} from now")
    return ", ".join(words)
