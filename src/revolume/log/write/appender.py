"""The end of the log: where transfers are put together and written, synchronously.

``Appender`` owns the open segment and everything that the next header needs: position, chain checksum, write
number, label time, lived time. It knows nothing of maps or clients. One call makes one transfer with one
``pwritev``; the payload's own buffers are handed to the kernel, so no byte of it is copied here.

The order of effects is: bytes in the file, then the numbers move. (Only a mirror may be sent a write a moment
earlier, ``AppendObserver.packed``, so that both nodes write at the same time. It is not answered before it is in
this file.) If the write fails nothing has moved, but the file may hold part of the transfer: the caller poisons
the log, because what the page cache holds behind a failed write is anybody's guess. (ENOSPC cannot happen:
segments are written whole beforehand.)

``append`` makes a transfer of this node's own, and gives its writes their numbers. ``append_received`` stores
transfers that another node made, as they are: the same shared headers, node headers of our own, many of them with
one ``pwritev``. ``complete_position`` is the last position at which no write is half there; only what it covers
may be promised, or promoted. A write of many places may stay half there for long, and for gigabytes. So the
transfer that completes it, if it has no payload of its own, states as durable what has been synced of the write:
if it is there after a crash, so is all before it, and none of that need be copied; if it is not, nothing says that
anything of the write was durable, and all of it is dropped.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.errors import Refused
from revolume.host.disk import Buffer, out_of_room
from revolume.log.format.columns import ROW_STRUCT, ColumnsBuilder, lived_row
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.segment import Segment, footer_blocks
from revolume.log.format.transfer import (
    NODE_HEADER_SIZE,
    SHARED_HEADER_SIZE,
    Flag,
    Kind,
    Transfer,
    header_blocks,
    pack_node_header,
    pack_shared_header,
    volume_seed,
)

PADDING = bytes(BLOCK)
LOCAL_RECORD = int(Kind.LOCAL_BLOCKS)
NO_FLAGS = Flag.NONE
ANY_BLOCKS = 1 << 40
"""Of a largest transfer: the segment alone bounds it."""
CONTINUED = int(Flag.CONTINUED)  # plain numbers here: an enum's operators cost a microsecond
assert CONTINUED == 1, "a continued write is counted by its last part: see Appender.append"


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The state of a log after its last transfer: position, chain checksum, newest write number and label (ns
    since 1970)."""

    position: Position
    chain: bytes
    write: WriteNumber
    time_ns: int


