"""Where a log ends: what two nodes compare when they meet.

A position alone says nothing: after a diverging restart two logs may have different transfers at the same
position. (epoch, reign id, position, chain checksum) names one transfer of one history, whatever node holds it.
An empty log (a volume's very beginning) ends at position 0 with a chain checksum of zeroes.
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import Position, WriteNumber


@dataclass(frozen=True, slots=True)
class End:
    """The last complete transfer of a log: its position, its epoch and reign id, its chain checksum, the newest
    write up to it, and its label time."""

    position: Position
    epoch: int
    reign: bytes
    chain: bytes
    write: WriteNumber
    time_ns: int
