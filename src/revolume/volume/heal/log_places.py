"""What the log's own columns say of a place, and where a version lies: the two directions of a reference.

A place is an address of this node; a reference, position of a transfer and number of a whole block in it, means
the same at every node that has that transfer. Records of this node alone (LOCAL_BLOCKS) have no reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from revolume.blocks.block_location import ADDRESS_MASK, DATA, kinds
from revolume.blocks.numbers import Address, Position
from revolume.chain.versions import segment_columns
from revolume.errors import Damaged
from revolume.log.format.columns import Columns
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import Kind
from revolume.volume.open_log import OpenLog

MASK = np.uint64(ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class Stated:
    """What the columns say of an address: the digest of the whole block there, the transfer that it came with
    (position 0: a record of this node alone), and which of its blocks it is."""

    digest: int
    position: Position
    index: int


def columns_of(log: OpenLog, segment: Segment, opened: Columns | None) -> Columns | None:
    """The columns of one segment; ``opened``: those in memory of the segment that is being written. None: they
    can't be read. Waits for the disk."""
    if opened is not None and opened.base == segment.base:
        return opened
    try:
        return segment_columns(segment, log.volume_id, log.manifest.state.ends.get(segment.use))
    except (Damaged, OSError):
        return None


def opened_columns(log: OpenLog) -> Columns | None:
    """Those of the segment that is being written, as of now. In the loop."""
    appender = log.appender
    return None if appender.segment is None else appender.columns.freeze()


def stated_at(columns: Columns, address: Address) -> Stated | None:
    """What lies at an address of this segment; None: no whole block begins there."""
    at = address - columns.base
    row = int(np.searchsorted(columns.rows["block"], at, side="right")) - 1
    if row < 0:
        return None
    here = columns.rows[row]
    index = at - int(here["block"]) - int(here["header_blocks"])
    if not 0 <= index < int(here["blocks"]):
        return None
    first = int(columns.rows["digests"][:row].sum())
    position = 0 if here["kind"] == Kind.LOCAL_BLOCKS else int(here["position"])
    return Stated(int(columns.digests[first + index]), Position(position), index)


def referenced(columns: Columns, position: Position, index: int) -> tuple[Address, int] | None:
    """Address and digest of a block by its reference; None: this segment does not have it."""
    rows = columns.rows
    found = np.flatnonzero((rows["position"] == position) & (rows["kind"] != Kind.LOCAL_BLOCKS))
    if not len(found) or index >= int(rows["blocks"][found[0]]):
        return None
    row = int(found[0])
    first = int(rows["digests"][:row].sum())
    address = columns.base + int(rows["block"][row]) + int(rows["header_blocks"][row]) + index
    return Address(address), int(columns.digests[first + index])


def versions_with(columns: Columns, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], Address]:
    """Where whole versions of blocks lie in this segment, by block and digest."""
    digests = np.array(sorted({digest for _, digest in wanted}), np.uint64)
    if not np.isin(columns.digests, digests).any():
        return {}
    versions = columns.versions()
    here = np.flatnonzero(np.isin(versions.digests, digests) & (kinds(versions.words) == DATA))
    blocks, stated = versions.blocks[here].tolist(), versions.digests[here].tolist()
    places = (versions.words[here] & MASK).tolist()
    found = zip(blocks, stated, places, strict=True)
    return {(block, digest): Address(place) for block, digest, place in found if (block, digest) in wanted}


def transfer_block(columns: Columns, position: Position) -> int | None:
    """The block of this segment at which the transfer at a position begins; None: it is not in here."""
    rows = columns.rows
    found = np.flatnonzero((rows["position"] == position) & (rows["kind"] != Kind.LOCAL_BLOCKS))
    return int(rows["block"][found[0]]) if len(found) else None
