"""The JSON of the faces: what HTTP answers and ``--json`` prints, the same objects in both.

Times are given twice, as nanoseconds since 1970 (``time_ns``, for programs) and as RFC 3339 in UTC
(``time``, for people). Digests are hexadecimal strings, since many JSON readers keep only 53 bits of a
number. ``export`` is the export name under which the moment can be opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from revolume.history.moments import AtPoint, AtSnapshot, AtWrite, ExportName, format_export, format_time
from revolume.history.spot import Spot


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
    """A moment that was asked for, resolved, with the consistency points around it. ``note``: what whoever asked
    should know, as that the time was there twice."""

    asked: str
    write: int
    time: str
    time_ns: int
    export: str
    point_before: PointShape | None
    point_after: PointShape | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class PointsShape:
    """The retained points, oldest first, and the moment asked for, if one was."""

    points: list[PointShape]
    at: MomentShape | None = None


@dataclass(frozen=True, slots=True)
class MirrorShape:
    """A mirror as its source sees it. ``waits`` is empty or says why clients' answers wait; ``held_from_point``:
    the log behind it is kept for the mirror; bytes count since the source was opened: ``client_bytes`` were
    written, ``log_bytes`` sent for them and for points, ``point_bytes`` of those for points, whose references
    saved ``saved_bytes``; ``base_bytes`` and ``whole_bytes`` (blocks asked for whole) come on top.
    ``node``: which copy has joined as this mirror, "" for none; ``level_at``: not 0 while it holds less than the
    position that it had acknowledged; ``refusals``: connections to it that ended in one, since this source was
    opened; ``warning``: what will matter if it is promoted."""

    name: str
    address: str
    mode: str
    state: str
    reason: str
    waits: str
    required: bool
    joined: bool
    lost_seconds: float
    lag_seconds: float
    lag_bytes: int
    received: int
    durable: int
    agreed_point: int
    agreed_position: int
    held_from_point: int
    base_fraction: float
    client_bytes: int
    log_bytes: int
    point_bytes: int
    base_bytes: int
    whole_bytes: int
    saved_bytes: int
    node: str = ""
    level_at: int = 0
    refusals: int = 0
    warning: str = ""
    lacks: tuple[str, ...] = ()
    """Snapshots of the volume that are older than this mirror's history, and not on it."""
    left_bytes: int = 0
    """Until it has joined: what has to be sent, of its base and of the log, as far as it is known."""
    left_seconds: float | None = None
    """How long that takes at the rate of now; None: nothing flows yet."""


@dataclass(frozen=True, slots=True)
class BaseShape:
    """A base that is being received: of which point, and the blocks below ``next_block`` are here."""

    point: int
    next_block: int
    blocks: int


@dataclass(frozen=True, slots=True)
class SourceShape:
    """A mirror's own position, and its source: connected, or not, ``since``; ``base`` is None once it is whole."""

    listening: str
    connected: bool
    peer: str
    source_epoch: int
    since: str
    since_ns: int
    reason: str
    received: int
    durable: int
    agreed_point: int
    agreed_position: int
    base: BaseShape | None
    failure: str
    promotable: bool
    why_not: str
    source_name: str = ""
    refusals: int = 0
    level_at: int = 0


@dataclass(frozen=True, slots=True)
class PromotedShape:
    """A mirror that has become a primary: its opening, what it begins with, and the URIs where it is found from
    now on besides those where the mirror was."""

    name: str
    role: str
    epoch: int
    write: int
    point: int
    nbd: tuple[str, ...] = ()


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


def moment_shape(volume: str, asked: str, spot: Spot, points: list[PointShape]) -> MomentShape:
    """``points``: oldest first; a point at the write itself is before it: the moment is that point."""
    before = [point for point in points if point.write <= spot.write]
    after = [point for point in points if point.write > spot.write]
    return MomentShape(
        asked=asked,
        write=spot.write,
        time=format_time(spot.time_ns),
        time_ns=spot.time_ns,
        export=format_export(ExportName(volume, AtWrite(spot.write))),
        point_before=before[-1] if before else None,
        point_after=after[0] if after else None,
        note=spot.note,
    )
