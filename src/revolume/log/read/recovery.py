"""Recovery of the log: what of it stands, and the unsynced tail written anew.

Given the segments, the horizon to begin from and whatever is known of durability, ``recover`` follows the
chain. Segments that lie wholly at or below the durable position are taken by their footers; above it every
header and every payload digest is looked at, because a power cut may have kept any part of what was not yet
synced. What fails there is a torn tail. What fails at or below is damage and refuses the opening.

After an unclean stop the page cache may show what the disk does not have (a failed write-back marks pages
clean). So everything beyond the durable position is copied into a fresh segment and synced before anybody is
served; the old place is closed where the durable part ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.log.format.columns import Columns, ColumnsBuilder
from revolume.log.format.log_cut import NO_CUT, LogCut
from revolume.log.format.segment import SEGMENT_SUFFIX, Footer, Segment, read_footer, trailer_edit
from revolume.log.format.transfer import NODE_HEADER_SIZE, Flag, Kind, pack_node_header, volume_seed
from revolume.log.read.scan import FoundTransfer, SegmentReader, chain_behind, complete_prefix, payload_holds
from revolume.log.write.appender import LogEnd


@dataclass(slots=True)
class RecoveredSegment:
    """What recovery found of one segment. ``builder``: its columns in a form that can be appended to, where no
    footer covers it."""

    segment: Segment
    columns: Columns
    end_block: int
    chain_before: bytes
    builder: ColumnsBuilder | None


@dataclass(slots=True)
class Recovered:
    """The log as recovery found it. ``tail``: the transfers above the durable position, oldest first; they are in
    no ``pieces``."""

    pieces: list[RecoveredSegment] = field(default_factory=list)
    tail: list[FoundTransfer] = field(default_factory=list)
    end: LogEnd = field(default_factory=lambda: LogEnd(Position(0), bytes(16), WriteNumber(0), 0))
    unused: list[Segment] = field(default_factory=list)

    def complete_position(self, start: Position) -> Position:
        """The last position in ``pieces`` at which no write is half there; ``start`` if there is none. What is
        known to be durable may end within a write of which the end alone is in ``tail``."""
        for piece in reversed(self.pieces):
            rows = piece.columns.rows
            complete = rows["position"][rows["flags"] & Flag.CONTINUED == 0]
            if len(complete):
                return Position(int(complete[-1]))
        return start


class _ChainWalk:
    def __init__(self, volume: bytes, start: LogEnd, durable: Position) -> None:
        self.volume = volume
        self.end = start
        self.durable = durable
        self.result = Recovered()

    def take(self, segment: Segment, first_block: int, end_block: int | None) -> bool:
        """Follow the chain through one segment; False if nothing in it continues the chain."""
        footer = read_footer(segment, self.volume)
        if footer is not None and self._take_footer(segment, footer, first_block):
            return True
        return self._take_headers(segment, first_block, end_block)

    def _take_footer(self, segment: Segment, footer: Footer, first_block: int) -> bool:
        rows = footer.columns.rows
        if not len(rows) or int(rows["position"][-1]) > self.durable:
            return False
        if first_block == 0 and footer.chain_before != self.end.chain:
            return False
        last = rows[-1]
        self.result.pieces.append(
            RecoveredSegment(segment, footer.columns, footer.end_block, footer.chain_before, None)
        )
        write = max(highest_write(footer.columns), self.end.write)
        self.end = LogEnd(Position(int(last["position"])), footer.chain_after, write, int(last["time_ns"]))
        return True

    def _take_headers(self, segment: Segment, first_block: int, end_block: int | None) -> bool:
        reader, builder = SegmentReader(segment, self.volume), ColumnsBuilder(segment.base)
        chain, end = self.end.chain, first_block
        taken, before = False, chain
        if first_block:
            before = self._before(reader, builder, first_block) or chain
        for found in reader.chain_from(first_block, chain, end_block):
            # A local record shares its position with the transfer before it, which alone may be durable.
            local = found.transfer.kind == Kind.LOCAL_BLOCKS and found.transfer.position == self.durable
            if (found.transfer.position > self.durable or local) and not payload_holds(found):
                break
            taken = True
            self.end = end_after(found, self.end.write)
            if found.transfer.position > self.durable:
                self.result.tail.append(found)
            else:
                builder.add_transfer(found.transfer, found.block, found.node_header.lived_ns)
                end = found.end_block
        if builder.rows:
            self.result.pieces.append(RecoveredSegment(segment, builder.freeze(), end, before, builder))
        return taken

    @staticmethod
    def _before(reader: SegmentReader, builder: ColumnsBuilder, first_block: int) -> bytes | None:
        """Transfers before the horizon's cut in the same segment: part of its columns, not of the walk.
        The chain checksum before the first of them."""
        first = reader.at(0)
        if first is None:
            return None
        for found in reader.chain_from(0, first.transfer.previous, first_block):
            builder.add_transfer(found.transfer, found.block, found.node_header.lived_ns)
        return first.transfer.previous


def end_after(found: FoundTransfer, write: WriteNumber) -> LogEnd:
    """The log's end after a transfer. ``write``: the newest write before it. (A point states the write of its cut,
    which is older.)"""
    t = found.transfer
    if t.kind == Kind.WRITES and len(t.offsets):
        newest: WriteNumber = t.write + len(t.offsets) - 1  # type: ignore[assignment]  # of every transfer
        write = max(write, newest)
    return LogEnd(t.position, chain_behind(t), write, t.time_ns)


def highest_write(columns: Columns) -> WriteNumber:
    """The newest write in these columns, 0 if there is none."""
    rows = columns.rows[columns.rows["kind"] == Kind.WRITES]
    return WriteNumber(int((rows["write"] + np.maximum(rows["entries"], 1) - 1).max()) if len(rows) else 0)


def last_write_ns(columns: Columns) -> int:
    """The label of the last write in these columns, in ns since 1970; 0 if there is none."""
    rows = columns.rows[columns.rows["kind"] == Kind.WRITES]
    return int(rows["time_ns"][-1]) if len(rows) else 0


def stated_edit(directory: Directory, blocks: int, volume: bytes) -> int:
    """The highest manifest edit that any segment file states by its first header or its trailer, whether the
    manifest knows of that use or not: a manifest that lost its end knows neither."""
    newest = 0
    for name in directory.names():
        if not name.endswith(SEGMENT_SUFFIX):
            continue
        file = directory.open(name, write=False)
        try:
            segment = Segment(0, 0, blocks, file)
            first = SegmentReader(segment, volume, BLOCK).first_of_any_use()
            newest = max(newest, trailer_edit(segment, volume), first.node_header.edit if first else 0)
        finally:
            file.close()
    return newest


def stated_durable(segments: Sequence[Segment], volume: bytes, cut: LogCut = NO_CUT) -> tuple[Position, int]:
    """(highest durable position, highest manifest edit) that any header or footer of these segments states.
    ``cut``: what was stated before it counts up to there only."""
    durable, edit = Position(0), 0
    for segment in segments:
        footer = read_footer(segment, volume)
        if footer is not None:
            durable, edit = max(durable, cut.durable(footer.durable, footer.edit)), max(edit, footer.edit)
            continue
        for found in SegmentReader(segment, volume).anywhere():
            header = found.node_header
            durable, edit = max(durable, cut.durable(header.durable, header.edit)), max(edit, header.edit)
    return durable, edit


def recover(
    segments: Sequence[Segment],
    volume: bytes,
    start: LogEnd,
    start_address: Address,
    durable: Position,
    ends: dict[int, int],
) -> Recovered:
    """Find what is valid of the log from ``start_address`` on. ``segments``: in order of use. ``durable``: a
    position that is known to be durable. Damaged: the log ends before it."""
    result = recover_what_stands(segments, volume, start, start_address, durable, ends)
    if result.end.position < durable:
        raise Damaged(
            "log-damaged",
            f"The log breaks off after position {result.end.position}, but position {durable} was durable: "
            "what is missing had been acknowledged, so this is damage and not a torn tail.",
            "Restore the directory from a mirror or a backup, or read what is left with 'revolume salvage'.",
        )
    return result


def recover_what_stands(
    segments: Sequence[Segment],
    volume: bytes,
    start: LogEnd,
    start_address: Address,
    durable: Position,
    ends: dict[int, int],
) -> Recovered:
    """What is valid of the log from ``start_address`` on, also where that ends before ``durable``.
    ``segments``: in order of use."""
    walk = _ChainWalk(volume, start, durable)
    broken = False
    for segment in segments:
        first = start_address - segment.base if segment.base <= start_address else 0
        if not walk.take(segment, max(0, first), ends.get(segment.use)) and first <= 0:
            walk.result.unused.append(segment)
            broken = broken or bool(walk.result.pieces)
    result = walk.result
    result.tail = complete_prefix(result.tail)
    result.end = _end_of(result, walk, start)
    return result


def _end_of(result: Recovered, walk: _ChainWalk, start: LogEnd) -> LogEnd:
    """The end of the log once an incomplete write at its end has been dropped."""
    write = max([start.write, *(highest_write(piece.columns) for piece in result.pieces)])
    for found in result.tail:
        write = end_after(found, write).write
    if result.tail:
        return end_after(result.tail[-1], write)
    for piece in reversed(result.pieces):
        if len(piece.columns.rows):
            return end_after(last_of(piece, walk.volume), write)
    return start


def last_of(piece: RecoveredSegment, volume: bytes) -> FoundTransfer:
    """The last transfer of a recovered segment. Damaged if it can't be read."""
    found = SegmentReader(piece.segment, volume).at(int(piece.columns.rows["block"][-1]))
    if found is None:
        raise Damaged(
            "log-damaged",
            f"The last transfer of segment file {piece.segment.index} is not what its footer says.",
            "Restore the directory from a mirror or a backup, or use 'revolume salvage'.",
        )
    return found


