"""A part of what has arrived of a jump, as the manifest names it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JumpTable:
    """A map file in ``jump/`` and how many blocks it names."""

    number: int
    entries: int
