"""The steps of a branch: from the common point over the named moments within it to its end.

Each name costs a table and the versions that only its moment has. So there are at most ``MOMENTS_MAX`` of them,
fewer where the disk has no room for them; the oldest are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.volume.branches.common_point import CutPlace
from revolume.volume.branches.rewound import Names
from revolume.volume.branches.taken_back import ChangedBlocks
from revolume.volume.metadata.manifest_state import PinnedSnapshot, State

MOMENTS_MAX: Final = 16
ENTRY_BYTES: Final = 25
"""What a table takes for a block that it names, rounded up."""
TABLE_BYTES: Final = 64 << 10
"""What it takes at most beside that."""


@dataclass(frozen=True, slots=True)
class Step:
    """What was ``changed`` behind the write ``after``, up to a moment with a name; ``pin`` None: up to the end."""

    after: WriteNumber
    pin: PinnedSnapshot | None
    changed: ChangedBlocks

    def then(self, later: Step) -> Step:
        """Both as one, without the moment between them."""
        return Step(self.after, later.pin, self.changed.then(later.changed))


def readable_moments(state: State, place: CutPlace, names: Names, newest: WriteNumber) -> list[PinnedSnapshot]:
    """The named moments behind the point that can be read, oldest first; at most ``MOMENTS_MAX``, the newest. A
    moment that the image has left, or that a fold was on its way to leave, can be where it was rescued. A mirror
    may know names behind the ``newest`` write of its log, whose moments have not come."""
    rescued = {rescue.moment.write for rescue in place.rescues}
    whole = max(state.horizon.write, state.folding)
    found = [pin for pin in names.behind if whole <= pin.write <= newest or pin.write in rescued]
    return sorted(found, key=lambda pin: (pin.write, pin.name))[-MOMENTS_MAX:]


def room_for_steps(steps: Sequence[Step]) -> int:
    """Bytes that the files of a branch take at most."""
    blocks, entries = 0, 0
    for step in steps:
        blocks += len(step.changed.blocks)
        entries += blocks
    return blocks * BLOCK + entries * ENTRY_BYTES + len(steps) * TABLE_BYTES


def fitting(steps: Sequence[Step], free: int) -> list[Step]:
    """The same steps, without the oldest moments for which ``free`` bytes are not enough."""
    kept = list(steps)
    while len(kept) > 1 and room_for_steps(kept) > free:
        kept[:2] = [kept[0].then(kept[1])]
    return kept
