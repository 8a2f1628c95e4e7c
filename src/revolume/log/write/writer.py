"""From client operations to transfers.

The common case is a wake-up full of aligned writes that fit the open segment: one pass over the operations,
one transfer, one ``pwritev``. Everything else takes the general way: large zeroes stand alone in their
transfer (so that comparing addresses orders them against every block), other operations share one while
they fit, and a write larger than the rest of a segment is CONTINUED in the next. Where the volume's largest
transfer is smaller than a segment, a write larger than that goes on in the same segment.

What was written is told to a ``Sink``, in order: the live map, the partial buffer. The writer owns neither.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from revolume.blocks.block_location import DATA_WORD, ZERO_WORD
from revolume.blocks.digest import block_digests, fragment_digest
from revolume.blocks.geometry import BLOCK, fragments
from revolume.blocks.numbers import Address, Position
from revolume.host.disk import Buffer
from revolume.log.format.columns import RANGE_BLOCKS
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import KIND_SHIFT, Flag, Kind
from revolume.log.format.transfer_table import TransferTable
from revolume.log.write.appender import Appender, AppendObserver, Draft, columns_bytes
from revolume.log.write.group_commit import GroupCommit
from revolume.log.write.operations import OP_RESIZE, OP_WRITE, Op, WouldBlock
from revolume.log.write.pool_limits import need_blocks
from revolume.log.write.segment_pool import SegmentPool
from revolume.log.write.sinks import Fragments, Sink

WRITE_KIND = OP_WRITE << KIND_SHIFT
WRITES = Kind.WRITES
ALIGNED = BLOCK - 1
SEGMENT_SLACK = 8


class Writer:
    """Appends operations to the log as transfers, and notes their effects in ``sink`` and ``fragments``.
    ``on_seal`` is called with a segment that is full, while the appender is still at its end. ``absorb_at``: the
    number of pending notes at which the map applies them."""

    def __init__(
        self,
        appender: Appender,
        pool: SegmentPool,
        commit: GroupCommit,
        sink: Sink,
        fragments: Fragments,
        on_seal: Callable[[Segment, Appender], None] = lambda segment, appender: None,
    ) -> None:
        self._appender = appender
        self._pool = pool
        self._commit = commit
        self._sink = sink
        self._fragments = fragments
        self._on_seal = on_seal
        self._observer: AppendObserver | None = None
        self.absorb_at = 4096
        self.transfers = 0
        self.table = TransferTable()

    def observe(self, observer: AppendObserver | None) -> None:
        """Call ``observer`` on every append from now on; None: nobody."""
        self._observer = self._appender.observer = observer

    def holds(self, blocks: int, spare: int) -> bool:
        """Whether so many blocks, as ``need_blocks`` counts them, can surely be appended now and ``spare``
        ready segments be left over."""
        ready = len(self._pool.ready)
        if blocks + SEGMENT_SLACK <= self._appender.blocks_left() and ready >= spare:
            return True
        return ready >= self._pool.segments_for(blocks) + spare and self._pool.at_hand

    def need_blocks(self, ops: list[Op]) -> int:
        """Blocks that these operations take at most, headers and the footers' growth counted."""
        largest, segment = self._appender.largest_blocks, self._pool.segment_blocks
        return need_blocks(ops, largest if largest < segment else None)

    def append(self, ops: list[Op]) -> Position:
        """Append all operations, in order; returns the log position after the last of them. WouldBlock: there is
        no room, and nothing was done. Poisoned: writing failed, now or earlier."""
        if not self._append_plain(ops):
            if not self.holds(self.need_blocks(ops), 0):
                raise WouldBlock
            self._append_general(ops)
        if len(self._sink.digest) >= self.absorb_at:
            self._sink.absorb()
        return self._appender.position

    def _append_plain(self, ops: list[Op]) -> bool:
        """The common case; False where it isn't one."""
        offsets: list[int] = []
        lengths: list[int] = []
        counts: list[int] = []
        digests: list[int] = []
        buffers: list[Buffer] = []
        for kind, offset, length, payload in ops:
            if kind != OP_WRITE or (offset | length) & ALIGNED or payload is None or not length:
                return False
            offsets.append(offset)
            lengths.append(length | WRITE_KIND)
            buffers.append(payload)
            count = length >> 12
            counts.append(count)
            digests += block_digests(payload, count)
        blocks = len(digests)
        if not blocks or blocks > self._appender.transfer_blocks_left(128 + 24 * blocks) - 2 - blocks // 128:
            return False
        numbers = array("Q", offsets), array("Q", lengths), array("Q", digests)
        draft = Draft(WRITES, *numbers, buffers, blocks, 0, len(ops))
        address = self._emit(draft)
        sink = self._sink
        sink.first += [offset >> 12 for offset in offsets]
        sink.count += counts
        sink.step += [1] * len(ops)
        sink.digest += digests
        word = DATA_WORD | address
        if blocks == len(ops):
            sink.word += range(word, word + blocks)
        else:
            for count in counts:
                sink.word.append(word)
                word += count
        if len(self._fragments):
            for offset, count in zip(offsets, counts, strict=True):
                self._fragments.overwritten(offset >> 12, count)
        return True

    def _emit(self, draft: Draft) -> Address:
        if self._commit.failure is not None:
            raise self._commit.failure
        appender = self._appender
        segment = appender.segment
        assert segment is not None
        before = appender.next_block
        try:
            address = appender.append(draft)
        except OSError as error:
            self._commit.poison(f"Writing the log failed: {error.strerror}.")
            assert self._commit.failure is not None
            raise self._commit.failure from error
        self._commit.dirtied(segment.file, (appender.next_block - before) * BLOCK)
        self.table.add(address, appender.position, appender.epoch)
        self.transfers += 1
        if self._observer is not None:
            self._observer.appended(draft, address)
        return address

    def append_received(self, received: Sequence[ReceivedTransfer]) -> list[Address]:
        """Store transfers of another node, for which ``holds`` has said that there is room; returns the addresses
        of their payloads. Refused: they don't follow on this log. Poisoned: writing failed."""
        addresses: list[Address] = []
        while len(addresses) < len(received):
            run = self._fitting(received, len(addresses))
            if run:
                addresses += self._append_run(received[len(addresses) : len(addresses) + run])
            else:
                self.roll()
        return addresses

    def _fitting(self, received: Sequence[ReceivedTransfer], at: int) -> int:
        """How many transfers from ``at`` on the open segment takes."""
        appender, blocks, columns_size = self._appender, 0, 0
        for count, each in enumerate(received[at:]):
            if not appender.fits_received(each.transfer, blocks, columns_size):
                return count
            blocks += each.transfer.total_blocks
            columns_size += columns_bytes(each.transfer)
        return len(received) - at

    def _append_run(self, received: Sequence[ReceivedTransfer]) -> list[Address]:
        if self._commit.failure is not None:
            raise self._commit.failure
        appender = self._appender
        segment, before = appender.segment, appender.next_block
        assert segment is not None
        try:
            addresses = appender.append_received(received)
        except OSError as error:
            raise self._commit.poison(f"Writing the log failed: {error.strerror}.") from error
        self._commit.dirtied(segment.file, (appender.next_block - before) * BLOCK)
        for address, each in zip(addresses, received, strict=True):
            self.table.add(address, each.transfer.position, each.transfer.epoch)
        self.transfers += len(received)
        return addresses

    def roll(self) -> None:
        """Seal the open segment and go on in the next ready one."""
        appender = self._appender
        try:
            following = self._pool.take()  # first: what is sealed is never written to again
        except OSError as error:  # the rest of a write that has begun has no place
            raise self._commit.poison(f"Opening a segment of the log failed: {error.strerror}.") from error
        if appender.segment is not None:
            self._on_seal(appender.segment, appender)
        appender.open(following)

    def emit(self, draft: Draft) -> Address:
        """Append a draft of any kind, rolling to the next segment where it must; address of its payload."""
        shipped = draft.kind != Kind.LOCAL_BLOCKS
        assert not shipped or draft.fits_alone(self._appender.largest_blocks), "no copy is bound to hold it"
        if not self._appender.fits(draft):
            self.roll()
        return self._emit(draft)

    def resize(self, size: int) -> None:
        """Append the fact that the volume now has ``size`` bytes, as a write of its own."""
        numbers = array("Q", [size]), array("Q", [OP_RESIZE << KIND_SHIFT]), array("Q")
        self.emit(Draft(Kind.WRITES, *numbers, [], 0, 0, 1))

    def _append_general(self, ops: list[Op]) -> None:
        group = Group(self)
        for op in ops:
            group.add(op)
        group.flush()


