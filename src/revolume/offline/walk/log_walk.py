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
from revolume.chain.point import Part, unpack_part
from revolume.chain.versions import Newest, newest, under_ranges
from revolume.log.columns import Columns, ColumnsBuilder
from revolume.log.scan import Found, SegmentReader, chain_behind, complete_prefix, payload_holds
from revolume.log.segment import Footer, Segment, read_footer, segment_name
from revolume.log.tail import stated_durable
from revolume.log.transfer import BLOCK, Flag, Kind
from revolume.offline.findings import Findings
from revolume.volume.manifest import State

Fact = tuple[Part, Columns, bool]
"""A part of a point's record, where it lies, and whether it is the last."""


@dataclass(slots=True)
class Walked:
    """What the log's records say."""

    pieces: list[Columns] = field(default_factory=list)
    """Every transfer, a segment each."""
    facts: list[Fact] = field(default_factory=list)
    fixed: dict[int, list[Columns]] = field(default_factory=dict)
    """By point, the blocks that a mirror was sent whole because their references did not hold."""

    def newest(self, after: int, upto: int) -> Newest:
        """The newest version of every block changed by the writes ``(after, upto]``."""
        return under_ranges(newest((c.versions() for c in self.pieces), after, upto))


def walk(segments: list[Segment], state: State, findings: Findings) -> Walked:
    """Read ``segments``, oldest use first, from the horizon on."""
    durable, _ = stated_durable(segments, state.volume)
    return _Walk(state, max(durable, state.durable.position), findings).run(segments)


class _Walk:
    def __init__(self, state: State, durable: int, findings: Findings) -> None:
        self._state = state
        self._durable = durable
        self._findings = findings
        self._walked = Walked()

    def run(self, segments: list[Segment]) -> Walked:
        chain, position = self._state.horizon.chain, self._state.horizon.position
        last: list[Found] = []
        for number, segment in enumerate(segments):
            self._findings.progress("log", number, len(segments))
            taken = list(self._follow(segment, chain))
            if taken:
                chain, position = chain_behind(taken[-1].transfer), taken[-1].transfer.position
                last = taken
                self._segment(segment, taken)
        self._end(last, position)
        return self._walked

    def _follow(self, segment: Segment, chain: bytes) -> Iterator[Found]:
        block = max(0, self._state.horizon.address - segment.base)
        reader = SegmentReader(segment, self._state.volume)
        for found in reader.chain_from(block, chain, self._end_of(segment)):
            if not payload_holds(found):
                if not self._promised(found):
                    return
                where = f"log/{segment_name(segment.index)} at {found.block * BLOCK}"
                self._findings.say(
                    where, f"the payload of position {found.transfer.position} is not what was written"
                )
            self._findings.transfers += 1
            self._findings.blocks += found.transfer.blocks
            self._findings.bytes_read += found.transfer.total_blocks * BLOCK
            yield found

    def _promised(self, found: Found) -> bool:
        """A local record has the position of the transfer before it, which may be durable without it."""
        behind = found.transfer.position + (found.transfer.kind == Kind.FIXUP)
        return self._state.clean is not None or behind <= self._durable

    def _end_of(self, segment: Segment) -> int | None:
        """Where the log leaves a segment early. A recovery that was cut short has sealed it there, and has not yet
        told the manifest."""
        footer = read_footer(segment, self._state.volume) if self._state.clean is None else None
        if footer is None or not len(footer.columns.rows) or self._beyond(footer):
            return self._state.ends.get(segment.use)
        return footer.end_block

    def _beyond(self, footer: Footer) -> bool:
        """After a crash a footer may speak of transfers that the disk never got: nobody goes by it then."""
        rows = footer.columns.rows
        return self._state.clean is None and len(rows) > 0 and int(rows["position"][-1]) > self._durable

    def _segment(self, segment: Segment, taken: list[Found]) -> None:
        self._findings.segments += 1
        builder = ColumnsBuilder(segment.base)
        for found in taken:
            builder.add_transfer(found.transfer, found.block, found.local.lived_ns)
        columns = builder.freeze()
        self._walked.pieces.append(columns)
        self._footer(segment, columns)
        for found in taken:
            self._record(segment, found)

    def _footer(self, segment: Segment, columns: Columns) -> None:
        footer = read_footer(segment, self._state.volume)
        clean, where = self._state.clean, f"log/{segment_name(segment.index)}"
        if footer is None:
            sealed = clean is not None and segment.use < clean.address // segment.blocks
            if sealed and segment.use not in self._state.ends:
                self._findings.say(where, "the footer is missing or damaged (it can be rebuilt from the headers)")
        elif not self._beyond(footer):
            rows = footer.columns.rows[-len(columns.rows) :]
            if rows.tobytes() != columns.rows.tobytes():
                self._findings.say(where, "the footer disagrees with the headers")

    def _record(self, segment: Segment, found: Found) -> None:
        """What belongs to a point."""
        builder = ColumnsBuilder(segment.base)
        builder.add_transfer(found.transfer, found.block, found.local.lived_ns)
        if found.transfer.kind == Kind.FIXUP:
            number = int.from_bytes(found.transfer.body, "little")
            self._walked.fixed.setdefault(number, []).append(builder.freeze())
        if found.transfer.kind == Kind.POINT:
            self._part(found, builder.freeze())

    def _part(self, found: Found, columns: Columns) -> None:
        part = unpack_part(found.transfer.body)
        if part is None:
            self._findings.say(
                f"position {found.transfer.position}", "a consistency point's record makes no sense"
            )
            return
        for offset in found.transfer.offsets[found.transfer.digests == np.uint64(LOST_DIGEST)].tolist():
            self._findings.say(
                f"cp{part.number}",
                f"block {offset // BLOCK} could not be read any more when it was made",
            )
        self._walked.facts.append((part, columns, bool(found.transfer.flags & Flag.SEALS)))

    def _end(self, last: list[Found], position: int) -> None:
        clean = self._state.clean
        if clean is not None and position != clean.position:
            self._findings.say("log", f"ends at position {position}; the clean stop was at {clean.position}")
        elif position < self._durable:
            self._findings.say(
                "log", f"breaks off after position {position}; position {self._durable} was durable"
            )
        if clean is not None and len(complete_prefix(last)) != len(last):
            self._findings.say("log", "ends within a write")