class TailCopy:
    """Copies transfers into a fresh segment: the same shared headers and payloads, new node headers with the lived
    time of the originals. What one states as durable beyond ``stated`` is of a write that it completes, and stays
    so."""

    def __init__(self, segment: Segment, volume: bytes, stated: tuple[Position, int, WriteNumber]) -> None:
        self.segment = segment
        self.builder = ColumnsBuilder(segment.base)
        self.next_block = 0
        self.chain_before = bytes(16)
        self._seed = volume_seed(volume)
        self._stated = stated

    def fits(self, found: FoundTransfer) -> bool:
        """Whether the transfer and then a footer fit the segment."""
        columns = self.builder.size + 64 + 16 * len(found.transfer.offsets) + 8 * len(found.transfer.digests)
        footer = -(-columns // BLOCK) + 1
        return self.next_block + found.transfer.total_blocks + footer <= self.segment.blocks

    def add(self, found: FoundTransfer) -> None:
        """Copy one transfer, payload included. OSError: it could not be read or written."""
        if not self.next_block:
            self.chain_before = found.transfer.previous
        size = found.transfer.total_blocks * BLOCK
        buffer = bytearray(size)
        found.segment.file.preadv([buffer], found.block * BLOCK)
        durable, edit, horizon = self._stated
        buffer[:NODE_HEADER_SIZE] = pack_node_header(
            self._seed, self.segment.use, self.next_block, found.transfer.shared_header_size,
            (max(durable, found.node_header.durable), edit, horizon, found.node_header.lived_ns),
            found.transfer.chain,
        )  # fmt: skip
        self.segment.file.pwritev([buffer], self.next_block * BLOCK)
        self.builder.add_transfer(found.transfer, self.next_block, found.node_header.lived_ns)
        self.next_block += found.transfer.total_blocks
