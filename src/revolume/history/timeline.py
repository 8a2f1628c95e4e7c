"""Which write a moment means in a volume, and where in the log that write lies.

Points are a coarse index (one every few seconds); between two of them the columns of the one or two segments
that hold the stretch are looked at. Numbers decide; times are labels on them (``label_scale.py``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from revolume.chain.versions import scanned_columns
from revolume.errors import NotFound
from revolume.history.label_scale import (
    LabelStretch,
    Sought,
    in_future,
    label_stretches,
    seek_ago,
    seek_time,
)
from revolume.history.moments import Ago, AtPoint, AtSnapshot, AtTime, AtWrite, Moment, format_time
from revolume.history.spot import Spot
from revolume.log.columns import Columns
from revolume.log.segment import Segment, read_footer
from revolume.log.transfer import BLOCK, KIND_SHIFT, LENGTH_MASK, EntryKind, Kind
from revolume.volume.remembered import Remembered

U64 = npt.NDArray[np.uint64]
CACHED = 8


def ambiguity(sought: Sought) -> str:
    """What is to be said of a time that clocks showed more than once; empty: nothing."""
    if not sought.others:
        return ""
    other = sought.others[-1]
    which = f"up to w{other.upto}"
    more = f", and {len(sought.others) - 1} times more" if len(sought.others) > 1 else ""
    return (
        f"the clock was set back: {format_time(sought.time_ns)} was also before that, {which}{more}; "
        "write numbers and points say which is meant"
    )


def last_write(columns: Columns, upto: int) -> tuple[int, int]:
    """The newest write up to number ``upto`` in these columns, and its time; (0, 0) if there is none."""
    rows = columns.rows
    rows = rows[(rows["kind"] == Kind.WRITES) & (rows["entries"] > 0) & (rows["write"] <= upto)]
    if not len(rows):
        return 0, 0
    return min(upto, int(rows[-1]["write"] + rows[-1]["entries"] - 1)), int(rows[-1]["time_ns"])


__all__ = ["Spot", "Timeline", "ambiguity", "last_write"]


class Timeline:
    """The retained stretch of one volume's history."""

    def __init__(self, volume: Remembered) -> None:
        self._volume = volume
        self._cached: dict[int, Columns] = {}

    @property
    def oldest(self) -> Spot:
        """The horizon: the first moment that can be opened."""
        oldest = self._volume.oldest
        return Spot(oldest.write, oldest.time_ns)

    @property
    def newest(self) -> Spot:
        """The present."""
        return Spot(*self._volume.newest)

    def resolve(self, moment: Moment) -> Spot:
        """The write that a moment means. NotFound, with the nearest moments, if it is not retained."""
        match moment:
            case Ago(seconds):
                return self._ago(seconds * 10**9)
            case AtTime(time_ns):
                return self._at_time(time_ns)
            case AtPoint(number):
                return self._at_point(number)
            case AtWrite(number):
                return self._at_write(number)
            case AtSnapshot(name):
                return self._at_snapshot(name)
            case _:
                return self._at_write(self.newest.write)

    def _at_point(self, number: int) -> Spot:
        for point in self._volume.points():
            if point.number == number and point.write >= self.oldest.write:
                return Spot(point.write, point.time_ns)
        raise self._lost(f"Point cp{number}")

    def _at_snapshot(self, name: str) -> Spot:
        for snapshot in self._volume.snapshots():
            if snapshot.name == name:
                return Spot(snapshot.write, snapshot.time_ns)
        names = ", ".join(s.name for s in self._volume.snapshots()) or "none"
        raise NotFound("no-snapshot", f"{self._volume.name} has no snapshot {name}.", f"It has: {names}.")

    def _at_write(self, number: int) -> Spot:
        if not self.oldest.write <= number <= self.newest.write:
            raise self._lost(f"Write w{number}")
        if number == self.oldest.write:
            return self.oldest
        found = self._row_of(number)
        if found is None:
            return self._last_before(number)
        columns, row = found
        return Spot(number, int(columns.rows["time_ns"][row]))

    def _last_before(self, number: int) -> Spot:
        """A crash left this number out: the last write before it."""
        core, oldest = self._volume.core, self.oldest
        size, end = core.pool.segment_blocks, core.appender.address
        end = next((point.address for point in self._volume.points() if point.write >= number), end)
        for use in range(end // size, self._volume.folder.horizon.address // size - 1, -1):
            for columns in self.columns_between(use * size, use * size):
                write, time_ns = last_write(columns, number)
                if write:
                    return Spot(write, time_ns) if write > oldest.write else oldest
        return oldest

    def _ago(self, ago_ns: int) -> Spot:
        sought = seek_ago(self.stretches(), ago_ns)
        if sought is None:
            raise self._lost(f"What was {ago_ns // 10**9} s ago")
        return self._found(sought)

    def _at_time(self, time_ns: int) -> Spot:
        stretches = self.stretches()
        if time_ns > self._volume.core.host.clock.wall_ns() and in_future(stretches, time_ns):
            raise NotFound(
                "moment-in-future", f"{format_time(time_ns)} has not happened yet.", "Name a moment of the past."
            )
        sought = seek_time(stretches, time_ns)
        if sought is None:
            raise self._lost(format_time(time_ns))
        return self._found(sought)

    def stretches(self) -> list[LabelStretch]:
        """What clocks made the labels of this history."""
        core = self._volume.core
        return label_stretches(core.steps, self._volume.oldest, core.now_ns())

    def _found(self, sought: Sought) -> Spot:
        """The last write at or before a time in its stretch; where there is none, the one before the stretch."""
        stretch, best = sought.stretch, self.oldest
        known, between = self._between(sought)
        for columns in between:
            rows = columns.rows[columns.rows["kind"] == Kind.WRITES]
            rows = rows[(rows["time_ns"] <= sought.time_ns) & (rows["entries"] > 0)]
            rows = rows[(rows["write"] > stretch.after) & (rows["write"] <= stretch.upto)]
            if len(rows):
                last = rows[-1]
                write = int(last["write"] + last["entries"] - 1)
                if write > best.write:
                    best = Spot(write, int(last["time_ns"]))
        if best.write < known:
            best = self._at_write(min(known, self.newest.write))
        best = min(best, self.newest, key=lambda spot: spot.write)
        return replace(best, note=ambiguity(sought))

    def _lost(self, what: str) -> NotFound:
        old, new = self.oldest, self.newest
        return NotFound(
            "moment-not-retained",
            f"{what} of {self._volume.name} is not retained.",
            f"The oldest moment is w{old.write} ({format_time(old.time_ns)}), "
            f"the newest w{new.write} ({format_time(new.time_ns)}); see 'revolume points'.",
        )

    # Places

    def _between(self, sought: Sought) -> tuple[int, list[Columns]]:
        """A write number that is not behind the time, and columns of the segments in which a later one that is not
        either may lie."""
        begin, end = self._volume.folder.horizon.address, self._volume.core.appender.address
        stretch, known = sought.stretch, sought.stretch.after
        for point in self._volume.points():
            within = point.position < stretch.end_position and point.time_ns <= sought.time_ns
            if point.write <= stretch.after or within:
                begin, known = (point.address - 1 if point.address else 0), max(known, point.write)
            else:
                end = point.address
                break
        return known, self.columns_between(begin, end)

    def columns_between(self, begin: int, end: int) -> list[Columns]:
        """Columns of the segments that overlap these addresses, oldest first."""
        core = self._volume.core
        size = core.pool.segment_blocks
        ready = {segment.use for segment in core.pool.ready}
        first, last = begin // size, end // size
        return [self._columns(s) for s in core.pool.segments() if first <= s.use <= last and s.use not in ready]

    def _columns(self, segment: Segment) -> Columns:
        appender = self._volume.core.appender
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
        ends = self._volume.core.manifest.state.ends
        return scanned_columns(segment, self._volume.volume_id, ends.get(segment.use))

    def _row_of(self, write: int) -> tuple[Columns, int] | None:
        """The transfer in which a write lies (its last, if it was split)."""
        begin, end = self._volume.folder.horizon.address, self._volume.core.appender.address
        for point in self._volume.points():
            if point.write < write:
                begin = point.address
            else:
                end = point.address
                break
        for columns in reversed(self.columns_between(begin, end)):
            rows = columns.rows
            hit = (rows["kind"] == Kind.WRITES) & (rows["write"] <= write)
            hit &= write < rows["write"] + rows["entries"]
            if hit.any():
                return columns, int(np.flatnonzero(hit)[-1])
        return None

    def address_after(self, write: int) -> int:
        """The address below which everything up to ``write`` lies and nothing newer: exact where the
        next write begins a transfer, or lies in one of nothing but whole blocks written; else that of its
        transfer, of which all counts as newer then."""
        for point in self._volume.points():
            if point.write == write:
                return point.address
        found = self._next_row(write)
        if found is None:
            return self._volume.core.appender.address
        columns, row = found
        fields = columns.rows[row]
        address = columns.base + int(fields["block"])
        first = int(fields["write"])
        start = int(columns.rows["entries"][:row].sum())
        entries = columns.lengths[start : start + int(fields["entries"])]
        written = (entries >> np.uint64(KIND_SHIFT) == EntryKind.WRITE).all()
        if first > write or fields["fragment_bytes"] or not written:
            return address
        before = entries[: write + 1 - first] & np.uint64(LENGTH_MASK)
        return address + int(fields["header_blocks"]) + int(before.sum()) // BLOCK

    def _next_row(self, write: int) -> tuple[Columns, int] | None:
        """The first transfer that holds a write behind ``write``."""
        begin, end = self._volume.folder.horizon.address, self._volume.core.appender.address
        for point in self._volume.points():
            if point.write <= write:
                begin = point.address
            else:
                end = point.address + self._volume.core.pool.segment_blocks
                break
        for columns in self.columns_between(begin, end):
            rows = columns.rows
            hit = (rows["kind"] == Kind.WRITES) & (rows["write"] + rows["entries"] > write + 1)
            if hit.any():
                return columns, int(np.flatnonzero(hit)[0])
        return None

    def restated_since(self, write: int) -> list[tuple[int, int]]:
        """Address ranges in which the point at ``write`` says again, whole, what was written before it."""
        ranges: list[tuple[int, int]] = []
        for point in self._volume.points():
            if point.write == write:
                for columns in self.columns_between(point.address, point.record):
                    rows = columns.rows[(columns.rows["kind"] == Kind.POINT) & (columns.rows["write"] == write)]
                    payload = rows["block"].astype(np.uint64) + rows["header_blocks"] + np.uint64(columns.base)
                    ranges += zip(payload.tolist(), (payload + rows["blocks"]).tolist(), strict=True)
        return ranges
