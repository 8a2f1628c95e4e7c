"""One stage of a scrub, as the scrubber drives it: where it begins, and a slice from a place on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from revolume.volume.metadata.scrub_record import ScrubPlace
from revolume.volume.scrub.finding import Finding


@dataclass(frozen=True, slots=True)
class SliceRead:
    """What a slice had: ``following`` is where the next one begins, None at the stage's end. ``remade``: what was
    missing or damaged and has been made anew out of what is here, as sentences."""

    findings: tuple[Finding, ...] = ()
    following: ScrubPlace | None = None
    bytes_read: int = 0
    remade: tuple[str, ...] = ()


class Stage(Protocol):
    """Of one open volume."""

    def total(self) -> int:
        """Bytes that there are to read, about."""

    async def read(self, place: ScrubPlace, size: int) -> SliceRead:
        """Read about ``size`` bytes from ``place`` on, which is of this stage. What has been given up meanwhile
        (recycled, folded, merged) is no finding."""
