"""A batch of blocks, read live from the primary and sent to the copy, which keeps them until their point is named.

Clients go on writing: what has been read of a block that is then written loses to that write (``fixup_merge.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from revolume.mirror.wire.block_messages import ROWS_MAX
from revolume.pace.pacer import Pacer

U64 = npt.NDArray[np.uint64]
PIECE_BLOCKS: Final = 64
"""Read and sent in one go, beside clients."""

assert PIECE_BLOCKS <= ROWS_MAX


class Reads(Protocol):
    """Reads blocks of the primary as they are now (``scanner.LiveReader``)."""

    async def read(self, blocks: U64) -> tuple[U64, U64, bytes, U64]: ...


class Sends(Protocol):
    """Takes the blocks of a batch (``mirror/source/comparison.py``)."""

    def begin_batch(self) -> int: ...

    async def send(self, batch: int, blocks: U64, digests: U64, content: bytes) -> int: ...


@dataclass(frozen=True, slots=True)
class Copied:
    """A batch that the copy has: its number, the blocks that were sent, ascending, those that could not be read
    here, and the bytes that went over the link."""

    batch: int
    blocks: U64
    unreadable: U64
    sent_bytes: int


class Copier:
    """Copies with ``reads`` and ``sends``."""

    def __init__(self, reads: Reads, sends: Sends, pacer: Pacer) -> None:
        self._reads = reads
        self._sends = sends
        self._pacer = pacer

    async def copy(self, blocks: U64) -> Copied:
        """``blocks``, ascending. ConnectionError: the link is lost."""
        batch, size = self._sends.begin_batch(), 0
        nothing = np.zeros(0, np.uint64)
        sent, unreadable = [nothing], [nothing]
        for at in range(0, len(blocks), PIECE_BLOCKS):
            began_ns = await self._pacer.turn()
            found, digests, content, bad = await self._reads.read(blocks[at : at + PIECE_BLOCKS])
            unreadable.append(bad)
            if len(found):
                went = await self._sends.send(batch, found, digests, content)
                self._pacer.sent(went, began_ns)
                sent.append(found)
                size += went
        return Copied(batch, np.concatenate(sent), np.concatenate(unreadable), size)
