"""``revolume status DIR``: one screen about one volume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import paint_state, print_fields, print_json
from revolume.cli.values import show_seconds, show_size
from revolume.history.moments import format_time


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
        print_fields(list(_fields(answer)))


def _fields(answer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in answer.items():
        words = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _fields(value, f"{name} ")
        elif isinstance(value, (list, tuple)):
            yield from _listed(words, value)
        elif value is not None:
            yield _without_unit(words), _shown(name, value)


def _listed(words: str, values: list[Any] | tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    for value in values:
        if isinstance(value, Mapping):
            yield words, "  ".join(f"{_without_unit(n)} {_shown(n, v)}" for n, v in value.items())
        else:
            yield words, str(value)


def _without_unit(words: str) -> str:
    for unit in (" bytes", " ns", " s"):
        words = words.removesuffix(unit)
    return words


def _shown(name: str, value: Any) -> str:
    """A value by the unit that its name ends in."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return paint_state(str(value)) if name == "state" else str(value)
    if name == "size" or name.endswith("_bytes"):
        return show_size(int(value))
    if name.endswith("time_ns"):
        return format_time(int(value))
    if name.endswith("_s"):
        return show_seconds(value)
    return str(value)
