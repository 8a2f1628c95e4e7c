"""The footer of a sealed segment, made anew from its headers."""

from __future__ import annotations

from revolume.blocks.numbers import Position
from revolume.log.format.columns import ColumnsBuilder
from revolume.log.format.segment import Segment, footer_blocks, read_footer, write_footer
from revolume.log.read.scan import SegmentReader, chain_behind


def remake_footer(segment: Segment, following: Segment, volume: bytes) -> bool:
    """Write the footer again, durably; whether that could be done. ``following``: the segment in which the log
    goes on: its first transfer says whether the headers here are all there. Waits for the disk; the segment keeps
    its use meanwhile. OSError: the disk failed."""
    reader, builder = SegmentReader(segment, volume), ColumnsBuilder(segment.base)
    first, beyond = reader.at(0), SegmentReader(following, volume).at(0)
    if first is None or beyond is None:
        return False
    chain, end, durable, edit = first.transfer.previous, 0, Position(0), 0
    for found in reader.chain_from(0, chain):
        builder.add_transfer(found.transfer, found.block, found.node_header.lived_ns)
        chain, end = chain_behind(found.transfer), found.end_block
        durable, edit = max(durable, found.node_header.durable), max(edit, found.node_header.edit)
    if chain != beyond.transfer.previous or end + footer_blocks(builder.size) > segment.blocks:
        return False
    write_footer(segment, volume, builder, end, (first.transfer.previous, chain), (durable, edit))
    segment.file.datasync()
    return read_footer(segment, volume) is not None
