"""A point that is kept for a mirror, as the manifest has it."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import WriteNumber


@dataclass(frozen=True, slots=True)
class Kept:
    """A point of this volume that is pinned for a mirror; ``point`` 0: the volume as it was made."""

    point: int
    write: WriteNumber
    time_ns: int
