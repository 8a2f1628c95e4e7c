"""How far a mirror is, by its own word."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import Position


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions of the log: ``received`` is in the mirror's log file, ``durable`` on its disk; ``agreed_point`` is
    the number of the last consistency point that it has agreed on, ``agreed_position`` where that point's record
    ends. ``agreed_position`` and ``durable`` are at most ``received``."""

    received: Position
    durable: Position
    agreed_point: int
    agreed_position: Position


NOTHING = Positions(Position(0), Position(0), 0, Position(0))
"""Of a copy that has nothing, or of which nothing is known."""