@dataclass(slots=True)
class Draft:
    """A transfer to be appended. ``lengths`` carry the entry's kind in the top byte."""

    kind: Kind
    offsets: array[int]
    lengths: array[int]
    digests: array[int]
    buffers: Sequence[Buffer]
    blocks: int
    fragment_bytes: int
    writes: int
    flags: int = 0
    body: bytes = b""
    asof: WriteNumber | None = None

    @property
    def header_blocks(self) -> int:
        """Blocks of the header that this draft will get."""
        columns = 8 * (len(self.offsets) * 2 + len(self.digests)) + len(self.body)
        return header_blocks(SHARED_HEADER_SIZE + columns)

    @property
    def total_blocks(self) -> int:
        """Blocks of the whole transfer."""
        return self.header_blocks + self.blocks + -(-self.fragment_bytes // BLOCK)

    @property
    def columns_size(self) -> int:
        """Bytes that it adds to the segment's footer."""
        return ROW_STRUCT.size + 8 * (len(self.offsets) * 2 + len(self.digests))

    def fits_alone(self, blocks: int) -> bool:
        """Whether an empty segment of so many blocks takes it."""
        return self.total_blocks + footer_blocks(self.columns_size) <= blocks


@dataclass(slots=True)
class NodeHeaderState:
    """What this node states in the node header of each transfer: its durable position, its last durable manifest
    edit, and its horizon's write. The parts of a volume that advance these values set them; the appender reads
    them at each append. ``synced``: everything up to there is on the disk, also what belongs to a write that is
    half there; stated by the transfer alone that completes it."""

    durable: Position = Position(0)
    edit: int = 0
    horizon: WriteNumber = WriteNumber(0)
    synced: Position = Position(0)

    def stated(self, completes: bool) -> Position:
        """The durable position that a transfer states. ``completes``: a write that was half there, without
        payload."""
        return max(self.durable, self.synced) if completes else self.durable


class AppendObserver(Protocol):
    """Is called, inside the append, with every transfer that this node makes itself."""

    def packed(self, draft: Draft, position: Position, shared_header: bytes) -> None:
        """Called just before the draft is written, with its position and its shared header."""

    def appended(self, draft: Draft, payload: Address) -> None:
        """Called when the draft is in the log's file. ``payload``: the address of its first payload block."""


class Appender:
    """Writes transfers to the open segment. ``label_ns`` and ``lived_ns`` give the label and the lived time of the
    next transfer; ``find_room`` is called when the file system has no room although it had promised some, and
    returns whether there is room now. ``largest_blocks``: of the volume's largest transfer, its footer included,
    which a segment here holds, and every other copy's."""

    def __init__(
        self,
        volume: bytes,
        reign: bytes,
        epoch: int,
        end: LogEnd,
        header: NodeHeaderState,
        label_ns: Callable[[], int],
        lived_ns: Callable[[], int],
        find_room: Callable[[], bool] = lambda: False,
        largest_blocks: int = ANY_BLOCKS,
    ) -> None:
        self._volume = volume
        self.reign = reign
        self.epoch = epoch
        self._seed = volume_seed(volume)
        self._header = header
        self._find_room = find_room
        self.largest_blocks = largest_blocks
        self._label_ns = label_ns
        self._lived_ns = lived_ns
        self.lived_ns = 0
        """This node's lived time at the last transfer of this opening."""
        self.position = end.position
        self.complete_position = end.position
        self.chain = end.chain
        self.write = end.write
        """The next write gets a number above this: above what a crash may have given out."""
        self.written = end.write
        """The last number that a write has got which is not half there."""
        self.written_ns = end.time_ns
        """The label of that write; of a log that was opened, set by whoever knows its writes."""
        self.time_ns = end.time_ns
        self.segment: Segment | None = None
        self.next_block = 0
        self.columns = ColumnsBuilder(Address(0))
        self.chain_before = end.chain
        self.shared_header = b""  # of the last transfer made here
        self.observer: AppendObserver | None = None

    def open(self, segment: Segment) -> None:
        """Go on in a fresh segment. The caller has sealed the one before."""
        assert self.segment is None or self.segment.use < segment.use, "a higher address must be newer"
        self.segment = segment
        self.next_block = 0
        self.columns = ColumnsBuilder(segment.base)
        self.chain_before = self.chain

    @property
    def address(self) -> Address:
        """Address of the next transfer; all earlier ones lie below it."""
        if self.segment is None:
            return Address(0)
        return self.segment.base + self.next_block  # type: ignore[return-value]  # asked at every append

    def blocks_left(self, columns_size: int = 0) -> int:
        """Blocks for transfers still free in the open segment if the footer grows by so many bytes."""
        if self.segment is None:
            return 0
        return self.segment.blocks - self.next_block - footer_blocks(self.columns.size + columns_size)

    def transfer_blocks_left(self, columns_size: int) -> int:
        """Blocks that the next transfer may take, if it adds so many bytes to the footer."""
        return min(self.blocks_left(columns_size), self.largest_blocks - footer_blocks(columns_size))

    def fits(self, draft: Draft) -> bool:
        """Whether the open segment takes the draft and can still be sealed."""
        return draft.total_blocks <= self.blocks_left(draft.columns_size)

    def append(self, draft: Draft) -> Address:
        """Write the draft, which must fit; returns the address of its first payload block."""
        segment = self.segment
        assert segment is not None, "append to a log without an open segment"
        position: Position = self.position + (draft.kind != LOCAL_RECORD)  # type: ignore[assignment]
        first_write = self._first_write(draft)
        label_ns, lived_ns = self._label_ns(), self._lived_ns()
        if label_ns > self.time_ns and draft.kind != LOCAL_RECORD:  # time on a mirror is its source's
            self.time_ns = label_ns
        packed = draft.offsets.tobytes() + draft.lengths.tobytes() + draft.digests.tobytes() + draft.body
        counts = (len(draft.offsets), len(draft.digests), len(draft.body))
        shared_header, chain = pack_shared_header(
            draft.kind, draft.flags, draft.blocks, draft.fragment_bytes, (self._volume, self.reign, self.epoch),
            position, first_write, self.time_ns, self.chain, packed, counts,
        )  # fmt: skip
        if self.observer is not None:
            self.observer.packed(draft, position, shared_header)
        stated, durable = self._header, self._header.durable
        if self.complete_position != self.position:
            durable = stated.stated(not (draft.flags & CONTINUED or draft.blocks or draft.fragment_bytes))
        local = pack_node_header(
            self._seed, segment.use, self.next_block, len(shared_header),
            (durable, stated.edit, stated.horizon, lived_ns), chain,
        )  # fmt: skip
        headers = header_blocks(len(shared_header))
        header = b"".join(
            (local, shared_header, PADDING[: headers * BLOCK - NODE_HEADER_SIZE - len(shared_header)])
        )
        tail = -draft.fragment_bytes % BLOCK
        buffers = [header, *draft.buffers, PADDING[:tail]] if tail else [header, *draft.buffers]
        self._write(segment, buffers)
        row = (
            position, first_write, self.time_ns, self.epoch, self.next_block, headers, draft.blocks,
            draft.fragment_bytes, len(draft.offsets), len(draft.digests), draft.kind, draft.flags,
            *lived_row(lived_ns),
        )  # fmt: skip
        self.columns.add(row, draft.offsets, draft.lengths, draft.digests)
        payload: Address = segment.base + self.next_block + headers  # type: ignore[assignment]
        self.next_block += headers + draft.blocks + -(-draft.fragment_bytes // BLOCK)
        self.shared_header, self.lived_ns = shared_header, lived_ns
        if position == self.position:
            return payload
        self.position = position
        self.chain = chain
        continued = draft.flags & CONTINUED
        self.write += draft.writes - continued  # type: ignore[assignment]
        if not continued:
            self.complete_position = position
            if draft.writes:
                self.written, self.written_ns = self.write, self.time_ns
        return payload

    def append_received(self, received: Sequence[ReceivedTransfer]) -> list[Address]:
        """Store transfers of another node that follow on this log and fit the open segment; the addresses of their
        payloads. Refused: they don't follow; nothing was stored. OSError: the write failed."""
        segment = self.segment
        assert segment is not None, "append to a log without an open segment"
        blocks, lived_ns, stated = list[int](), self._lived_ns(), self._header
        buffers: list[Buffer] = []
        half_there = self.complete_position != self.position
        position, chain, block = self.position, self.chain, self.next_block
        for each in received:
            transfer = each.transfer
            if transfer.position != position + 1 or transfer.previous != chain:
                raise _does_not_follow(transfer.position, position)
            continued = bool(transfer.flags & CONTINUED)
            durable = stated.stated(half_there and not continued and not transfer.payload_bytes)
            local = pack_node_header(
                self._seed, segment.use, block, transfer.shared_header_size,
                (durable, stated.edit, stated.horizon, lived_ns), transfer.chain,
            )  # fmt: skip
            half_there, headers = continued, transfer.header_blocks
            blocks.append(block)
            padding = PADDING[: headers * BLOCK - NODE_HEADER_SIZE - transfer.shared_header_size]
            buffers += (
                local,
                each.shared_header,
                padding,
                each.payload,
                PADDING[: -transfer.fragment_bytes % BLOCK],
            )
            position, chain, block = transfer.position, transfer.chain, block + transfer.total_blocks
        self._write(segment, [buffer for buffer in buffers if len(buffer)])
        for at, each in zip(blocks, received, strict=True):
            self._kept(each.transfer, at, lived_ns)
        self.next_block, self.lived_ns = block, lived_ns
        return [
            segment.base + at + each.transfer.header_blocks  # type: ignore[misc]
            for at, each in zip(blocks, received, strict=True)
        ]

    def _write(self, segment: Segment, buffers: Sequence[Buffer]) -> None:
        """Write the buffers at the log's end; once more if there was no room and ``find_room`` made some. The
        bytes stay the same, since a mirror may have them already."""
        try:
            segment.file.pwritev(buffers, self.next_block * BLOCK)
        except OSError as error:
            if not out_of_room(error) or not self._find_room():
                raise
            segment.file.pwritev(buffers, self.next_block * BLOCK)

    def _kept(self, transfer: Transfer, block: int, lived_ns: int) -> None:
        self.columns.add_transfer(transfer, block, lived_ns)
        self.position, self.chain, self.time_ns = transfer.position, transfer.chain, transfer.time_ns
        self.epoch, self.reign = transfer.epoch, transfer.reign
        if transfer.kind == Kind.WRITES:
            newest: WriteNumber = transfer.write + len(transfer.offsets) - 1  # type: ignore[assignment]
            self.write = self.written = max(self.write, newest)
            self.written_ns = transfer.time_ns
        if transfer.flags is NO_FLAGS or not transfer.flags & CONTINUED:
            self.complete_position = transfer.position

    def fits_received(self, transfer: Transfer, blocks: int, columns_size: int) -> bool:
        """Whether the open segment has room for this transfer after others of ``blocks`` blocks and
        ``columns_size`` bytes of footer."""
        return blocks + transfer.total_blocks <= self.blocks_left(columns_size + columns_bytes(transfer))

    def step_to(self, label_ns: int) -> None:
        """Continue labels from here. The caller appends a CLOCK_STEP fact next."""
        self.time_ns = label_ns

    def _first_write(self, draft: Draft) -> WriteNumber:
        if draft.asof is not None:
            return draft.asof
        return self.write + 1 if draft.writes else self.write  # type: ignore[return-value]


def columns_bytes(transfer: Transfer) -> int:
    """Bytes that a transfer adds to its segment's footer."""
    return ROW_STRUCT.size + 16 * len(transfer.offsets) + 8 * len(transfer.digests)


def fits_segment(transfer: Transfer, segment_blocks: int) -> bool:
    """Whether an empty segment of so many blocks takes it."""
    return transfer.total_blocks + footer_blocks(columns_bytes(transfer)) <= segment_blocks


def _does_not_follow(position: Position, here: Position) -> Refused:
    return Refused(
        "log-does-not-follow",
        f"A transfer at position {position} was received, which does not continue this log at {here}.",
        "Reconnect: both sides compare where they stand.",
    )
