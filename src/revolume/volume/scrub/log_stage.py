"""The log, segment by segment, from the horizon to where it ended when the stage began.

A segment may be recycled while it is read. Use numbers never repeat: if the pool still has the same segment
afterwards, it has had it all the time, and what was found holds; else it means nothing.
"""

from __future__ import annotations

from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.chain.versions import SegmentSpec
from revolume.host.disk import Directory
from revolume.log.format.segment import Segment, segment_name
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata.scrub_record import ScrubPlace, ScrubStage
from revolume.volume.open_log import OpenLog
from revolume.volume.scrub.finding import Finding, Part
from revolume.volume.scrub.footer_repair import remake_footer
from revolume.volume.scrub.segment_check import SegmentChecked, SegmentSlice, check_segment
from revolume.volume.scrub.stage import SliceRead

_NOWHERE: Final = (0, 0)


class LogStage:
    """Of one open volume. ``directory``: of the log."""

    def __init__(self, directory: Directory, log: OpenLog, image: VolumeImage) -> None:
        self._path = directory.path
        self._log = log
        self._image = image
        self._end = Address(0)
        self._chain = b""
        self._reached = _NOWHERE
        """Use number and block to which ``_chain`` leads."""
        self._left = ""
        """Where the segment before ended."""

    def begin(self) -> None:
        """What is written from now on belongs to the next scrub."""
        self._end = self._log.appender.address or Address(_next_use(self._log) * self._log.pool.segment_blocks)
        self._chain, self._reached = b"", _NOWHERE

    def total(self) -> int:
        """All segments that are in use."""
        pool = self._log.pool
        return (len(pool.by_use) - len(pool.ready)) * pool.segment_blocks * BLOCK

    async def read(self, place: ScrubPlace, size: int) -> SliceRead:
        """The next transfers."""
        await self._log.footers.written()
        horizon = self._image.horizon.address
        segments = self._log.segments_between(horizon, self._end) if self._end else []
        segment = next((each for each in segments if each.use >= place.number), None)
        if segment is None:
            return SliceRead()
        first = place.block if segment.use == place.number else 0
        first = max(first, horizon - segment.base)
        checked = await self._checked(segment, first, size)
        if checked is None:
            return SliceRead(following=ScrubPlace(ScrubStage.LOG, segment.use + 1))
        return await self._read(segment, checked)

    async def _checked(self, segment: Segment, first: int, size: int) -> SegmentChecked | None:
        """None: the segment was recycled meanwhile."""
        log = self._log
        current = log.appender.segment is not None and segment.use == log.appender.segment.use
        end = log.manifest.state.ends.get(segment.use)
        spec = SegmentSlice(
            log_path=self._path,
            volume=log.volume_id,
            segment=SegmentSpec(segment.index, segment.use, segment.blocks, end),
            first=first,
            size=size,
            chain=self._chain_before(segment, first),
            columns=log.appender.columns.freeze() if current else None,
        )
        try:
            checked = await log.work.job(check_segment, spec)
        except OSError:
            if log.pool.by_use.get(segment.use) is segment:
                raise
            return None
        return checked if log.pool.by_use.get(segment.use) is segment else None

    def _chain_before(self, segment: Segment, first: int) -> bytes:
        """Of the transfer before block ``first``; empty: not known."""
        if self._reached == (segment.use, first):  # else the horizon has moved on
            return self._chain
        horizon = self._image.horizon
        return horizon.chain if segment.base + first == horizon.address else b""

    async def _read(self, segment: Segment, checked: SegmentChecked) -> SliceRead:
        findings = checked.findings
        if not checked.follows:  # what lay between is damaged beyond recognition
            findings = (Finding(Part.HEADER, self._left or f"log/{segment_name(segment.index)}"), *findings)
        self._chain = checked.chain
        if checked.next_block is not None:
            self._reached = segment.use, checked.next_block
            following = ScrubPlace(ScrubStage.LOG, segment.use, checked.next_block)
        else:
            self._reached = self._after(segment), 0
            self._left = f"log/{segment_name(segment.index)}, from byte {checked.end * BLOCK} on"
            following = ScrubPlace(ScrubStage.LOG, segment.use + 1)
            findings += await self._footer(segment, checked)
        return SliceRead(findings, following, checked.bytes_read)

    def _after(self, segment: Segment) -> int:
        """The use number of the segment in which the log goes on; -1: in none yet."""
        return next((each.use for each in self._log.pool.segments() if each.use > segment.use), -1)

    async def _footer(self, segment: Segment, checked: SegmentChecked) -> tuple[Finding, ...]:
        """A sealed segment has a footer, unless it was closed early, or a crash came first: it is read by its
        headers then, and nothing is missing. One that is damaged is made anew, out of the headers."""
        log, appending = self._log, self._log.appender.segment
        sealed = appending is None or segment.use < appending.use
        excused = {*log.footers.doubtful, *log.footers.unwritten, *log.manifest.state.ends}
        if checked.has_footer or not sealed or segment.use in excused:
            return ()
        where = f"log/{segment_name(segment.index)}, at its end"
        return (Finding(Part.FOOTER, where, healed=await self._footer_made_anew(segment)),)

    async def _footer_made_anew(self, segment: Segment) -> bool:
        """Whether the headers, as far as the segment behind it goes on from them, make a footer."""
        following = self._log.pool.by_use.get(self._after(segment))
        if following is None:
            return False
        try:
            with self._log.repairs.repairing(segment.base) as held:
                return await self._log.work.call(remake_footer, held, following, self._log.volume_id)
        except (KeyError, OSError):
            return False


def _next_use(log: OpenLog) -> int:
    """Above the use numbers of all segments that transfers have been written to."""
    ready = {segment.use for segment in log.pool.ready}
    return max((use + 1 for use in log.pool.by_use if use not in ready), default=0)
