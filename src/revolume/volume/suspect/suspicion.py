"""What is known of a moment that is suspect: plain values, which every face may know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import WriteNumber

OPEN: Final = WriteNumber((1 << 63) - 1)
"""The ``until`` of blocks that are not repaired yet."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Of one moment. ``blocks`` of it are suspect, for ``causes``. It lies in the period from write ``since`` to
    the write before ``until``, in which some block is suspect at every moment."""

    blocks: int
    causes: tuple[str, ...]
    since: WriteNumber
    until: WriteNumber

    @property
    def repaired(self) -> bool:
        """Whether a moment behind the period is good: the differences have been repaired."""
        return self.until < OPEN


def differs_words(point: int) -> str:
    """Of a copy whose root was not its source's at this point; empty for 0."""
    found = f"it was found at cp{point}. It goes on with the log; a verification is due."
    return f"This copy differs from its source, in blocks that are not known yet: {found}" if point else ""


def differs_here_words(mirror: str, point: int) -> str:
    """For the source of the mirror of this name, whose root was not its own at this point."""
    found = f"it was found at cp{point}. It goes on; a verification is due."
    return f"Mirror {mirror} differs from this volume, in blocks that are not known yet: {found}"
