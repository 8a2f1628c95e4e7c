"""Who keeps log from being recycled, and who gives it up first when there is no other room.

Everything that must not be folded away has a *hold*: a write from which on it needs the log. Some holds give way:
a throw-away overlay, then a view, then what is kept for an async mirror. Snapshots and required mirrors do not.
``who_goes`` decides, and changes nothing: a hold is given up only where that makes room, since ending a view
while a snapshot keeps the same log would be in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from revolume.chain.point import Point
from revolume.volume.manifest import Horizon


class HoldKind(IntEnum):
    """In the order in which they give way; KEPT never does."""

    OVERLAY = 0
    VIEW = 1
    MIRROR = 2
    KEPT = 3

    @property
    def gives_way(self) -> bool:
        """Whether it may be ended when there is no other room."""
        return self != HoldKind.KEPT


def _nothing() -> None:
    return None


def _no_bytes() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A hold that lasts until it is let go. ``revoke`` ends whoever has it, who then lets go at once; ``bytes``:
    what its end gives back to the disk by itself (an overlay's own file)."""

    holder: str
    write: int
    kind: HoldKind = HoldKind.KEPT
    revoke: Callable[[], None] = _nothing
    bytes: Callable[[], int] = _no_bytes


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold as ``who_goes`` sees it. ``key``: the lease's token; None for what has no lease."""

    kind: HoldKind
    write: int
    bytes: int = 0
    key: int | None = None


def first_freeing(
    points: Sequence[Point], horizon: Horizon, retired_write: int, segment_blocks: int
) -> int | None:
    """The write of the first point to which a fold gives a segment back; None: there is none."""
    first = horizon.address // segment_blocks
    for point in points:
        if point.write >= retired_write and point.address // segment_blocks > first:
            return point.write
    return None


def who_goes(holds: Sequence[Hold], freeing: int | None, disk_short: bool) -> list[Hold]:
    """Who must give way so that room comes of it, in that order; empty: nobody can make room.

    Where the disk is short the oldest overlay that has bytes of its own goes, one at a time. Otherwise those go
    that stand before ``freeing``, the first write to which a fold would give a segment back, unless one of those
    never gives way. Of several kinds only the first goes: the next look sees what that has done."""
    if disk_short and (overlays := [hold for hold in holds if hold.bytes and hold.kind == HoldKind.OVERLAY]):
        return [min(overlays, key=lambda hold: hold.write)]
    before = [hold for hold in holds if freeing is not None and hold.write < freeing]
    if not before or any(not hold.kind.gives_way for hold in before):
        return []
    least = min(hold.kind for hold in before)
    return sorted((hold for hold in before if hold.kind == least), key=lambda hold: hold.write)
