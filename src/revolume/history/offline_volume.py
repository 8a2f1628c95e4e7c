"""A stopped volume's past, read and not touched: what ``status`` and ``points`` say without opening it.

Opening a volume begins an epoch and, after a crash, writes the end of its log anew. A question must do
neither, so here the same walk over manifest and log is made over files opened for reading, and nothing is
kept from it but plain values: points, sizes, and the columns, in which a moment is looked up. The
directory's lock is held meanwhile: what is read must not move.

    manifest → what of the log stands (``log/tail.py``) → points, sizes, times

A mirror's log goes on behind the last point that it has agreed on; its past ends there.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

from revolume.chain.point import Point
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
from revolume.history.timeline import Spot, ambiguity, last_write
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.host.open_files import OpenFiles
from revolume.log.appender import LogEnd
from revolume.log.columns import Columns, ColumnsBuilder, resizes
from revolume.log.scan import Found
from revolume.log.segment import Segment, segment_name
from revolume.log.tail import Recovered, recover, stated_durable, stated_edit
from revolume.log.transfer import BLOCK, Kind
from revolume.volume import layout
from revolume.volume.label_clock import ClockStep, LabelClock
from revolume.volume.locked import locked
from revolume.volume.manifest import PinnedSnapshot, Role, State, judge_end, load
from revolume.volume.oldest import oldest_moment
from revolume.volume.replay import read_points as sealed_points
from revolume.volume.replay import read_steps
from revolume.volume.status import Holder, OldestMoment, Snapshot, VolumeStatus


@dataclass(frozen=True, slots=True)
class StoppedVolume:
    """One look at a stopped volume."""

    directory: str
    state: State
    end: LogEnd
    size: int
    kept: tuple[Point, ...]
    pieces: tuple[Columns, ...]  # of the log since the horizon, oldest first
    steps: tuple[ClockStep, ...]
    now_ns: int
    """What its labels would say now."""
    wall_ns: int
    image_bytes: int

    @property
    def newest(self) -> tuple[int, int]:
        """The newest moment that can be opened: write number and label time."""
        if self.state.role == Role.PRIMARY:
            return self.end.write, self.end.time_ns
        last = self.kept[-1] if self.kept else self.state.horizon
        return last.write, last.time_ns

    @property
    def oldest(self) -> OldestMoment:
        """The first moment that can be opened."""
        return oldest_moment(self.state.horizon, self.state.folding, self.kept)

    @property
    def _oldest_spot(self) -> Spot:
        return Spot(self.oldest.write, self.oldest.time_ns)

    @property
    def name(self) -> str:
        return self.state.name

    def points(self) -> list[Point]:
        """The retained points, oldest first."""
        return list(self.kept)

    def snapshots(self) -> list[Snapshot]:
        """The named moments, oldest first."""
        pins = sorted(self.state.snapshots, key=lambda pin: pin.write)
        return [_snapshot(pin) for pin in pins]

    def status(self) -> VolumeStatus:
        """Plain values, as they were left."""
        state, horizon = self.state, self.state.horizon
        clean = state.clean is not None
        epoch = max((epoch.number for epoch in state.epochs), default=0)
        segment_bytes = state.segment_blocks * BLOCK
        return VolumeStatus(
            name=self.name,
            directory=self.directory,
            volume_id=state.volume.hex(),
            size=self.size,
            epoch=epoch,
            state="stopped",
            reason="Cleanly." if clean else "Not cleanly: the end of its log is recovered when it is opened.",
            position=self.end.position,
            durable=self.end.position if clean else state.durable.position,
            write=self.newest[0],
            time_ns=self.newest[1],
            point=self.kept[-1].number if self.kept else horizon.point,
            points=len(self.kept),
            horizon_write=self.oldest.write,
            horizon_time_ns=self.oldest.time_ns,
            log_bytes=len(self.pieces) * segment_bytes,
            log_budget_bytes=state.budget,
            log_ready_bytes=(len(state.uses) - len(self.pieces)) * segment_bytes,
            image_bytes=self.image_bytes,
            partial_blocks=0,
            map_entries=0,
            map_bytes=0,
            holders=tuple(Holder(f"snapshot {pin.name}", pin.write) for pin in self.snapshots()),
            snapshots=tuple(self.snapshots()),
            folding=False,
            folds=0,
            folded_blocks=0,
            syncs=0,
            transfers=sum(len(columns.rows) for columns in self.pieces),
            read_mismatches=0,
            events=(),
        )

    # Moments

    def resolve(self, moment: Moment) -> Spot:
        """The write that a moment means. NotFound if it is not retained."""
        match moment:
            case Ago(seconds):
                return self._ago(seconds * 10**9)
            case AtTime(time_ns):
                return self._at_time(time_ns)
            case AtWrite(number):
                return self._at_write(number)
            case AtPoint(number):
                return self._at_point(number)
            case AtSnapshot(name):
                return self._at_snapshot(name)
            case _:
                return self._at_write(self.newest[0])

    def _at_point(self, number: int) -> Spot:
        for point in self.kept:
            if point.number == number:
                return Spot(point.write, point.time_ns)
        raise self._lost(f"Point cp{number}")

    def _at_snapshot(self, name: str) -> Spot:
        for snapshot in self.snapshots():
            if snapshot.name == name:
                return Spot(snapshot.write, snapshot.time_ns)
        names = ", ".join(s.name for s in self.snapshots()) or "none"
        raise NotFound("no-snapshot", f"{self.name} has no snapshot {name}.", f"It has: {names}.")

    def _at_write(self, number: int) -> Spot:
        oldest = self._oldest_spot
        if number == oldest.write:
            return oldest
        if not oldest.write < number <= self.newest[0]:
            raise self._lost(f"Write w{number}")
        best = (oldest.write, oldest.time_ns)
        for columns in self.pieces:  # a number that a crash left out means the last write before it
            best = max(best, last_write(columns, number))
        return Spot(*best)

    def _ago(self, ago_ns: int) -> Spot:
        sought = seek_ago(self._stretches(), ago_ns)
        if sought is None:
            raise self._lost(f"What was {ago_ns // 10**9} s ago")
        return self._found(sought)

    def _at_time(self, time_ns: int) -> Spot:
        stretches = self._stretches()
        if time_ns > self.wall_ns and in_future(stretches, time_ns):
            raise NotFound(
                "moment-in-future", f"{format_time(time_ns)} has not happened yet.", "Name a moment of the past."
            )
        sought = seek_time(stretches, time_ns)
        if sought is None:
            raise self._lost(format_time(time_ns))
        return self._found(sought)

    def _stretches(self) -> list[LabelStretch]:
        return label_stretches(self.steps, self.oldest, self.now_ns)

    def _found(self, sought: Sought) -> Spot:
        stretch, best = sought.stretch, self._oldest_spot
        for columns in self.pieces:
            rows = columns.rows[(columns.rows["kind"] == Kind.WRITES) & (columns.rows["entries"] > 0)]
            rows = rows[(rows["write"] > stretch.after) & (rows["write"] <= stretch.upto)]
            rows = rows[rows["time_ns"] <= sought.time_ns]
            if len(rows):
                last = rows[-1]
                write = int(last["write"] + last["entries"] - 1)
                best = Spot(write, int(last["time_ns"])) if write > best.write else best
        if best.write < stretch.after:
            best = self._at_write(min(stretch.after, self.newest[0]))
        if best.write > self.newest[0]:
            best = Spot(*self.newest)
        return replace(best, note=ambiguity(sought))

    def _lost(self, what: str) -> NotFound:
        old, (write, time_ns) = self.oldest, self.newest
        hint = (
            f"The oldest moment is w{old.write} ({format_time(old.time_ns)}), "
            f"the newest w{write} ({format_time(time_ns)}); see 'revolume points'."
        )
        return NotFound("moment-not-retained", f"{what} of {self.name} is not retained.", hint)


def look(host: Host, path: str) -> StoppedVolume:
    """Look at the stopped volume in ``path``. NotFound, Damaged; Refused while it is open."""
    with closing(locked(host, path, "Ask again when it serves, or has stopped.")) as directory:
        return _look(host, directory)


def _look(host: Host, directory: Directory) -> StoppedVolume:
    loaded, log = load(directory), directory.child(layout.LOG)
    state = loaded.state
    judge_end(loaded.number, stated_edit(log, state.segment_blocks, state.volume))
    segments = _segments(log, state)
    try:
        found = _recovered(segments, state)
        pieces = [(piece.segment, piece.columns) for piece in found.pieces] + _tail(found.tail)
        points, _ = sealed_points(state.volume, pieces, state.horizon)
        agreed = state.agreed.position if state.role == Role.SECONDARY else None
        steps = read_steps(state.volume, pieces, state.horizon, agreed)
    finally:
        for segment in segments:
            segment.file.close()
    upto = found.end.write
    if state.role == Role.SECONDARY:
        points = [point for point in points if point.number <= state.agreed.point]
        upto = state.agreed.write
    columns = tuple(columns for _, columns in pieces)
    sizes = [size for piece in columns for write, size in resizes(piece) if state.horizon.write < write <= upto]
    return StoppedVolume(
        directory.path, state, found.end, sizes[-1] if sizes else state.horizon.size, tuple(points), columns,
        tuple(steps), LabelClock.opened(host.clock, state.clock, steps, found.end.time_ns).now_ns(),
        host.clock.wall_ns(), _image_bytes(directory),
    )  # fmt: skip


def _segments(log: Directory, state: State) -> list[Segment]:
    """The files of the log since the horizon, in order of use; after a clean stop not the ones made ready."""
    first = state.horizon.address // state.segment_blocks
    last = state.clean.address // state.segment_blocks if state.clean is not None else None
    uses = sorted((use, index) for index, use in state.uses.items() if use and use >= first)
    files = OpenFiles(log, write=False)
    return [
        Segment(index, use, state.segment_blocks, files.file(segment_name(index)))
        for use, index in uses
        if last is None or use <= last
    ]


def _recovered(segments: list[Segment], state: State) -> Recovered:
    horizon = state.horizon
    start = LogEnd(horizon.position, horizon.chain, horizon.write, horizon.time_ns)
    if state.clean is not None:
        durable = state.clean.position
    else:
        stated, _ = stated_durable(segments, state.volume)
        durable = max(stated, state.durable.position, horizon.position)
    return recover(segments, state.volume, start, horizon.address, durable, state.ends)


def _tail(tail: list[Found]) -> list[tuple[Segment, Columns]]:
    """Columns of what stands above the durable position; opening would write these transfers anew."""
    builders: dict[int, tuple[Segment, ColumnsBuilder]] = {}
    for found in tail:
        segment = found.segment
        _, builder = builders.setdefault(segment.use, (segment, ColumnsBuilder(segment.base)))
        builder.add_transfer(found.transfer, found.block, found.local.lived_ns)
    return [(segment, builder.freeze()) for segment, builder in builders.values()]


def _image_bytes(directory: Directory) -> int:
    if not directory.exists(layout.IMAGE):
        return 0
    image = directory.open(layout.IMAGE, write=False)
    try:
        return image.size()
    finally:
        image.close()


def _snapshot(pin: PinnedSnapshot) -> Snapshot:
    return Snapshot(pin.name, pin.write, pin.point, pin.time_ns)
