"""The JSON of the faces: what HTTP answers and ``--json`` prints, the same objects in both.

Times are given twice, as nanoseconds since 1970 (``time_ns``, for programs) and as RFC 3339 in UTC
(``time``, for people). Digests are hexadecimal strings, since many JSON readers keep only 53 bits of a
number. ``export`` is the export name under which the moment can be opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from revolume.history.moments import AtPoint, AtSnapshot, AtWrite, ExportName, format_export, format_time


class PointValues(Protocol):
    """A consistency point as the volume knows it."""

    @property
    def number(self) -> int: ...
    @property
    def write(self) -> int: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def digest(self) -> int: ...
    @property
    def root(self) -> tuple[int, int]: ...
    @property
    def changed_blocks(self) -> int: ...


class SnapshotValues(Protocol):
    """A named moment as the volume knows it."""

    @property
    def name(self) -> str: ...
    @property
    def write(self) -> int: ...
    @property
    def point(self) -> int: ...
    @property
    def time_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PointShape:
    """A consistency point."""

    number: int
    write: int
    time: str
    time_ns: int
    epoch: int
    digest: str
    root: str
    changed_blocks: int
    export: str


@dataclass(frozen=True, slots=True)
class SnapshotShape:
    """A named moment."""

    name: str
    write: int
    point: int
    time: str
    time_ns: int
    export: str


@dataclass(frozen=True, slots=True)
class MomentShape:
    """A moment that was asked for, resolved, with the consistency points around it."""

    asked: str
    write: int
    time: str
    time_ns: int
    export: str
    point_before: PointShape | None
    point_after: PointShape | None


@dataclass(frozen=True, slots=True)
class PointsShape:
    """The retained points, oldest first, and the moment asked for, if one was."""

    points: list[PointShape]
    at: MomentShape | None = None


def point_shape(volume: str, point: PointValues) -> PointShape:
    return PointShape(
        number=point.number,
        write=point.write,
        time=format_time(point.time_ns),
        time_ns=point.time_ns,
        epoch=point.epoch,
        digest=f"{point.digest:016x}",
        root="".join(f"{lane:016x}" for lane in point.root),
        changed_blocks=point.changed_blocks,
        export=format_export(ExportName(volume, AtPoint(point.number))),
    )


def snapshot_shape(volume: str, snapshot: SnapshotValues) -> SnapshotShape:
    return SnapshotShape(
        name=snapshot.name,
        write=snapshot.write,
        point=snapshot.point,
        time=format_time(snapshot.time_ns),
        time_ns=snapshot.time_ns,
        export=format_export(ExportName(volume, AtSnapshot(snapshot.name))),
    )


def moment_shape(volume: str, asked: str, write: int, time_ns: int, points: list[PointShape]) -> MomentShape:
    """``points``: oldest first; a point at the write itself is before it: the moment is that point."""
    before = [point for point in points if point.write <= write]
    after = [point for point in points if point.write > write]
    return MomentShape(
        asked=asked,
        write=write,
        time=format_time(time_ns),
        time_ns=time_ns,
        export=format_export(ExportName(volume, AtWrite(write))),
        point_before=before[-1] if before else None,
        point_after=after[0] if after else None,
    )
