"""Pieces of a transfer that a sibling is asked for: of what it has beside its whole blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import Position

SLICE_MAX: Final = 1 << 20
"""Bytes that a sibling is asked for at once."""


@dataclass(frozen=True, slots=True)
class WantedSlice:
    """``size`` bytes, 1 to SLICE_MAX, from ``offset`` on, of the transfer at a position: of its shared header and,
    right behind it, its fragments, which are the same at every node. Whole blocks are asked for by digests."""

    position: Position
    offset: int
    size: int
