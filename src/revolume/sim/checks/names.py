"""A snapshot that was answered is there, whichever machine has become the primary and however new it is."""

from __future__ import annotations

from collections.abc import Mapping

from revolume.volume.remembered import Remembered


def check_names(answered: Mapping[str, int], volume: Remembered, who: str) -> list[str]:
    """``answered``: name and write number of each that must be there."""
    held = {snapshot.name: snapshot.write for snapshot in volume.snapshots()}
    return [
        f"{who}: the snapshot {name} at w{write} was answered, and is {'another' if name in held else 'not there'}"
        for name, write in answered.items()
        if held.get(name) != write
    ]
