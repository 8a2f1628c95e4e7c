"""Pieces of transfers that a sibling asks for, found in this node's log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.log.format.columns import Columns
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import Kind
from revolume.log.read.scan import SegmentReader
from revolume.volume.heal.log_places import columns_of, opened_columns, transfer_block
from revolume.volume.heal.transfer_slice import WantedSlice
from revolume.volume.open_log import OpenLog

FindSegment = Callable[[Position], Awaitable[Segment | None]]


class TransferFinder:
    """Of one open volume. ``find_segment``: the segment in which the transfer at a position lies."""

    def __init__(self, log: OpenLog, find_segment: FindSegment) -> None:
        self._log = log
        self._find_segment = find_segment

    async def find(self, wanted: WantedSlice) -> bytes:
        """The bytes, fewer where the transfer ends before; none where it is not here, or its header is damaged
        here too. Fragments are as they are on the disk: whoever asked knows their digests."""
        segment = await self._find_segment(wanted.position)
        if segment is None:
            return b""
        return await self._log.work.call(self._read, segment, opened_columns(self._log), wanted)

    def _read(self, segment: Segment, opened: Columns | None, wanted: WantedSlice) -> bytes:
        columns = columns_of(self._log, segment, opened)
        block = None if columns is None else transfer_block(columns, wanted.position)
        if block is None:
            return b""
        try:
            return _slice(SegmentReader(segment, self._log.volume_id, BLOCK), block, wanted)
        except OSError:
            return b""


def _slice(reader: SegmentReader, block: int, wanted: WantedSlice) -> bytes:
    found = reader.at(block)
    if found is None or found.transfer.position != wanted.position or found.transfer.kind == Kind.LOCAL_BLOCKS:
        return b""
    end = wanted.offset + wanted.size
    header = reader.shared_header(found)
    fragments = bytearray(found.transfer.fragment_bytes if end > len(header) else 0)
    place = (found.payload_block + found.transfer.blocks) * BLOCK
    if fragments and found.segment.file.preadv([fragments], place) != len(fragments):
        return b""
    return (header + fragments)[wanted.offset : end]
