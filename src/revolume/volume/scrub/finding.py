"""What a scrub has found: a place, and what is wrong there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from revolume.blocks.numbers import Address
from revolume.volume.heal.damaged_block import DamagedBlock


class Part(StrEnum):
    """What was found damaged."""

    BLOCK = "block"
    HEADER = "header"
    FRAGMENT = "fragment"
    FOOTER = "footer"
    DIGEST_PAGE = "digest page"
    MAP = "map"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Finding:
    """``where`` is a place that a person can look at: file and byte offset. ``block``: what a healer is told, if
    it is a whole block; ``transfer``: what a transfer's healer is told, the address at which it begins. ``healed``
    may follow in a copy of this."""

    part: Part
    where: str
    block: DamagedBlock | None = None
    healed: bool = False
    transfer: Address | None = None

    @property
    def sentence(self) -> str:
        """For events and results, without a full stop."""
        of = "" if self.block is None else f" {self.block.block}"
        end = "it has been put right" if self.healed else "nobody has put it right"
        return f"{self.part}{of} at {self.where} is not what was written; {end}"
