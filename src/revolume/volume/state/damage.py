"""Blocks of the live volume that a reader could not get as they were written.

They are remembered until a later read gets them: because they were overwritten, or because the disk answers again.
That read is made from time to time by the volume itself, a few blocks at a time.

Moments of the past in which a view met such blocks are remembered as long as they are retained: nothing writes
over them. A mirror is read through views alone, so this is how its status learns of damage. A primary's status is
about the present, which an overwrite heals; of its past it tells by events.
"""

from __future__ import annotations

from collections.abc import Iterable

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.errors import RevolumeError
from revolume.volume.livemap.reader import Reader
from revolume.volume.state.events import EventKind, Events

BLOCKS_MAX = 1 << 16
PAST_MAX = 64
LOOKED_AT = 64
RANGES_TOLD = 32


def ranges(blocks: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """(first, count) of each run of block numbers, ascending."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and sum(found[-1]) == block:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((block, 1))
    return tuple(found)


def range_words(found: tuple[tuple[int, int], ...]) -> str:
    """Ranges of blocks for a sentence: ``block 7``, ``blocks 3 to 5, 9``."""
    told = [str(first) if count == 1 else f"{first} to {first + count - 1}" for first, count in found[:4]]
    more = f" and {len(found) - 4} more ranges" if len(found) > 4 else ""
    plural = len(found) > 1 or (found and found[0][1] > 1)
    return f"{'blocks' if plural else 'block'} {', '.join(told)}{more}"


class Damage:
    """The damaged blocks that readers of one open volume have met."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._blocks: dict[int, None] = {}  # in the order in which they are looked at again
        self._past: dict[int, str] = {}  # by the write number of the moment: the newest sentence

    def met(self, blocks: list[int]) -> None:
        """A reader could not get these."""
        new = [block for block in blocks if block not in self._blocks]
        if new:
            self._events.tell(
                f"reads of {range_words(ranges(new))} fail: what is there is not what was written",
                EventKind.DAMAGE,
            )
        for block in new[: BLOCKS_MAX - len(self._blocks)]:
            self._blocks[block] = None

    def met_in_past(self, write: WriteNumber, where: str, blocks: list[int]) -> None:
        """A view of the moment behind ``write``, called ``where``, could not get these."""
        sentence = f"reads of {range_words(ranges(blocks))} of {where} fail: what is there is not what was written"
        self._events.tell(sentence, EventKind.DAMAGE)
        if write in self._past or len(self._past) < PAST_MAX:
            self._past[write] = sentence

    def in_past(self, retired_write: WriteNumber) -> str:
        """The newest moment that is retained, so not before ``retired_write``, in which a view met damage: a
        sentence, or empty."""
        self._past = {write: told for write, told in self._past.items() if write >= retired_write}
        return self._past[max(self._past)] if self._past else ""

    def __bool__(self) -> bool:
        return bool(self._blocks)

    @property
    def blocks(self) -> list[int]:
        """Those that are known not to be readable."""
        return list(self._blocks)

    async def look_again(self, reader: Reader, size: int) -> None:
        """Read some of them; what can be read is forgotten."""
        healed = []
        for block in list(self._blocks)[:LOOKED_AT]:
            left = min(BLOCK, size - block * BLOCK)
            try:
                if left > 0:
                    await reader.read(block * BLOCK, memoryview(bytearray(left)))
                healed.append(block)
                del self._blocks[block]
            except RevolumeError:
                self._blocks[block] = self._blocks.pop(block)  # behind those that were not looked at yet
        if healed:
            self._events.tell(f"{range_words(ranges(healed))} can be read again")
