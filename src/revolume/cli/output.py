"""What a verb prints: results on stdout, everything else on stderr.

No text leaves here with control characters in it, whoever it came from; only our own colours do.

Text is for people and may change; ``--json`` is for programs: one document on stdout, and on stderr one
JSON object a line for progress and errors. Tables are aligned, never cut to a width: a pipe loses nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from revolume.errors import RevolumeError
from revolume.host.text import one_line

_RED, _YELLOW, _GREEN, _BOLD = "31", "33", "32", "1"
_OURS = re.compile("(\x1b\\[(?:0|1|31|32|33)m)")
_STATE_COLOURS = {"online": _GREEN, "degraded": _YELLOW, "waiting": _YELLOW, "full": _RED, "poisoned": _RED}


def print_json(value: Any) -> None:
    """``value`` as one JSON document on stdout; dataclasses are objects, bytes are hexadecimal."""
    print(json.dumps(value, default=_plain, indent=2, ensure_ascii=False), flush=True)


def print_json_line(value: Any) -> None:
    """``value`` as JSON on one line of stdout, for what comes a line at a time."""
    print(json.dumps(value, default=_plain, ensure_ascii=False), flush=True)


def print_line(text: str = "") -> None:
    print("\n".join(map(shown, text.split("\n"))), flush=True)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Aligned ``name: value`` lines."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        print(f"{name.rjust(width)}: {shown(value)}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns under their names; a column's name in capitals and ending in '>' is set right."""
    heads = [column.rstrip(">") for column in columns]
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(columns))]
    for row in (heads, *rows):
        cells = [
            cell.rjust(width) if column.endswith(">") else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())


def print_note(text: str) -> None:
    """A remark that is not the result."""
    print("\n".join(map(shown, text.split("\n"))), file=sys.stderr, flush=True)


def print_error(error: RevolumeError, *, as_json: bool) -> None:
    """The error on stderr in its three parts: code, cause, what to do."""
    if as_json:
        parts = {
            "code": error.code,
            "cause": error.cause,
            "try": error.hint,
            "exit_status": error.exit_status,
        }
        print(json.dumps({"error": parts}, ensure_ascii=False), file=sys.stderr, flush=True)
        return
    head = paint(f"error[{error.code}]", _RED, sys.stderr)
    print(f"{head}: {one_line(error.cause)}", file=sys.stderr)
    if error.hint:
        print(f"{paint('try', _BOLD, sys.stderr)}: {one_line(error.hint)}", file=sys.stderr)
    sys.stderr.flush()


def shown(text: str) -> str:
    """``text`` on one line and without control characters, but for the colours of ``paint``."""
    return "".join(part if _OURS.fullmatch(part) else one_line(part) for part in _OURS.split(text))


def paint_state(state: str) -> str:
    """A state's word in its colour, where stdout shows colours."""
    colour = _STATE_COLOURS.get(state)
    return paint(state, colour, sys.stdout) if colour else state


def paint(text: str, colour: str, stream: TextIO) -> str:
    """``text`` in colour on a terminal that wants colours."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
