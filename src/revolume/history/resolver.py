"""Which write a moment means in a volume, open or stopped.

Numbers decide; times are labels on them (``label_scale.py``). Where the writes lie is the history's own affair:
``open_history.py`` of a volume that is served, ``offline_volume.py`` of one that is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.errors import NotFound
from revolume.history.label_scale import LabelSearch, LabelStretch, in_future, seek_ago, seek_time
from revolume.history.moments import (
    Ago,
    AtPoint,
    AtSnapshot,
    AtTime,
    AtWrite,
    ExportName,
    Moment,
    format_time,
)
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.suspect_moment import refuse_suspect
from revolume.log.format.columns import Columns, moments
from revolume.volume.state.status import OldestMoment, Snapshot
from revolume.volume.suspect.periods import SuspectPeriods
from revolume.volume.suspect.suspicion import Suspicion


class RetainedHistory(Protocol):
    """What is retained of one volume. Times are in ns since 1970."""

    @property
    def name(self) -> str:
        """The volume's name, for what is said to people."""
        ...

    @property
    def oldest(self) -> OldestMoment:
        """The first moment that can be opened."""
        ...

    @property
    def newest(self) -> tuple[WriteNumber, int]:
        """The last moment that can be opened: write number and label time."""
        ...

    @property
    def wall_ns(self) -> int:
        """What the machine's clock shows."""
        ...

    @property
    def suspect(self) -> SuspectPeriods:
        """Which of its moments are suspect."""
        ...

    @property
    def elsewhere(self) -> str:
        """Where the volume's other copies are, for a sentence; empty if there are none."""
        ...

    def points(self) -> Sequence[Point]:
        """The points that can be asked for, oldest first."""
        ...

    def snapshots(self) -> Sequence[Snapshot]:
        """The named moments, oldest first."""
        ...

    def branch_write(self, branch: str, moment: str) -> WriteNumber:
        """The last write of a branch, or of a moment within it."""
        ...

    def stretches(self) -> Sequence[LabelStretch]:
        """What clocks made the labels, oldest first; never empty."""
        ...

    def last_write(self, number: WriteNumber) -> ResolvedMoment:
        """The newest write up to ``number``, which is retained and not the oldest's."""
        ...

    def columns_for(self, search: LabelSearch) -> tuple[WriteNumber, Iterable[Columns]]:
        """A write that is not behind the time sought, and columns, oldest first, of all transfers that may hold a
        later one that is not either."""
        ...


def last_write(columns: Columns, upto: WriteNumber) -> tuple[WriteNumber, int]:
    """(number, label in ns) of the newest write up to number ``upto`` in these columns that is no part of a change
    of many places; (0, 0) if there is none."""
    rows = columns.rows
    rows = rows[moments(rows) & (rows["entries"] > 0) & (rows["write"] <= upto)]
    if not len(rows):
        return WriteNumber(0), 0
    newest = WriteNumber(int(rows[-1]["write"] + rows[-1]["entries"] - 1))
    return min(upto, newest), int(rows[-1]["time_ns"])


