"""A block whose content is not what its digest says, and where it lies at this node."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.block_location import ADDRESS_MASK, DATA, KIND_SHIFT, NONE, RESCUED
from revolume.blocks.digest import LOST_DIGEST

IMAGE = NONE
"""The kind of what lies in the image, as readers have it: the address is the block's number."""


@dataclass(frozen=True, slots=True)
class DamagedBlock:
    """Block number ``block``, the ``digest`` that was made when it was written, and the place: ``kind`` DATA with
    an address in the log or, from RESCUED on, in a rescue file; or IMAGE with the block's number."""

    block: int
    digest: int
    kind: int
    address: int

    @property
    def place(self) -> str:
        """For sentences: log, image or rescue file."""
        if self.kind != DATA:
            return "image"
        return "rescue file" if self.address >= RESCUED else "log"

    @property
    def in_log(self) -> bool:
        """Whether it lies in a segment of the log."""
        return self.kind == DATA and self.address < RESCUED

    @property
    def key(self) -> tuple[int, int]:
        """Block and digest: what a sibling is asked for."""
        return self.block, self.digest


def damaged_at(block: int, word: int, digest: int) -> DamagedBlock | None:
    """The block at a settled location (``blocks/block_location.py``). None: no bytes are kept for it (it reads as
    zeroes, is partially modified, or a point has called it lost), so there is nothing to heal."""
    kind = word >> KIND_SHIFT
    if digest in (0, LOST_DIGEST) or kind not in (DATA, NONE):
        return None
    return DamagedBlock(block, digest, kind, word & ADDRESS_MASK if kind == DATA else block)
