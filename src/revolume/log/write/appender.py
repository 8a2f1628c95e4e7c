"""The end of the log: where transfers are put together and written, synchronously.

``Appender`` owns the open segment and everything that the next header needs: position, chain checksum,
write number, label time, lived time. It knows nothing of maps or clients. One call makes one transfer with one
``pwritev``; the payload's own buffers are handed to the kernel, so no byte of it is copied here.

The order of effects is: bytes in the file, then the numbers move. (Only a mirror may be sent a write a moment
earlier, ``on_packed``, so that both nodes write at the same time. It is not answered before it is in this file.)
If the write fails nothing has moved, but the file may hold part of the transfer: the caller poisons the log,
because what the page cache holds behind a failed write is anybody's guess. (ENOSPC cannot happen: segments are
written whole beforehand.)

``append`` makes a transfer of this node's own. ``keep`` stores transfers that another node made, as they are:
the same proper parts, local parts of our own, many of them with one ``pwritev``. ``whole`` is the last position
at which no write is half there; only what it covers may be promised, or promoted.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from revolume.errors import Refused
from revolume.host.disk import Buffer
from revolume.log.carried import Carried
from revolume.log.columns import ROW_STRUCT, ColumnsBuilder, lived_row
from revolume.log.segment import Segment, footer_blocks
from revolume.log.transfer import (
    BLOCK,
    LOCAL_SIZE,
    PROPER_SIZE,
    Flag,
    Kind,
    Transfer,
    header_blocks,
    pack_local,
    pack_proper,
    volume_seed,
)

PADDING = bytes(BLOCK)
LOCAL_RECORD = int(Kind.FIXUP)
NO_FLAGS = Flag.NONE
CONTINUED = int(Flag.CONTINUED)  # plain numbers here: an enum's operators cost a microsecond
assert CONTINUED == 1, "a continued write is counted by its last part: see Appender.append"


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a lineage stands after its last transfer."""

    position: int
    chain: bytes
    write: int
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
    asof: int | None = None

    @property
    def header_blocks(self) -> int:
        """Blocks of the header that this draft will get."""
        columns = 8 * (len(self.offsets) * 2 + len(self.digests)) + len(self.body)
        return header_blocks(PROPER_SIZE + columns)

    @property
    def total_blocks(self) -> int:
        """Blocks of the whole transfer."""
        return self.header_blocks + self.blocks + -(-self.fragment_bytes // BLOCK)

    @property
    def columns_size(self) -> int:
        """Bytes that it adds to the segment's footer."""
        return ROW_STRUCT.size + 8 * (len(self.offsets) * 2 + len(self.digests))


@dataclass(slots=True)
class Stated:
    """What this node states in local parts: read at each append, kept by the owner."""

    durable: int = 0
    edit: int = 0
    horizon: int = 0


class Appender:
    """Writes transfers to the open segment; see the module's text."""

    def __init__(
        self,
        volume: bytes,
        reign: bytes,
        epoch: int,
        end: LogEnd,
        stated: Stated,
        label_ns: Callable[[], int],
        lived_ns: Callable[[], int],
    ) -> None:
        self._volume = volume
        self.reign = reign
        self.epoch = epoch
        self._seed = volume_seed(volume)
        self._stated = stated
        self._label_ns = label_ns
        self._lived_ns = lived_ns
        self.lived_ns = 0
        """This node's lived time at the last transfer of this opening."""
        self.position = end.position
        self.whole = end.position
        self.chain = end.chain
        self.write = end.write
        """The next write gets a number above this: above what a crash may have given out."""
        self.written = end.write
        """The last number that a write has got."""
        self.time_ns = end.time_ns
        self.segment: Segment | None = None
        self.next_block = 0
        self.columns = ColumnsBuilder(0)
        self.chain_before = end.chain
        self.proper = b""  # of the last transfer made here
        self.find_room: Callable[[], bool] = lambda: False
        """Asked when a file has no room where it was promised some; whether there is some now."""
        self.on_packed: Callable[[Draft, int, bytes], None] | None = None
        """Called with a draft, its position and its proper part just before it is written."""

    def open(self, segment: Segment) -> None:
        """Go on in a fresh segment. The caller has sealed the one before."""
        assert self.segment is None or self.segment.use < segment.use, "a higher address must be newer"
        self.segment = segment
        self.next_block = 0
        self.columns = ColumnsBuilder(segment.base)
        self.chain_before = self.chain

    @property
    def address(self) -> int:
        """Address of the next transfer; all earlier ones lie below it."""
        return 0 if self.segment is None else self.segment.base + self.next_block

    def blocks_left(self, columns_size: int = 0) -> int:
        """Blocks for transfers still free in the open segment if the footer grows by so many bytes."""
        if self.segment is None:
            return 0
        return self.segment.blocks - self.next_block - footer_blocks(self.columns.size + columns_size)

    def fits(self, draft: Draft) -> bool:
        """Whether the open segment takes the draft and can still be sealed."""
        return draft.total_blocks <= self.blocks_left(draft.columns_size)

    def append(self, draft: Draft) -> int:
        """Write the draft, which must fit; returns the address of its first payload block."""
        segment = self.segment
        assert segment is not None, "append to a log without an open segment"
        position = self.position + (draft.kind != LOCAL_RECORD)
        first_write = self._first_write(draft)
        label_ns, lived_ns = self._label_ns(), self._lived_ns()
        if label_ns > self.time_ns and draft.kind != LOCAL_RECORD:  # time on a mirror is its source's
            self.time_ns = label_ns
        packed = draft.offsets.tobytes() + draft.lengths.tobytes() + draft.digests.tobytes() + draft.body
        counts = (len(draft.offsets), len(draft.digests), len(draft.body))
        proper, chain = pack_proper(
            draft.kind, draft.flags, draft.blocks, draft.fragment_bytes, (self._volume, self.reign, self.epoch),
            position, first_write, self.time_ns, self.chain, packed, counts,
        )  # fmt: skip
        if self.on_packed is not None:
            self.on_packed(draft, position, proper)
        stated = self._stated
        local = pack_local(
            self._seed, segment.use, self.next_block, len(proper),
            (stated.durable, stated.edit, stated.horizon, lived_ns), chain,
        )  # fmt: skip
        headers = header_blocks(len(proper))
        header = b"".join((local, proper, PADDING[: headers * BLOCK - LOCAL_SIZE - len(proper)]))
        tail = -draft.fragment_bytes % BLOCK
        buffers = [header, *draft.buffers, PADDING[:tail]] if tail else [header, *draft.buffers]
        self._write(segment, buffers)
        row = (
            position, first_write, self.time_ns, self.epoch, self.next_block, headers, draft.blocks,
            draft.fragment_bytes, len(draft.offsets), len(draft.digests), draft.kind, draft.flags,
            *lived_row(lived_ns),
        )  # fmt: skip
        self.columns.add(row, draft.offsets, draft.lengths, draft.digests)
        payload = segment.base + self.next_block + headers
        self.next_block += headers + draft.blocks + -(-draft.fragment_bytes // BLOCK)
        self.proper, self.lived_ns = proper, lived_ns
        if position == self.position:
            return payload
        self.position = self.whole = position
        self.chain = chain
        self.write += draft.writes - (draft.flags & CONTINUED)
        if draft.writes:
            self.written = self.write
        return payload

    def keep(self, carried: Sequence[Carried]) -> list[int]:
        """Store transfers that follow on what is here and fit the open segment; the addresses of their payloads.
        Refused: they don't follow; nothing was stored."""
        segment = self.segment
        assert segment is not None, "keeping in a log without an open segment"
        blocks, lived_ns = list[int](), self._lived_ns()
        stated = self._stated.durable, self._stated.edit, self._stated.horizon, lived_ns
        buffers: list[Buffer] = []
        position, chain, block = self.position, self.chain, self.next_block
        for each in carried:
            transfer = each.transfer
            if transfer.position != position + 1 or transfer.previous != chain:
                raise _does_not_follow(transfer.position, position)
            local = pack_local(
                self._seed, segment.use, block, transfer.proper_size, stated, transfer.chain,
            )  # fmt: skip
            headers = transfer.header_blocks
            blocks.append(block)
            padding = PADDING[: headers * BLOCK - LOCAL_SIZE - transfer.proper_size]
            buffers += (local, each.proper, padding, each.payload, PADDING[: -transfer.fragment_bytes % BLOCK])
            position, chain, block = transfer.position, transfer.chain, block + transfer.total_blocks
        self._write(segment, [buffer for buffer in buffers if len(buffer)])
        for at, each in zip(blocks, carried, strict=True):
            self._kept(each.transfer, at, lived_ns)
        self.next_block, self.lived_ns = block, lived_ns
        return [
            segment.base + at + each.transfer.header_blocks for at, each in zip(blocks, carried, strict=True)
        ]

    def _write(self, segment: Segment, buffers: Sequence[Buffer]) -> None:
        """The same bytes once more if there was no room and now is: a mirror may have them already."""
        try:
            segment.file.pwritev(buffers, self.next_block * BLOCK)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self.find_room():
                raise
            segment.file.pwritev(buffers, self.next_block * BLOCK)

    def _kept(self, transfer: Transfer, block: int, lived_ns: int) -> None:
        self.columns.add_transfer(transfer, block, lived_ns)
        self.position, self.chain, self.time_ns = transfer.position, transfer.chain, transfer.time_ns
        self.epoch, self.reign = transfer.epoch, transfer.reign
        if transfer.kind == Kind.WRITES:
            self.write = self.written = max(self.write, transfer.write + len(transfer.offsets) - 1)
        if transfer.flags is NO_FLAGS or not transfer.flags & CONTINUED:
            self.whole = transfer.position

    def keeps(self, transfer: Transfer, blocks: int, columns_size: int) -> bool:
        """Whether the open segment takes this transfer behind others of so many blocks and footer bytes."""
        return blocks + transfer.total_blocks <= self.blocks_left(columns_size + columns_bytes(transfer))

    def step_to(self, label_ns: int) -> None:
        """Labels go on from here: the next transfer states why."""
        self.time_ns = label_ns

    def _first_write(self, draft: Draft) -> int:
        if draft.asof is not None:
            return draft.asof
        return self.write + 1 if draft.writes else self.write


def columns_bytes(transfer: Transfer) -> int:
    """Bytes that a transfer adds to its segment's footer."""
    return ROW_STRUCT.size + 16 * len(transfer.offsets) + 8 * len(transfer.digests)


def fits_segment(transfer: Transfer, segment_blocks: int) -> bool:
    """Whether an empty segment of so many blocks takes it."""
    return transfer.total_blocks + footer_blocks(columns_bytes(transfer)) <= segment_blocks


def _does_not_follow(position: int, here: int) -> Refused:
    return Refused(
        "log-does-not-follow",
        f"A transfer at position {position} was received, which does not continue this log at {here}.",
        "Reconnect: both sides compare where they stand.",
    )
