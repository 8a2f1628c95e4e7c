"""The transfer table: which transfer lies where, ordered by place.

A location in the live map is an address. The table turns it into what another node can resolve: the
transfer (epoch and position name it for ever) and the block's number within it. It reaches back to the last
consistency point's cut, because only what changed since then is referenced by the next point.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.word import ADDRESS_MASK

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TableView:
    """An immutable copy of the table."""

    addresses: U64
    positions: U64
    epochs: U64

    def locate(self, addresses: U64) -> tuple[npt.NDArray[np.int64], U64]:
        """For each address the row of its transfer and the number of the block within the transfer."""
        row = np.searchsorted(self.addresses, addresses, side="right") - 1
        return row, addresses - self.addresses[row]

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

    def add(self, address: int, position: int, epoch: int) -> None:
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

    def forget_below(self, address: int) -> None:
        """Drop transfers whose payload begins below ``address``."""
        keep = int(np.searchsorted(np.frombuffer(self._addresses, np.uint64), address)) if len(self) else 0
        for column in ("_addresses", "_positions", "_epochs"):
            setattr(self, column, getattr(self, column)[keep:])

    def __len__(self) -> int:
        return len(self._addresses)
