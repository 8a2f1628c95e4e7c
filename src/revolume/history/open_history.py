"""The history of an open volume, as far as it is retained: which transfers lie between two places of its log.

Points are a coarse index (one every few seconds); between two of them the columns of the one or two segments
that hold the stretch are looked at.
"""

from __future__ import annotations

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.point import Point
from revolume.chain.versions import scanned_columns
from revolume.history.label_scale import LabelSearch, LabelStretch, label_stretches
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.resolver import last_write
from revolume.log.format.columns import Columns, moments
from revolume.log.format.segment import Segment, read_footer
from revolume.log.format.transfer import KIND_SHIFT, LENGTH_MASK, EntryKind, Kind
from revolume.volume.branches.names import write_on
from revolume.volume.state.status import OldestMoment, Snapshot
from revolume.volume.suspect.periods import SuspectPeriods
from revolume.volume.volume_base import OpenVolume

CACHED = 8
"""Footers of so many segments are kept."""


class OpenHistory:
    """The ``RetainedHistory`` of an open volume, a primary or a mirror's copy. Columns of the segments last looked
    at are cached."""

    def __init__(self, volume: OpenVolume) -> None:
        self._volume = volume
        self._cached: dict[int, Columns] = {}

    @property
    def name(self) -> str:
        """The volume's name."""
        return self._volume.name

    @property
    def oldest(self) -> OldestMoment:
        """The first moment that can be opened."""
        return self._volume.oldest

    @property
    def newest(self) -> tuple[WriteNumber, int]:
        """The present: write number and label time."""
        return self._volume.newest

    @property
    def suspect(self) -> SuspectPeriods:
        """Which of its moments are suspect, now."""
        return self._volume.suspect.periods

    @property
    def elsewhere(self) -> str:
        """Where the volume's other copies are, for a sentence."""
        return self._volume.elsewhere

    def branch_write(self, branch: str, moment: str) -> WriteNumber:
        """The last write of a branch, or of a moment within it."""
        return write_on(self._volume.manifest.state, branch, moment)

    @property
    def wall_ns(self) -> int:
        """What the machine's clock shows."""
        return self._volume.context.host.clock.wall_ns()

    def points(self) -> list[Point]:
        """The points that can be opened, oldest first; before the oldest moment, those of snapshots alone."""
        return self._volume.open_points()

    def snapshots(self) -> list[Snapshot]:
        """The named moments, oldest first."""
        return self._volume.snapshots()

    def stretches(self) -> list[LabelStretch]:
        """The stretches of this history that were labelled by one clock each, oldest first."""
        return label_stretches(self._volume.clocks.steps, self._volume.oldest, self._volume.clocks.now_ns())

    def last_write(self, number: WriteNumber) -> ResolvedMoment:
        """The write of this number, or the last before it, if a crash left the number out; and its time."""
        found = self._row_of(number)
        if found is None:
            return self._last_before(number)
        columns, row = found
        return ResolvedMoment(number, int(columns.rows["time_ns"][row]))

    def _last_before(self, number: WriteNumber) -> ResolvedMoment:
        """The last write before a number that a crash left out."""
        log = self._volume.log
        oldest = ResolvedMoment(self.oldest.write, self.oldest.time_ns)
        size, end = log.pool.segment_blocks, log.appender.address
        end = next((point.address for point in self._volume.points() if point.write >= number), end)
        for use in range(end // size, self._volume.folder.horizon.address // size - 1, -1):
            at = Address(use * size)
            for columns in self.columns_between(at, at):
                write, time_ns = last_write(columns, number)
                if write:
                    return ResolvedMoment(write, time_ns) if write > oldest.write else oldest
        return oldest

    def columns_for(self, search: LabelSearch) -> tuple[WriteNumber, list[Columns]]:
        """(a write number not newer than the time, columns of the segments that may hold a later one that is not
        newer either): the points narrow the search."""
        begin, end = self._volume.folder.horizon.address, self._volume.log.appender.address
        stretch, known = search.stretch, search.stretch.after
        for point in self._volume.points():
            within = point.position < stretch.end_position and point.time_ns <= search.time_ns
            if point.write <= stretch.after or within:
                begin, known = Address(max(0, point.address - 1)), max(known, point.write)
            else:
                end = point.address
                break
        return known, self.columns_between(begin, end)

    def columns_between(self, begin: Address, end: Address) -> list[Columns]:
        """Columns of the segments that overlap these addresses, oldest first."""
        return [self._columns(segment) for segment in self._volume.log.segments_between(begin, end)]

    def _columns(self, segment: Segment) -> Columns:
        appender = self._volume.log.appender
        if appender.segment is not None and segment.use == appender.segment.use:
            return appender.columns.freeze()
        if segment.use not in self._cached:
            footer = read_footer(segment, self._volume.volume_id)
            columns = footer.columns if footer else self._scanned(segment)
            while len(self._cached) >= CACHED:
                del self._cached[next(iter(self._cached))]
            self._cached[segment.use] = columns
        return self._cached[segment.use]

    def _scanned(self, segment: Segment) -> Columns:
        ends = self._volume.manifest.state.ends
        return scanned_columns(segment, self._volume.volume_id, ends.get(segment.use))

    def _row_of(self, write: WriteNumber) -> tuple[Columns, int] | None:
        """The transfer in which a write lies (its last, if it was split). None: there is no such write, or it is a
        part of a change of many places."""
        begin, end = self._volume.folder.horizon.address, self._volume.log.appender.address
        for point in self._volume.points():
            if point.write < write:
                begin = point.address
            else:
                end = point.address
                break
        for columns in reversed(self.columns_between(begin, end)):
            rows = columns.rows
            hit = moments(rows) & (rows["write"] <= write)
            hit &= write < rows["write"] + rows["entries"]
            if hit.any():
                return columns, int(np.flatnonzero(hit)[-1])
        return None

    def address_after(self, write: WriteNumber) -> Address:
        """The log address that divides what was written up to ``write`` from what is newer. Exact where the next
        write begins a transfer, or where its transfer holds whole blocks only; else the address of that transfer,
        all of which then counts as newer."""
        for point in self._volume.points():
            if point.write == write:
                return point.address
        if write <= self._volume.folder.horizon.write:
            return self._volume.folder.horizon.address
        found = self._next_row(write)
        if found is None:
            return self._volume.log.appender.address
        columns, row = found
        fields = columns.rows[row]
        address = Address(columns.base + int(fields["block"]))
        first = int(fields["write"])
        start = int(columns.rows["entries"][:row].sum())
        entries = columns.lengths[start : start + int(fields["entries"])]
        written = (entries >> np.uint64(KIND_SHIFT) == EntryKind.WRITE).all()
        if first > write or fields["fragment_bytes"] or not written:
            return address
        before = entries[: write + 1 - first] & np.uint64(LENGTH_MASK)
        return Address(address + int(fields["header_blocks"]) + int(before.sum()) // BLOCK)

    def _next_row(self, write: WriteNumber) -> tuple[Columns, int] | None:
        """(columns, row) of the first transfer that holds a write after ``write``; None if there is none."""
        begin, end = self._volume.folder.horizon.address, self._volume.log.appender.address
        for point in self._volume.points():
            if point.write <= write:
                begin = point.address
            else:
                end = Address(point.address + self._volume.log.pool.segment_blocks)
                break
        for columns in self.columns_between(begin, end):
            rows = columns.rows
            hit = (rows["kind"] == Kind.WRITES) & (rows["write"] + rows["entries"] > write + 1)
            if hit.any():
                return columns, int(np.flatnonzero(hit)[0])
        return None

    def restated_since(self, write: WriteNumber) -> list[tuple[int, int]]:
        """Address ranges in which the record of the point at ``write`` holds partial blocks whole: copies of what
        was written before it."""
        ranges: list[tuple[int, int]] = []
        for point in self._volume.points():
            if point.write == write:
                for columns in self.columns_between(point.address, point.record):
                    rows = columns.rows[(columns.rows["kind"] == Kind.POINT) & (columns.rows["write"] == write)]
                    payload = rows["block"].astype(np.uint64) + rows["header_blocks"] + np.uint64(columns.base)
                    ranges += zip(payload.tolist(), (payload + rows["blocks"]).tolist(), strict=True)
        return ranges
