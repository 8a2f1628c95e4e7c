"""The content of blocks for a target, past those that are damaged here."""

from __future__ import annotations

import contextlib
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import BLOCK
from revolume.errors import Damaged
from revolume.mirror.wire.version import COMPARISON

U64 = npt.NDArray[np.uint64]


class BlockReader(Protocol):
    """What reads blocks as of a moment."""

    async def read(self, blocks: U64) -> memoryview:
        """Their content, in order. Damaged: of one of them it is not what was written."""


async def content_of(reader: BlockReader, blocks: U64, version: int) -> memoryview:
    """Of these blocks; zeroes in place of those that are damaged and that nobody can heal, if a target that speaks
    this ``version`` takes that. Damaged: it does not."""
    try:
        return await reader.read(blocks)
    except Damaged:
        if version < COMPARISON:
            raise
    whole = memoryview(bytearray(len(blocks) * BLOCK))
    for at in range(len(blocks)):
        with contextlib.suppress(Damaged):
            whole[at * BLOCK : (at + 1) * BLOCK] = await reader.read(blocks[at : at + 1])
    return whole
