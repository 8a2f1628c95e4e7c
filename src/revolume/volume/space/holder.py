"""Somebody who keeps history from going: see ``holders.py``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from revolume.blocks.numbers import WriteNumber


class HolderKind(IntEnum):
    """Who holds. The first three give way, in this order; the others never do. UNDER_WAY: a snapshot or a mirror
    that is just being made, whose own hold follows."""

    OVERLAY = 0
    VIEW = 1
    MIRROR = 2
    UNDER_WAY = 3
    SNAPSHOT = 4
    REQUIRED_MIRROR = 5
    BRANCH = 6
    CLONE = 7

    @property
    def gives_way(self) -> bool:
        """Whether it may be ended when there is no other room."""
        return self <= HolderKind.MIRROR


PREFIXES: Final = {
    HolderKind.MIRROR: "mirror ",
    HolderKind.SNAPSHOT: "snapshot ",
    HolderKind.BRANCH: "branch ",
    HolderKind.CLONE: "clone ",
    HolderKind.REQUIRED_MIRROR: "mirror ",
}


@dataclass(frozen=True, slots=True)
class Holder:
    """``owner`` needs the log from ``write`` on, or, if ``pinned``, that one moment. ``held_bytes``: what its end
    gives back to the disk by itself (an overlay's own file, what was rescued for a snapshot, a branch's
    blocks). ``lease``: its number, None for a snapshot or a branch."""

    kind: HolderKind
    owner: str
    write: WriteNumber
    held_bytes: int = 0
    lease: int | None = None
    pinned: bool = False

    @property
    def name(self) -> str:
        """As operators are told of it."""
        return PREFIXES.get(self.kind, "") + self.owner
