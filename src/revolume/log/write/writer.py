"""From client operations to transfers.

The common case is a wake-up full of aligned writes that fit the open segment: one pass over the operations,
one transfer, one ``pwritev``. Everything else takes the general way: large zeroes stand alone in their
transfer (so that comparing addresses orders them against every block), other operations share one while
they fit, and a write larger than the rest of a segment is CONTINUED in the next.

What was written is told to a ``Sink``, in order: the live map, the partial buffer. The writer owns neither.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

from revolume.blocks.digest import block_digests, fragment_digest
from revolume.blocks.geometry import fragments
from revolume.blocks.word import DATA, ZERO
from revolume.host.disk import Buffer
from revolume.log.appender import Appender, Draft, columns_bytes
from revolume.log.carried import Carried
from revolume.log.columns import RANGE_BLOCKS
from revolume.log.commit import Commit
from revolume.log.ops import OP_RESIZE, OP_WRITE, NoRoomNow, Op
from revolume.log.pool import SegmentPool
from revolume.log.segment import Segment
from revolume.log.table import TransferTable
from revolume.log.transfer import BLOCK, KIND_SHIFT, Flag, Kind

DATA_WORD = DATA << 62
ZERO_WORD = ZERO << 62
WRITE_KIND = OP_WRITE << KIND_SHIFT
WRITES = Kind.WRITES
ALIGNED = BLOCK - 1
SEGMENT_SLACK = 8


class Sink(Protocol):
    """Who wants to know what was written. Called in the order of the writes."""

    first: list[int]
    count: list[int]
    word: list[int]
    step: list[int]
    digest: list[int]

    def absorb(self) -> None: ...

    def put_range(self, start: int, end: int, word: int) -> None: ...


class Fragments(Protocol):
    """Who keeps partially modified blocks."""

    def __len__(self) -> int: ...

    def write(self, block: int, at: int, piece: bytes, number: int) -> None: ...

    def overwritten(self, first: int, count: int) -> None: ...


class Writer:
    """Appends operations; see the module's text. ``absorb_at``: notes after which the map takes them in."""

    def __init__(
        self, appender: Appender, pool: SegmentPool, commit: Commit, sink: Sink, fragments: Fragments
    ) -> None:
        self._appender = appender
        self._pool = pool
        self._commit = commit
        self._sink = sink
        self._fragments = fragments
        self.partial_word: Callable[[list[tuple[int, int]]], None] = lambda touched: None
        self.on_seal: Callable[[Segment, Appender], None] = lambda segment, appender: None
        self.on_append: Callable[[Draft, int], None] | None = None
        self.absorb_at = 4096
        self.transfers = 0
        self.table = TransferTable()

    def holds(self, blocks: int, spare: int) -> bool:
        """Whether so many blocks, as ``need_blocks`` counts them, can surely be appended now and ``spare``
        ready segments be left over."""
        ready = len(self._pool.ready)
        if blocks + SEGMENT_SLACK <= self._appender.blocks_left() and ready >= spare:
            return True
        return ready >= self._pool.segments_for(blocks) + spare and self._pool.at_hand

    def need_blocks(self, ops: list[Op]) -> int:
        """Blocks that these operations take at most, headers and the footers' growth counted."""
        need = 2
        for kind, _, length, _ in ops:
            payload = length // BLOCK + 1 if kind == OP_WRITE else 0
            need += payload + payload // 64 + 3
        return need

    def append(self, ops: list[Op]) -> int:
        """Append all operations; the position after which they are done. NoRoomNow: nothing was done."""
        if not self._append_plain(ops):
            if not self.holds(self.need_blocks(ops), 0):
                raise NoRoomNow
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
        if not blocks or blocks > self._appender.blocks_left(128 + 24 * blocks) - 2 - blocks // 128:
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

    def _emit(self, draft: Draft) -> int:
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
        if self.on_append is not None:
            self.on_append(draft, address)
        return address

    def keep(self, carried: Sequence[Carried]) -> list[int]:
        """Store transfers made elsewhere; ``holds`` said that there is room for them. The addresses of their
        payloads."""
        addresses: list[int] = []
        while len(addresses) < len(carried):
            run = self._fitting(carried, len(addresses))
            if run:
                addresses += self._keep_run(carried[len(addresses) : len(addresses) + run])
            else:
                self.roll()
        return addresses

    def _fitting(self, carried: Sequence[Carried], at: int) -> int:
        """How many transfers from ``at`` on the open segment takes."""
        appender, blocks, columns_size = self._appender, 0, 0
        for count, each in enumerate(carried[at:]):
            if not appender.keeps(each.transfer, blocks, columns_size):
                return count
            blocks += each.transfer.total_blocks
            columns_size += columns_bytes(each.transfer)
        return len(carried) - at

    def _keep_run(self, carried: Sequence[Carried]) -> list[int]:
        if self._commit.failure is not None:
            raise self._commit.failure
        appender = self._appender
        segment, before = appender.segment, appender.next_block
        assert segment is not None
        try:
            addresses = appender.keep(carried)
        except OSError as error:
            raise self._commit.poison(f"Writing the log failed: {error.strerror}.") from error
        self._commit.dirtied(segment.file, (appender.next_block - before) * BLOCK)
        for address, each in zip(addresses, carried, strict=True):
            self.table.add(address, each.transfer.position, each.transfer.epoch)
        self.transfers += len(carried)
        return addresses

    def roll(self) -> None:
        """Seal the open segment and go on in the next ready one."""
        appender = self._appender
        try:
            following = self._pool.take()  # first: what is sealed is never written to again
        except OSError as error:  # the rest of a write that has begun has no place
            raise self._commit.poison(f"Opening a segment of the log failed: {error.strerror}.") from error
        if appender.segment is not None:
            self.on_seal(appender.segment, appender)
        appender.open(following)

    def emit(self, draft: Draft) -> int:
        """Append a draft of any kind, rolling to the next segment where it must; address of its payload."""
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
    """Operations on their way into one transfer after another; see ``Writer``."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._begin()

    def _begin(self) -> None:
        self._offsets: array[int] = array("Q")
        self._lengths: array[int] = array("Q")
        self._whole: list[memoryview] = []
        self._digests: array[int] = array("Q")
        self._pieces: list[memoryview] = []
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

    def _blocks(self) -> int:
        return len(self._digests)

    def _room(self) -> int:
        """Whole blocks that the transfer being put together may still take in the open segment."""
        appender = self._writer._appender
        columns = 16 * len(self._offsets) + 8 * (len(self._digests) + len(self._piece_digests)) + 64
        pieces = -(-sum(map(len, self._pieces)) // BLOCK) + 2
        left = appender.blocks_left(columns + 128) - 1 - -(-(columns + 400) // BLOCK) - pieces
        left -= self._blocks()
        return left - left // 200 - 1

    def _add_write(self, offset: int, length: int, payload: memoryview) -> None:
        while True:
            room = self._room()
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
            self._piece_digests.append(fragment_digest(view))
            self._fragment(block, at, bytes(view))
        self._offsets.append(offset)
        self._lengths.append(length | WRITE_KIND)

    def _fragment(self, block: int, at: int, piece: bytes) -> None:
        self._partial.append((len(self._offsets), block, at, piece))
        self._order.append((False, len(self._partial) - 1))

    def _add_zero(self, kind: int, offset: int, length: int) -> None:
        if self._room() < 0:
            self.flush()
            if self._room() < 0:
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
        pieces = sum(map(len, self._pieces))
        draft = Draft(
            Kind.WRITES, self._offsets, self._lengths, self._digests + self._piece_digests,
            [*self._whole, *self._pieces], self._blocks(), pieces, len(self._offsets), flags,
        )  # fmt: skip
        writer = self._writer
        first_write = writer._appender.write + 1
        payload = writer.emit(draft)
        self._tell(payload, payload - draft.header_blocks, first_write, ranged)
        self._begin()

    def _tell(self, payload: int, transfer: int, first_write: int, ranged: bool) -> None:
        writer = self._writer
        sink, fragments, digests = writer._sink, writer._fragments, iter(self._digests)
        for is_whole, index in self._order:
            if not is_whole:
                entry, block, at, piece = self._partial[index]
                self._tell_fragment(block, at, piece, first_write + entry, transfer)
                continue
            first, count, written = self._effects[index]
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

    def _tell_fragment(self, block: int, at: int, piece: bytes, number: int, transfer: int) -> None:
        """The partial buffer asks the map for the block's base, so it is told first."""
        writer = self._writer
        writer._sink.absorb()
        writer._fragments.write(block, at, piece, number)
        writer.partial_word([(block, transfer)])
