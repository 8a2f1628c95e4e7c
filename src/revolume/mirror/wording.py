"""Words about mirrors that several faces use. It imports nothing heavy: verbs do too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def lacking_words(names: Sequence[str], where: str = "this mirror's history") -> str:
    """That snapshots are older than a copy; empty for none."""
    if not names:
        return ""
    what = f"Snapshot {names[0]} is" if len(names) == 1 else f"Snapshots {', '.join(names)} are"
    return f"{what} older than {where} and not on it."


def size_words(size: int) -> str:
    """A number of bytes, as a person reads it."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
