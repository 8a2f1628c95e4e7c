"""The transfer ID structure: which transfer lies where, ordered by place; and what it makes of a block's place.

At a source a row is added when a log entry is appended, which is when it leaves for the mirrors. A location in
the live map is an address; the table turns it into a *buffer descriptor*, which is what another node can resolve:
the index of a transfer ID in this structure (epoch and position name the transfer for ever) and the number of the
block within that transfer. Descriptors are columns, made for all modified blocks of an interval at once
(``compose.py``). Which transfers a mirror was sent, and so which descriptors may become references for it, says
``mirror/sent_references.py``.

At a mirror a row is added for each transfer that is received and stored: the association of transfer IDs with
places in this node's own log, by which references are resolved (``chain/reference_resolver.py``).

The table reaches back to the last consistency point's cut, because only what changed since then is referenced by
the next point.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK
from revolume.blocks.numbers import Address, Position

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class BufferDescriptors:
    """One of each of some blocks. ``transfer``: index of its transfer's ID in the structure; ``block``: the
    number of the block within that transfer's data."""

    transfer: npt.NDArray[np.int64]
    block: U64


@dataclass(frozen=True, slots=True)
class TableView:
    """An immutable copy of the table: the transfer IDs (epoch, position), and the address of each transfer's first
    block."""

    addresses: U64
    positions: U64
    epochs: U64

    def describe(self, addresses: U64) -> BufferDescriptors:
        """The descriptors of the blocks that lie at these addresses."""
        transfer = np.searchsorted(self.addresses, addresses, side="right") - 1
        return BufferDescriptors(transfer, addresses - self.addresses[transfer])

    def ends(self) -> U64:
        """For each transfer an address at or behind its end, and not behind the next one's first block."""
        return np.append(self.addresses[1:], np.uint64(ADDRESS_MASK))[: len(self.addresses)]


class TransferTable:
    """Rows (address of the first payload block, position, epoch), appended in log order."""

    __slots__ = ("_addresses", "_epochs", "_positions")

    def __init__(self) -> None:
        self._addresses: array[int] = array("Q")
        self._positions: array[int] = array("Q")
        self._epochs: array[int] = array("Q")

    def add(self, address: Address, position: Position, epoch: int) -> None:
        """One more transfer."""
        self._addresses.append(address)
        self._positions.append(position)
        self._epochs.append(epoch)

    def view(self) -> TableView:
        """A copy for a thread."""
        return TableView(
            np.array(self._addresses, np.uint64),
            np.array(self._positions, np.uint64),
            np.array(self._epochs, np.uint64),
        )

    def forget_below(self, address: Address) -> None:
        """Drop transfers whose payload begins below ``address``."""
        keep = int(np.searchsorted(np.frombuffer(self._addresses, np.uint64), address)) if len(self) else 0
        for column in ("_addresses", "_positions", "_epochs"):
            setattr(self, column, getattr(self, column)[keep:])

    def __len__(self) -> int:
        return len(self._addresses)
