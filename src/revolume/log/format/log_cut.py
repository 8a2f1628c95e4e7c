"""A log that was cut: what an end of it that is gone had stated counts no more.

The segment files keep the bytes of what was cut off until they are used again, and it is valid in itself: chain,
checksums, use numbers. Every header and footer states the last manifest edit that was durable when it was written.
So whatever states an edit from before the cut is of the log as it was then, and says nothing of what lies behind
the place where it was cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import Position


@dataclass(frozen=True, slots=True)
class LogCut:
    """``edit``: number of the manifest edit that cut the log right behind ``position``; 0: it never was."""

    edit: int = 0
    position: Position = Position(0)

    def durable(self, stated: Position, edit: int) -> Position:
        """What a durable position, stated beside a manifest edit, says of the log as it is now."""
        return stated if edit >= self.edit else min(stated, self.position)

    def removed(self, position: Position, edit: int) -> bool:
        """Whether the transfer at a position, whose node header states this edit, was cut off."""
        return edit < self.edit and position > self.position


NO_CUT = LogCut()
