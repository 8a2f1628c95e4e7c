"""Bugs planted into how damaged blocks are healed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from revolume.blocks.geometry import BLOCK
from revolume.host.disk import File
from revolume.log.format.segment import Segment, segment_name
from revolume.mirror import healing
from revolume.mirror.wire import heal_messages
from revolume.sim.campaigns.plant import Plant
from revolume.volume.heal import healer, rewriting, siblings
from revolume.volume.heal.damaged_block import DamagedBlock
from revolume.volume.heal.rewriting import Rewrite
from revolume.volume.heal.siblings import Contents, Wanted


def _anything(*_: Any) -> bool:
    return True


def _bent(frame: memoryview, asked: Mapping[tuple[int, int], Wanted]) -> Contents:
    """One bit of each block has flipped on the way."""
    found = heal_messages.unpack_healed(frame, asked)
    return {key: bytes([content[0] ^ 1]) + content[1:] for key, content in found.items()}


def _written(file: File, rewrites: Sequence[Rewrite]) -> set[int]:
    """All of them, and nothing that is to be synced."""
    for each in rewrites:
        file.pwritev([each.content], each.offset)
    return set()


_SEEN: dict[tuple[int, int], Segment] = {}


def _remembered(self: healer.Healer, block: DamagedBlock) -> Segment | None:
    use = block.address // self._log.pool.segment_blocks
    segment = self._log.pool.by_use.get(use)
    return segment if segment is None else _SEEN.setdefault((id(self), use), segment)


async def _into_its_file(self: healer.Healer, found: healer.Found) -> list[DamagedBlock]:
    """Of the segment that was there when the sibling was asked."""
    segment = _SEEN[id(self), next(iter(found)).address // self._log.pool.segment_blocks]
    offsets = {block: (block.address - segment.base) * BLOCK for block in found}
    return await self._write(self._log_directory, segment_name(segment.index), offsets, found)


HEAL_PLANTS: Final = (
    Plant("heal-unchecked", "bits flip in what a sibling sends, and its digest is not looked at", "heal", 5,
          ((healing, "unpack_healed", _bent), (siblings, "holds", _anything),
           (rewriting, "refuse_others", _anything)), "rot"),
    Plant("heal-not-synced", "a block that was healed is not synced", "heal", 10,
          ((rewriting, "_write", _written),), "rot", told="not right again"),
    Plant("heal-into-reused", "a block is healed in the file where it lay, whatever use that has by now",
          "heal", 30,
          ((healer.Healer, "_segment_of", _remembered), (healer.Healer, "_in_segment", _into_its_file)),
          "rot_oldest", first=3),
)  # fmt: skip