class Group:
    """Operations being gathered into transfers, each as large as the open segment and the volume allow. ``flags``
    are those of every one."""

    def __init__(self, writer: Writer, flags: Flag = Flag.NONE) -> None:
        self._writer = writer
        self._flags = flags
        self._begin()

    def _begin(self) -> None:
        self._offsets: array[int] = array("Q")
        self._lengths: array[int] = array("Q")
        self._whole: list[memoryview] = []
        self._digests: array[int] = array("Q")
        self._pieces: list[memoryview] = []
        self._piece_bytes = 0
        self._piece_digests: array[int] = array("Q")
        self._effects: list[tuple[int, int, int]] = []  # (first block, blocks, 1 written or 0 zeroed)
        self._partial: list[tuple[int, int, int, bytes]] = []  # (entry, block, at, bytes)
        self._order: list[tuple[bool, int]] = []

    def add(self, op: Op) -> None:
        """Take one operation; transfers are written as they fill up."""
        kind, offset, length, payload = op
        whole = (offset + length) // BLOCK - -(-offset // BLOCK)
        if kind == OP_WRITE:
            assert payload is not None
            self._add_write(offset, length, payload)
        elif whole >= RANGE_BLOCKS:
            self.flush()
            self._add_zero(kind, offset, length)
            self.flush(ranged=True)
        else:
            self._add_zero(kind, offset, length)

    @property
    def blocks(self) -> int:
        """Whole blocks in the transfer that is being put together."""
        return len(self._digests)

    def _room(self) -> tuple[int, bool]:
        """Whole blocks that the transfer being put together may still take in the open segment; whether it is the
        segment's end that bounds them, not the volume's largest transfer."""
        appender = self._writer._appender
        columns = 16 * len(self._offsets) + 8 * (len(self._digests) + len(self._piece_digests)) + 64
        pieces = -(-self._piece_bytes // BLOCK) + 2
        most = appender.transfer_blocks_left(columns + 128)
        left = most - 1 - -(-(columns + 400) // BLOCK) - pieces - self.blocks
        return left - left // 200 - 1, most == appender.blocks_left(columns + 128)

    def _add_write(self, offset: int, length: int, payload: memoryview) -> None:
        while True:
            room, at_end = self._room()
            whole = (offset + length) // BLOCK - -(-offset // BLOCK)
            if whole <= room and room >= 0:
                self._entry(offset, length, payload)
                return
            if room > 0 and whole > 0:
                taken = min(length, -offset % BLOCK + room * BLOCK)
                self._entry(offset, taken, payload[:taken])
                offset, length, payload = offset + taken, length - taken, payload[taken:]
                self.flush(Flag.CONTINUED)
            else:
                self.flush()
            if at_end:
                self._writer.roll()

    def _entry(self, offset: int, length: int, payload: memoryview) -> None:
        first = -(-offset // BLOCK)
        whole = max(0, (offset + length) // BLOCK - first)
        if whole:
            start = first * BLOCK - offset
            view = payload[start : start + whole * BLOCK]
            self._whole.append(view)
            self._digests.extend(block_digests(view, whole))
            self._effects.append((first, whole, 1))
            self._order.append((True, len(self._effects) - 1))
        for block, at, size in fragments(offset, length):
            start = block * BLOCK + at - offset
            view = payload[start : start + size]
            self._pieces.append(view)
            self._piece_bytes += size
            self._piece_digests.append(fragment_digest(view))
            self._fragment(block, at, bytes(view))
        self._offsets.append(offset)
        self._lengths.append(length | WRITE_KIND)

    def _fragment(self, block: int, at: int, piece: bytes) -> None:
        self._partial.append((len(self._offsets), block, at, piece))
        self._order.append((False, len(self._partial) - 1))

    def _add_zero(self, kind: int, offset: int, length: int) -> None:
        if self._room()[0] < 0:
            self.flush()
            if self._room()[0] < 0:
                self._writer.roll()
        first = -(-offset // BLOCK)
        whole = max(0, (offset + length) // BLOCK - first)
        if whole:
            self._effects.append((first, whole, 0))
            self._order.append((True, len(self._effects) - 1))
        for block, at, size in fragments(offset, length):
            self._fragment(block, at, bytes(size))
        self._offsets.append(offset)
        self._lengths.append(length | kind << KIND_SHIFT)

    def flush(self, flags: Flag = Flag.NONE, ranged: bool = False) -> None:
        """Write what has been gathered as one transfer, and tell what it did."""
        if not self._offsets:
            return
        draft = Draft(
            Kind.WRITES, self._offsets, self._lengths, self._digests + self._piece_digests,
            [*self._whole, *self._pieces], self.blocks, self._piece_bytes, len(self._offsets),
            flags | self._flags,
        )  # fmt: skip
        writer = self._writer
        first_write = writer._appender.write + 1
        payload = writer.emit(draft)
        self._tell(payload, payload - draft.header_blocks, first_write, ranged)
        self._begin()

    def _tell(self, payload: int, transfer: int, first_write: int, ranged: bool) -> None:
        """Whole blocks are noted as they come, fragments together: each call costs as much for one as for all. A
        whole overwrite ends the fragments of its blocks that came before it, so those are told before it."""
        writer = self._writer
        sink, fragments, digests = writer._sink, writer._fragments, iter(self._digests)
        untold: list[tuple[int, int, bytes, int]] = []
        for is_whole, index in self._order:
            if not is_whole:
                entry, block, at, piece = self._partial[index]
                untold.append((block, at, piece, first_write + entry))
                continue
            first, count, written = self._effects[index]
            if any(first <= piece[0] < first + count for piece in untold):
                self._tell_fragments(untold, transfer)
                untold = []
            if len(fragments):
                fragments.overwritten(first, count)
            if ranged:
                sink.put_range(first, first + count, ZERO_WORD | transfer)
                continue
            sink.first.append(first)
            sink.count.append(count)
            sink.step.append(written)
            sink.word.append(DATA_WORD | payload if written else ZERO_WORD | transfer)
            sink.digest += [next(digests) for _ in range(count)] if written else [0] * count
            payload += count * written
        if untold:
            self._tell_fragments(untold, transfer)

    def _tell_fragments(self, pieces: list[tuple[int, int, bytes, int]], transfer: int) -> None:
        """The partial buffer asks the map for the blocks' bases, so it is told first."""
        writer = self._writer
        writer._sink.absorb()
        writer._fragments.write_all(pieces)
        writer._sink.put_partials({block: transfer for block, _, _, _ in pieces})
