"""The JSON of points, snapshots and moments; what is common to all JSON says ``schemas.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from revolume.history.changes import Change
from revolume.history.moments import (
    AtPoint,
    AtSnapshot,
    AtWrite,
    ExportName,
    Moment,
    format_export,
    format_time,
)
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.suspect_moment import suspect_words
from revolume.volume.branches.names import branch_moment
from revolume.volume.suspect.suspicion import Suspicion


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
    @property
    def rescued_bytes(self) -> int: ...

    @property
    def holder(self) -> str: ...
    @property
    def expires_in_s(self) -> float | None: ...
    @property
    def held(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class PointSchema:
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
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class SuspectSchema:
    """Why this copy has a moment not as the volume was then: ``blocks`` of it, for ``causes``. Every moment from
    write ``since`` to the one before ``until`` (None: they are not repaired) is suspect in some block; the nearest
    good points before and behind. ``told`` says it as the end of a sentence; ``elsewhere``, in one, where the
    volume's other copies are."""

    blocks: int
    causes: list[str]
    since: int
    until: int | None
    good_before: PointSchema | None
    good_after: PointSchema | None
    told: str
    elsewhere: str


@dataclass(frozen=True, slots=True)
class SnapshotSchema:
    """A named moment. ``rescued_bytes``: what folds have copied for it so far. ``holder``: for whom it is kept; ""
    for a snapshot, which is kept until it is dropped. ``expires_in_s``: or until the volume has been open for so
    long; ``held``: not before it is released. ``exclusive_bytes``: what dropping it gives back of what was
    rescued; the rest older ones share. None: not known."""

    name: str
    write: int
    point: int
    time: str
    time_ns: int
    export: str
    rescued_bytes: int
    holder: str = ""
    suspect: SuspectSchema | None = None
    expires_in_s: float | None = None
    held: bool = False
    exclusive_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MomentSchema:
    """A moment that was asked for, resolved, with the consistency points around it. ``note``: what whoever asked
    should know, as that the time was there twice."""

    asked: str
    write: int
    time: str
    time_ns: int
    export: str
    point_before: PointSchema | None
    point_after: PointSchema | None
    note: str = ""
    suspect: SuspectSchema | None = None


@dataclass(frozen=True, slots=True)
class PointsSchema:
    """The retained points, oldest first, and the moment asked for, if one was."""

    points: list[PointSchema]
    at: MomentSchema | None = None


@dataclass(frozen=True, slots=True)
class ChangeSchema:
    """A write that changed some bytes; ``how``: write, zero, trim or restore."""

    write: int
    time: str
    time_ns: int
    how: str
    offset: int
    length: int


def change_schema(change: Change) -> ChangeSchema:
    return ChangeSchema(
        change.write, format_time(change.time_ns), change.time_ns, change.how, change.offset, change.length
    )


def point_schema(volume: str, point: PointValues, suspect: bool = False) -> PointSchema:
    """``export`` opens it also where it is ``suspect``."""
    return PointSchema(
        number=point.number,
        write=point.write,
        time=format_time(point.time_ns),
        time_ns=point.time_ns,
        epoch=point.epoch,
        digest=f"{point.digest:016x}",
        root="".join(f"{lane:016x}" for lane in point.root),
        changed_blocks=point.changed_blocks,
        export=_export(volume, AtPoint(point.number), suspect),
        suspect=suspect,
    )


def _export(volume: str, moment: Moment, suspect: bool) -> str:
    """The name that opens it; of a suspect moment it says so."""
    return format_export(ExportName(volume, moment, frozenset({"suspect"}) if suspect else frozenset()))


def suspect_schema(suspicion: Suspicion | None, points: list[PointSchema], elsewhere: str) -> SuspectSchema | None:
    """``points``: oldest first. None: the moment is good."""
    if suspicion is None:
        return None
    good = [point for point in points if not point.suspect]
    before = [point for point in good if point.write < suspicion.since]
    after = [point for point in good if point.write >= suspicion.until]
    return SuspectSchema(
        blocks=suspicion.blocks,
        causes=list(suspicion.causes),
        since=suspicion.since,
        until=suspicion.until if suspicion.repaired else None,
        good_before=before[-1] if before else None,
        good_after=after[0] if after else None,
        told=suspect_words(suspicion),
        elsewhere=elsewhere,
    )


def snapshot_schema(volume: str, snapshot: SnapshotValues, suspect: SuspectSchema | None = None) -> SnapshotSchema:
    """``export`` opens it also where it is ``suspect``."""
    return SnapshotSchema(
        name=snapshot.name,
        write=snapshot.write,
        point=snapshot.point,
        time=format_time(snapshot.time_ns),
        time_ns=snapshot.time_ns,
        export=_export(volume, AtSnapshot(snapshot.name), suspect is not None),
        rescued_bytes=snapshot.rescued_bytes,
        holder=snapshot.holder,
        expires_in_s=snapshot.expires_in_s,
        held=snapshot.held,
        suspect=suspect,
    )


def moment_schema(
    volume: str, asked: str, resolved: ResolvedMoment, points: list[PointSchema], elsewhere: str = ""
) -> MomentSchema:
    """A resolved moment as JSON has it. ``points``: oldest first. A point at the moment's own write is
    ``point_before``."""
    before = [point for point in points if point.write <= resolved.write]
    after = [point for point in points if point.write > resolved.write]
    named = branch_moment(resolved.branch, resolved.branch_moment)
    moment = AtSnapshot(named) if resolved.branch else AtWrite(resolved.write)
    return MomentSchema(
        asked=asked,
        write=resolved.write,
        time=format_time(resolved.time_ns),
        time_ns=resolved.time_ns,
        export=_export(volume, moment, resolved.suspicion is not None),
        point_before=before[-1] if before else None,
        point_after=after[0] if after else None,
        note=resolved.note,
        suspect=suspect_schema(resolved.suspicion, points, elsewhere),
    )
