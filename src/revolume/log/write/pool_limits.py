"""How many segments a log may have and keep ready, and how much of one transfers can use: plain arithmetic,
and what may be made beyond the budget for a point."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.geometry import BLOCK
from revolume.log.write.operations import OP_WRITE, Op

SEGMENT_WASTE_BLOCKS = 11
CONTINUATION_BLOCKS = 2
"""A header, and what it adds to the footer."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """``ready``: segments kept ready. ``budget_bytes``: log in all. ``reserve_bytes``: left on the disk."""

    ready: int
    budget_bytes: int
    reserve_bytes: int


class BudgetLoan:
    """Of one log: while it is open, files may be made beyond the budget until ``segments`` stand ready, as far as
    the disk has room. ``owed``: files may be there that were made so, until ``settle`` is told that none are."""

    def __init__(self) -> None:
        self.segments = 0
        self.owed = False

    def open(self, segments: int) -> bool:
        """Lend so much; False: it has been lent already."""
        if segments <= self.segments:
            return False
        self.segments, self.owed = segments, True
        return True

    def close(self) -> None:
        """The budget bounds what is made from now on; what was made beyond it stays ready."""
        self.segments = 0

    def settle(self, within_budget: bool) -> None:
        """Files that are free and beyond the budget have been removed."""
        self.owed = self.owed and not within_budget


def usable_blocks(segment_blocks: int) -> int:
    """Blocks of transfers that surely fit a segment: what headers, footers and the transfer that no longer fits at
    its end leave."""
    return segment_blocks - segment_blocks // 64 - SEGMENT_WASTE_BLOCKS


@dataclass(frozen=True, slots=True)
class WholeNeed:
    """What is to be appended as one write of many places, or a slice of that: ``blocks`` of content in so many
    runs, zeroes in so many, ``ranges`` of which are so large that each has a transfer of its own."""

    blocks: int
    runs: int
    zero_runs: int
    ranges: int

    def log_blocks(self, transfer_blocks: int) -> int:
        """Blocks of log that it takes at most, headers and the footers' growth counted. ``transfer_blocks``: of
        the largest transfer; what the end of a segment divides is in the pool's count of segments."""
        transfers = 1 + self.ranges + self.blocks // max(1, usable_blocks(transfer_blocks))
        entries = self.runs + self.zero_runs  # each in a header and in a footer, as is the digest of each block
        return self.blocks + (self.blocks + entries) // 64 + 2 * transfers

    def record_blocks(self) -> int:
        """Blocks of the record of the point behind it, at most."""
        return (self.blocks + self.zero_runs) // 128 + 4


def need_blocks(ops: list[Op], largest_blocks: int | None = None) -> int:
    """Blocks that these operations take at most, headers and the footers' growth counted. ``largest_blocks``: of
    the volume's largest transfer, where that divides writes; what the end of a segment divides is in the pool's
    count of segments."""
    usable, need = None if largest_blocks is None else usable_blocks(largest_blocks), 2
    for kind, _, length, _ in ops:
        payload = length // BLOCK + 1 if kind == OP_WRITE else 0
        need += payload + payload // 64 + 3
        if usable is not None:
            need += payload // usable * CONTINUATION_BLOCKS
    return need