class MomentResolver:
    """Finds the write that a moment means, in the retained history of one volume."""

    def __init__(self, history: RetainedHistory) -> None:
        self._history = history

    @property
    def oldest(self) -> ResolvedMoment:
        """The oldest moment that can be opened: the horizon."""
        oldest = self._history.oldest
        return ResolvedMoment(oldest.write, oldest.time_ns)

    @property
    def newest(self) -> ResolvedMoment:
        """The newest moment that can be opened: the present, at a mirror the last point that it has agreed on."""
        return ResolvedMoment(*self._history.newest)

    def resolve(self, moment: Moment) -> ResolvedMoment:
        """The write that a moment means, and whether it is suspect. NotFound, naming the oldest and newest
        moments, if it is not retained."""
        found = self._resolved(moment)
        return replace(found, suspicion=self._suspicion(found))

    def opened(self, asked: ExportName) -> ResolvedMoment:
        """The moment of an export that is to be opened. Refused: it is suspect, and the name does not say so.
        NotFound: it is not retained."""
        assert asked.moment is not None
        resolved = self.resolve(asked.moment)
        if resolved.suspicion is not None and not asked.suspect:
            raise refuse_suspect(self._history, asked, resolved)
        return resolved

    def _suspicion(self, found: ResolvedMoment) -> Suspicion | None:
        suspect = self._history.suspect
        if not suspect.marks:
            return None
        if found.branch:
            return suspect.of_branch(found.branch, found.write, self._branch_write(found))
        return suspect.at(found.write)

    def _branch_write(self, found: ResolvedMoment) -> WriteNumber:
        """The write of a branch's end, or of its moment."""
        return self._history.branch_write(found.branch, found.branch_moment)

    def _resolved(self, moment: Moment) -> ResolvedMoment:
        match moment:
            case Ago(seconds):
                return self._ago(seconds * 10**9)
            case AtTime(time_ns):
                return self._at_time(time_ns)
            case AtPoint(number):
                return self._at_point(number)
            case AtWrite(number):
                return self._at_write(WriteNumber(number))
            case AtSnapshot(name):
                return self._at_snapshot(name)
            case _:
                return self._at_write(self.newest.write)

    def _at_point(self, number: int) -> ResolvedMoment:
        for point in self._history.points():
            if point.number == number:
                return ResolvedMoment(point.write, point.time_ns)
        raise self._not_retained(f"Point cp{number}")

    def _at_snapshot(self, name: str) -> ResolvedMoment:
        for snapshot in self._history.snapshots():
            if snapshot.name == name:
                branch, within = snapshot.branch, snapshot.branch_moment
                return ResolvedMoment(snapshot.write, snapshot.time_ns, branch=branch, branch_moment=within)
        names = ", ".join(s.name for s in self._history.snapshots()) or "none"
        raise NotFound("no-snapshot", f"{self._history.name} has no snapshot {name}.", f"It has: {names}.")

    def _at_write(self, number: WriteNumber) -> ResolvedMoment:
        oldest = self.oldest
        if not oldest.write <= number <= self.newest.write:
            return self._isolated(number)
        return oldest if number == oldest.write else self._history.last_write(number)

    def _isolated(self, number: WriteNumber) -> ResolvedMoment:
        """A moment that only a snapshot keeps."""
        for point in self._history.points():
            if point.write == number:
                return ResolvedMoment(number, point.time_ns)
        raise self._not_retained(f"Write w{number}", write=number)

    def _ago(self, ago_ns: int) -> ResolvedMoment:
        search = seek_ago(self._history.stretches(), ago_ns)
        if search is None:
            sought_ns = self._history.wall_ns - ago_ns
            raise self._not_retained(f"The moment {ago_ns // 10**9} s ago", time_ns=sought_ns)
        return self._found(search)

    def _at_time(self, time_ns: int) -> ResolvedMoment:
        stretches = self._history.stretches()
        if time_ns > self._history.wall_ns and in_future(stretches, time_ns):
            raise NotFound(
                "moment-in-future", f"{format_time(time_ns)} has not happened yet.", "Name a moment of the past."
            )
        search = seek_time(stretches, time_ns)
        if search is None:
            raise self._not_retained(format_time(time_ns), time_ns=time_ns)
        return self._found(search)

    def _found(self, search: LabelSearch) -> ResolvedMoment:
        """The last write in the stretch labelled at or before the time; if there is none, the last write before
        the stretch."""
        stretch, best = search.stretch, self.oldest
        known, between = self._history.columns_for(search)
        for columns in between:
            rows = columns.rows[moments(columns.rows)]
            rows = rows[(rows["time_ns"] <= search.time_ns) & (rows["entries"] > 0)]
            rows = rows[(rows["write"] > stretch.after) & (rows["write"] <= stretch.upto)]
            if len(rows):
                last = rows[-1]
                write = WriteNumber(int(last["write"] + last["entries"] - 1))
                if write > best.write:
                    best = ResolvedMoment(write, int(last["time_ns"]))
        if best.write < known:
            best = self._at_write(min(known, self.newest.write))
        best = min(best, self.newest, key=lambda resolved: resolved.write)
        return replace(best, note=_ambiguity(search))

    def _not_retained(self, what: str, write: int = 0, time_ns: int = 0) -> NotFound:
        """``write`` or ``time_ns``: what was sought, so that its neighbours can be named."""
        old, new = self.oldest, self.newest
        near = self._neighbours(write, time_ns) if write or time_ns else ""
        return NotFound(
            "moment-not-retained",
            f"{what} of {self._history.name} is not retained.",
            f"{near}The oldest moment is w{old.write} ({format_time(old.time_ns)}), "
            f"the newest w{new.write} ({format_time(new.time_ns)}); see 'revolume points'.",
        )

    def _neighbours(self, write: int, time_ns: int) -> str:
        """The single moments on both sides of what was sought, in a sentence; "" where only snapshots and the like
        keep none of them."""
        kept = [point for point in self._history.points() if point.write < self.oldest.write]
        before = [each for each in kept if (each.write < write if write else each.time_ns <= time_ns)]
        after = [each for each in kept if each not in before]
        sides = [("before", before[-1:]), ("after", after[:1])] if kept else []
        told = [
            f"{side} it w{each.write} ({format_time(each.time_ns)})" for side, found in sides for each in found
        ]
        return f"Kept are, nearest, {' and '.join(told)}. " if told else ""


def _ambiguity(search: LabelSearch) -> str:
    """The note for a time that clocks showed more than once; empty if it is not ambiguous."""
    if not search.others:
        return ""
    other = search.others[-1]
    which = f"up to w{other.upto}"
    more = f", and {len(search.others) - 1} times more" if len(search.others) > 1 else ""
    return (
        f"the clock was set back: {format_time(search.time_ns)} was also before that, {which}{more}; "
        "write numbers and points say which is meant"
    )
