"""A volume's log while it is open: written by its appender, read by segment files and the columns of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from revolume.blocks.numbers import Address
from revolume.chain.versions import segment_columns
from revolume.host.work import Work
from revolume.log.format.columns import Columns
from revolume.log.format.segment import Segment
from revolume.log.write.append_turn import AppendTurn
from revolume.log.write.appender import Appender
from revolume.log.write.group_commit import GroupCommit
from revolume.log.write.segment_pool import SegmentPool
from revolume.log.write.segment_repairs import SegmentRepairs
from revolume.log.write.writer import Writer
from revolume.volume.footer_writer import FooterWriter
from revolume.volume.metadata.manifest_state import Mark
from revolume.volume.metadata.manifest_writer import ManifestWriter


@dataclass(frozen=True, slots=True)
class OpenLog:
    """The parts of the log. ``manifest`` knows which segments were closed early."""

    volume_id: bytes
    work: Work
    pool: SegmentPool
    appender: Appender
    commit: GroupCommit
    writer: Writer
    footers: FooterWriter
    manifest: ManifestWriter
    repairs: SegmentRepairs
    turn: AppendTurn = field(default_factory=AppendTurn)

    def end_mark(self, address: Address | None = None) -> Mark:
        """The log's end as the manifest records it. ``address``: another than the appender's."""
        at = self.appender
        return Mark(at.position, at.address if address is None else address, at.chain, at.write, at.time_ns)

    async def durable_end(self) -> Mark:
        """The log's end, once it is durable. A map file names addresses, and what recovery finds beyond the
        position that it knows to be durable gets new ones; so the manifest learns of it with the map. (Behind a
        write that is half there nothing is promised, and no map names it.)"""
        at = self.appender
        mark = self.end_mark() if at.complete_position == at.position else Mark(at.complete_position)
        await self.commit.wait_durable(mark.position)
        return mark

    def segments_between(self, begin: Address, end: Address) -> list[Segment]:
        """Segments that overlap the addresses from ``begin`` to ``end``, which counts, oldest first; those that
        only stand ready excepted."""
        pool, size = self.pool, self.pool.segment_blocks
        ready = {segment.use for segment in pool.ready}
        return [s for s in pool.segments() if begin // size <= s.use <= end // size and s.use not in ready]

    async def columns_between(self, begin: Address, end: Address) -> list[Columns]:
        """Columns of the same segments: in memory, in footers, or gathered from headers."""
        await self.footers.written()
        return [await self._columns(segment) for segment in self.segments_between(begin, end)]

    async def _columns(self, segment: Segment) -> Columns:
        appender = self.appender
        if appender.segment is not None and segment.use == appender.segment.use:
            return appender.columns.freeze()
        return await self.work.call(self._read, segment)

    def _read(self, segment: Segment) -> Columns:
        return segment_columns(segment, self.volume_id, self.manifest.state.ends.get(segment.use))
