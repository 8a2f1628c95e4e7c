"""A transfer as everything around it states it, though its header may be damaged: what it must be again.

The columns of its segment, which have a checksum of their own, state its place, its counts, its entries and all of
its digests. The transfer behind it, or the footer, states its chain checksum, and the transfer before it the one
that it continues. A header that agrees with its own chain checksum, with the columns, and with the neighbours
that can be read is the one that was written, whoever it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.errors import Damaged
from revolume.log.format.columns import LIVED_NS, Columns, ColumnsBuilder, lived_ms, select
from revolume.log.format.segment import Segment, read_footer
from revolume.log.format.transfer import (
    NODE_HEADER_SIZE,
    Kind,
    Transfer,
    node_header_holds,
    pack_node_header,
    unpack_node_header,
    unpack_shared_header,
    volume_seed,
)
from revolume.log.read.scan import FoundTransfer, SegmentReader, chain_behind, fragments_agree

_WINDOW = BLOCK
"""Its neighbours lie where the columns say: nothing around them is read."""


@dataclass(frozen=True, slots=True)
class StatedTransfer:
    """``columns``: of this transfer alone. ``previous``: the chain checksum that it continues, ``chain``: its own;
    empty where no neighbour can be read, and never both. ``node_facts``: durable position, manifest edit and
    horizon for a node header that has to be made anew. What reads waits for the disk."""

    segment: Segment
    volume: bytes
    columns: Columns
    previous: bytes
    chain: bytes
    node_facts: tuple[Position, int, WriteNumber]

    @property
    def position(self) -> Position:
        """The transfer's."""
        return Position(int(self.columns.rows[0]["position"]))

    @property
    def block(self) -> int:
        """Of the segment, where it begins."""
        return int(self.columns.rows[0]["block"])

    @property
    def header_bytes(self) -> int:
        """Bytes that both headers take, padding included."""
        return int(self.columns.rows[0]["header_blocks"]) * BLOCK

    @property
    def fragments_offset(self) -> int:
        """Bytes from the segment's beginning to its fragments."""
        row = self.columns.rows[0]
        return (self.block + int(row["header_blocks"]) + int(row["blocks"])) * BLOCK

    @property
    def fragment_bytes(self) -> int:
        """Of the fragments, without their padding."""
        return int(self.columns.rows[0]["fragment_bytes"])

    def found(self) -> FoundTransfer | None:
        """What is on the disk, if its header is whole."""
        found = SegmentReader(self.segment, self.volume, _WINDOW).at(self.block)
        return found if found is not None and self._agrees(found.transfer) else None

    def transfer_in(self, shared_header: bytes) -> Transfer | None:
        """The transfer if these bytes begin with its shared header, else None."""
        try:
            transfer = unpack_shared_header(memoryview(shared_header))
        except Damaged:
            return None
        return transfer if transfer is not None and self._agrees(transfer) else None

    def _agrees(self, transfer: Transfer) -> bool:
        builder, lived_ns = ColumnsBuilder(self.columns.base), int(lived_ms(self.columns.rows)[0]) * LIVED_NS
        builder.add_transfer(transfer, self.block, lived_ns)
        return (
            transfer.volume == self.volume
            and builder.pack() == _packed(self.columns)
            and (not self.previous or transfer.previous == self.previous)
            and (not self.chain or transfer.chain == self.chain)
        )

    def header_with(self, transfer: Transfer, shared_header: bytes) -> bytes:
        """Both headers as they stand on this node's disk, padded. The node header is the one that is there, if
        that is whole."""
        content = self._node_header(transfer) + shared_header[: transfer.shared_header_size]
        return content + bytes(self.header_bytes - len(content))

    def _node_header(self, transfer: Transfer) -> bytes:
        seed, here = volume_seed(self.volume), bytearray(NODE_HEADER_SIZE)
        view = memoryview(here)
        read = self.segment.file.preadv([here], self.block * BLOCK) == NODE_HEADER_SIZE
        there = unpack_node_header(view) if read and node_header_holds(view, transfer.chain, seed) else None
        if there is not None and (there.use, there.block) == (self.segment.use, self.block):
            return bytes(here)
        lived_ns = int(lived_ms(self.columns.rows)[0]) * LIVED_NS
        stated = (*self.node_facts, lived_ns)
        use, size = self.segment.use, transfer.shared_header_size
        return pack_node_header(seed, use, self.block, size, stated, transfer.chain)

    def fragments(self) -> bytes:
        """What is on the disk of its fragments."""
        content = bytearray(self.fragment_bytes)
        got = self.segment.file.preadv([content], self.fragments_offset) if content else 0
        return bytes(content[:got])

    def fragments_hold(self, transfer: Transfer, content: bytes) -> bool:
        """Whether these bytes are its fragments."""
        return len(content) == self.fragment_bytes and fragments_agree(transfer, memoryview(content))


def stated_transfer(
    segment: Segment, columns: Columns, address: Address, volume: bytes, end: int | None, chain_at_end: bytes
) -> StatedTransfer | None:
    """The transfer at an address of a segment whose columns these are. None: no transfer begins there, it is this
    node's own record, or no neighbour says which one it was. ``end``: of a segment that was closed early, the
    block behind its last transfer. ``chain_at_end``: of the last transfer of the segment that is being written,
    else empty. Waits for the disk."""
    rows = columns.rows
    row = int(np.searchsorted(rows["block"], address - segment.base))
    if row == len(rows) or segment.base + int(rows["block"][row]) != address:
        return None
    if rows["kind"][row] == Kind.LOCAL_BLOCKS or (end is not None and int(rows["block"][row]) >= end):
        return None
    reader = SegmentReader(segment, volume, _WINDOW)
    before = reader.at(int(rows["block"][row - 1])) if row else None
    behind = reader.at(int(rows["block"][row + 1])) if row + 1 < len(rows) else None
    previous = chain_behind(before.transfer) if before is not None else b""
    chain = behind.transfer.previous if behind is not None else chain_at_end if row + 1 == len(rows) else b""
    footer = read_footer(segment, volume) if not row or row + 1 == len(rows) else None
    if footer is not None:
        previous = previous if row else footer.chain_before
        chain = chain if row + 1 < len(rows) or chain else footer.chain_after
    if not previous and not chain:
        return None
    own = select(columns, np.arange(len(rows)) == row)
    return StatedTransfer(segment, volume, own, previous, chain, _node_facts(before, behind))


def _node_facts(before: FoundTransfer | None, behind: FoundTransfer | None) -> tuple[Position, int, WriteNumber]:
    """What a node header between these may state: what was durable, and the horizon, as of the one before; the
    edit as of the one behind, so that it does not look older than a cut of the log that came before it."""
    newer = behind or before
    edit = newer.node_header.edit if newer is not None else 0
    if before is None:
        return Position(0), edit, WriteNumber(0)
    return before.node_header.durable, edit, before.node_header.horizon


def _packed(columns: Columns) -> bytes:
    numbers = (columns.offsets, columns.lengths, columns.digests)
    return b"".join((columns.rows.tobytes(), *(each.tobytes() for each in numbers)))
