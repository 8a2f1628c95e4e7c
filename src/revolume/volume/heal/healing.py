"""What a volume offers a mirror link for healing: whom it can ask is attached here, what it has is found here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from revolume.volume.heal.siblings import Contents, Siblings, Wanted
from revolume.volume.heal.transfer_slice import WantedSlice


class Finder(Protocol):
    """Looks blocks up for a sibling."""

    async def find(self, wanted: Sequence[Wanted]) -> Contents:
        """As many of these, at most WANTED_MAX, as are here, by block and digest."""


class SliceFinder(Protocol):
    """Looks transfers up for a sibling."""

    async def find(self, wanted: WantedSlice) -> bytes:
        """What is here of it: fewer bytes where the transfer ends, none where it is not here."""


@dataclass(frozen=True, slots=True)
class Healing:
    """Both directions of one open volume: ``finder`` for whole blocks, ``slices`` for the rest of the log."""

    siblings: Siblings
    finder: Finder
    slices: SliceFinder
