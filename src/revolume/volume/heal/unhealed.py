"""The damaged blocks of an open volume that no sibling could heal yet: a bounded list, and when to ask again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from revolume.host.clock import Clock
from revolume.volume.heal.damaged_block import DamagedBlock
from revolume.volume.state.status import UnhealedBlock

UNHEALED_MAX: Final = 4096
NOT_ANSWERED: Final = -1
"""In place of a generation of siblings: they did not answer."""
PATIENCE_NS: Final = 10 * 10**9
"""For so long the same siblings are not asked again for a block that they did not have."""


class Unhealed:
    """Of one open volume. ``needed``: whether a block's place is still in use."""

    def __init__(self, clock: Clock, needed: Callable[[DamagedBlock], bool]) -> None:
        self._clock = clock
        self._needed = needed
        self._blocks: dict[DamagedBlock, tuple[int, int]] = {}  # siblings' generation, ns when they were asked

    def __len__(self) -> int:
        return len(self._blocks)

    def first(self, count: int) -> tuple[UnhealedBlock, ...]:
        """At most so many of them, for status; those whose places are not in use any more are forgotten."""
        blocks = sorted(self.blocks(), key=lambda each: each.block)
        return tuple(UnhealedBlock(each.block, each.place) for each in blocks[:count])

    def blocks(self) -> list[DamagedBlock]:
        """Those whose places are still in use; the others are forgotten."""
        for block in [block for block in self._blocks if not self._needed(block)]:
            del self._blocks[block]
        return list(self._blocks)

    def known(self, block: DamagedBlock) -> bool:
        """Whether it is in the list."""
        return block in self._blocks

    def due(
        self, blocks: Sequence[DamagedBlock], generation: int, patience_ns: int = PATIENCE_NS
    ) -> list[DamagedBlock]:
        """Those for which siblings are to be asked now: there are others, they had not answered, or some time has
        passed."""
        now = self._clock.monotonic_ns()
        return [
            block
            for block in blocks
            if (asked := self._blocks.get(block)) is None or asked[0] != generation or now - asked[1] > patience_ns
        ]

    def add(self, blocks: Iterable[DamagedBlock], generation: int) -> list[DamagedBlock]:
        """These could not be healed; those that were not known before."""
        now, new = self._clock.monotonic_ns(), []
        for block in blocks:
            if block not in self._blocks:
                if len(self._blocks) >= UNHEALED_MAX:
                    continue
                new.append(block)
            self._blocks[block] = generation, now
        return new

    def remove(self, blocks: Iterable[DamagedBlock]) -> None:
        """These are right again."""
        for block in blocks:
            self._blocks.pop(block, None)
