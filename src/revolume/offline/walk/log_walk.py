"""The log, walked header by header: what its records say, for those who compare something with it.

Each payload is read and compared with its digest; footers with the headers that they repeat; the end with what
was stated durable. After a crash only what was durable is claimed: behind it the log may end anywhere, and a
footer may speak of transfers that the disk never got.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.chain.point import Part, unpack_part
from revolume.chain.versions import NewestVersions, newest_in
from revolume.log.format.columns import Columns, ColumnsBuilder
from revolume.log.format.segment import Footer, Segment, read_footer, segment_name
from revolume.log.format.transfer import Flag, Kind
from revolume.log.read.recovery import stated_durable
from revolume.log.read.scan import FoundTransfer, SegmentReader, chain_behind, complete_prefix, payload_holds
from revolume.offline.walk.check_context import CheckContext
from revolume.volume.metadata.manifest_state import State

Fact = tuple[Part, Columns, bool]
"""A part of a point's record, where it lies, and whether it is the last."""


@dataclass(slots=True)
class LogRecords:
    """What the log's transfers say, from the horizon on."""

    pieces: list[Columns] = field(default_factory=list)
    """Every transfer, a segment each."""
    facts: list[Fact] = field(default_factory=list)
    fixed: dict[int, list[Columns]] = field(default_factory=dict)
    """By point, the blocks that a mirror was sent whole because their references did not hold."""

    def newest(self, after: WriteNumber, upto: WriteNumber) -> NewestVersions:
        """The newest version of every block changed by the writes ``(after, upto]``."""
        return newest_in(self.pieces, after, upto)


def walk(segments: list[Segment], state: State, context: CheckContext) -> LogRecords:
    """Read and verify ``segments``, oldest use first, from the horizon on. Problems are added to ``context``."""
    durable, _ = stated_durable(segments, state.volume, state.cut)
    return _LogWalk(state, max(durable, state.durable.position), context).run(segments)


class _LogWalk:
    def __init__(self, state: State, durable: Position, context: CheckContext) -> None:
        self._state = state
        self._durable = durable
        self._context = context
        self._records = LogRecords()

    def run(self, segments: list[Segment]) -> LogRecords:
        chain, position = self._state.horizon.chain, self._state.horizon.position
        last: list[FoundTransfer] = []
        for number, segment in enumerate(segments):
            self._context.progress("log", number, len(segments))
            taken = list(self._follow(segment, chain))
            if taken:
                chain, position = chain_behind(taken[-1].transfer), taken[-1].transfer.position
                last = taken
                self._segment(segment, taken)
        self._end(last, position)
        return self._records

    def _follow(self, segment: Segment, chain: bytes) -> Iterator[FoundTransfer]:
        block = max(0, self._state.horizon.address - segment.base)
        reader = SegmentReader(segment, self._state.volume)
        for found in reader.chain_from(block, chain, self._end_of(segment)):
            if not payload_holds(found):
                if not self._promised(found):
                    return
                where = f"log/{segment_name(segment.index)} at {found.block * BLOCK}"
                self._context.add_problem(
                    where, f"the payload of position {found.transfer.position} is not what was written"
                )
            self._context.transfers += 1
            self._context.blocks += found.transfer.blocks
            self._context.bytes_read += found.transfer.total_blocks * BLOCK
            yield found

    def _promised(self, found: FoundTransfer) -> bool:
        """Whether the transfer is known to have been durable. (A local record has the position of the transfer
        before it, which may be durable without it.)"""
        behind = found.transfer.position + (found.transfer.kind == Kind.LOCAL_BLOCKS)
        return self._state.clean is not None or behind <= self._durable

    def _end_of(self, segment: Segment) -> int | None:
        """The block at which the log leaves the segment early; None: it doesn't. A recovery that was cut short may
        have sealed the segment there before it told the manifest."""
        footer = read_footer(segment, self._state.volume) if self._state.clean is None else None
        if footer is None or not len(footer.columns.rows) or self._beyond(footer):
            return self._state.ends.get(segment.use)
        return footer.end_block

    def _beyond(self, footer: Footer) -> bool:
        """Whether the footer names transfers above the durable position. After a crash the disk may lack them, so
        such a footer is not used."""
        rows = footer.columns.rows
        return self._state.clean is None and len(rows) > 0 and int(rows["position"][-1]) > self._durable

    def _segment(self, segment: Segment, taken: list[FoundTransfer]) -> None:
        self._context.segments += 1
        builder = ColumnsBuilder(segment.base)
        for found in taken:
            builder.add_transfer(found.transfer, found.block, found.node_header.lived_ns)
        columns = builder.freeze()
        self._records.pieces.append(columns)
        self._footer(segment, columns)
        for found in taken:
            self._record(segment, found)

    def _footer(self, segment: Segment, columns: Columns) -> None:
        footer = read_footer(segment, self._state.volume)
        clean, where = self._state.clean, f"log/{segment_name(segment.index)}"
        if footer is None:
            sealed = clean is not None and segment.use < clean.address // segment.blocks
            if sealed and segment.use not in self._state.ends:
                self._context.add_problem(
                    where, "the footer is missing or damaged (it can be rebuilt from the headers)"
                )
        elif not self._beyond(footer):
            rows = footer.columns.rows[-len(columns.rows) :]
            if rows.tobytes() != columns.rows.tobytes():
                self._context.add_problem(where, "the footer disagrees with the headers")

    def _record(self, segment: Segment, found: FoundTransfer) -> None:
        """Collect parts of points' records, and blocks that a mirror was sent whole."""
        builder = ColumnsBuilder(segment.base)
        builder.add_transfer(found.transfer, found.block, found.node_header.lived_ns)
        if found.transfer.kind == Kind.LOCAL_BLOCKS:
            number = int.from_bytes(found.transfer.body, "little")
            self._records.fixed.setdefault(number, []).append(builder.freeze())
        if found.transfer.kind == Kind.POINT:
            self._part(found, builder.freeze())

    def _part(self, found: FoundTransfer, columns: Columns) -> None:
        part = unpack_part(found.transfer.body)
        if part is None:
            self._context.add_problem(
                f"position {found.transfer.position}", "a consistency point's record is not valid"
            )
            return
        for offset in found.transfer.offsets[found.transfer.digests == np.uint64(LOST_DIGEST)].tolist():
            self._context.add_problem(
                f"cp{part.number}",
                f"block {offset // BLOCK} could not be read any more when it was made",
            )
        self._records.facts.append((part, columns, bool(found.transfer.flags & Flag.SEALS)))

    def _end(self, last: list[FoundTransfer], position: Position) -> None:
        clean = self._state.clean
        if clean is not None and position != clean.position:
            self._context.add_problem(
                "log", f"ends at position {position}; the clean stop was at {clean.position}"
            )
        elif position < self._durable:
            self._context.add_problem(
                "log", f"breaks off after position {position}; position {self._durable} was durable"
            )
        if clean is not None and len(complete_prefix(last)) != len(last):
            self._context.add_problem("log", "ends within a write")
