"""A stopped volume's past, read and not touched: what ``status`` and ``points`` say without opening it.

Opening a volume begins an epoch and, after a crash, writes the end of its log anew. A question must do
neither, so here the same walk over manifest and log is made over files opened for reading, and nothing is
kept from it but plain values: points, sizes, and the columns, in which a moment is looked up. The
directory's lock is held meanwhile: what is read must not move.

    manifest → what of the log stands (``log/read/recovery.py``) → points, sizes, times

A mirror's log goes on behind the last point that it has agreed on; its past ends there.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.history.label_scale import LabelSearch, LabelStretch, label_stretches
from revolume.history.moments import Moment
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.resolver import MomentResolver, last_write
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.host.open_files import OpenFiles
from revolume.log.format.columns import Columns, ColumnsBuilder, resizes
from revolume.log.format.segment import Segment, segment_name
from revolume.log.read.recovery import Recovered, recover, stated_durable, stated_edit
from revolume.log.read.scan import FoundTransfer
from revolume.log.write.appender import LogEnd
from revolume.volume.branches.listed import branch_statuses
from revolume.volume.branches.names import write_on
from revolume.volume.clocks.label_clock import ClockStep, LabelClock
from revolume.volume.jump.landing import after_landing
from revolume.volume.livemap.point_records import read_points as sealed_points
from revolume.volume.livemap.point_records import read_steps
from revolume.volume.metadata import layout
from revolume.volume.metadata.directory_lock import locked
from revolume.volume.metadata.manifest import judge_end, load
from revolume.volume.metadata.manifest_state import Role, State
from revolume.volume.points.isolated_points import isolated_points, listed_snapshots
from revolume.volume.space.kept_history import KeptHistory, stopped_history
from revolume.volume.space.oldest_moment import oldest_moment
from revolume.volume.state.status import HolderStatus, OldestMoment, Snapshot, VolumeStatus, jump_status
from revolume.volume.suspect.other_copies import other_copies
from revolume.volume.suspect.periods import SuspectPeriods, suspect_statuses
from revolume.volume.suspect.suspect_history import load_marks
from revolume.volume.unread import Unread, suspect

CRASHED = "It was not closed cleanly; the end of its log is recovered when it is opened."


@dataclass(frozen=True, slots=True)
class OfflineVolume:
    """A stopped volume's metadata and log columns, read once: plain values, for ``status``, ``points`` and
    ``snapshot``. Nothing in it refers to open files."""

    directory: str
    state: State
    end: LogEnd
    size: int
    kept_points: tuple[Point, ...]
    pieces: tuple[Columns, ...]  # of the log since the horizon, oldest first
    steps: tuple[ClockStep, ...]
    now_ns: int
    """What its labels would say now."""
    wall_ns: int
    image_bytes: int
    unread: str
    """The newest point whose record can't be read, in a sentence; else empty."""
    suspect: SuspectPeriods
    """Which of its moments are suspect."""

    @property
    def newest(self) -> tuple[WriteNumber, int]:
        """The newest moment that can be opened: write number and label time."""
        if self.state.role == Role.PRIMARY:
            return self.end.write, self.end.time_ns
        last = self.kept_points[-1] if self.kept_points else self.state.horizon
        return last.write, last.time_ns

    @property
    def oldest(self) -> OldestMoment:
        """The first moment that can be opened."""
        return oldest_moment(self.state.horizon, self.state.folding, self.kept_points)

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def suspect_periods(self) -> SuspectPeriods:
        """Which of its moments are suspect."""
        return self.suspect

    @property
    def elsewhere(self) -> str:
        """Where the volume's other copies are, for a sentence."""
        return other_copies(self.state)

    def branch_write(self, branch: str, moment: str) -> WriteNumber:
        """The last write of a branch, or of a moment within it."""
        return write_on(self.state, branch, moment)

    def points(self) -> list[Point]:
        """The retained points, oldest first; before the oldest moment, those of snapshots alone."""
        return isolated_points(self.state, self.state.kept_writes(), self.oldest.write) + list(self.kept_points)

    def snapshots(self) -> list[Snapshot]:
        """The named moments, oldest first."""
        return listed_snapshots(self.state, self.newest[0])

    def kept(self) -> KeptHistory:
        """What is kept by the policy that is recorded."""
        log_bytes = len(self.pieces) * self.state.segment_blocks * BLOCK
        return stopped_history(self.state, len(self.kept_points), log_bytes, self.oldest.time_ns)

    def status(self) -> VolumeStatus:
        """The status that the volume had when it was stopped; counters of a running volume are 0."""
        state, horizon = self.state, self.state.horizon
        clean = state.clean is not None
        reason = "It was closed cleanly." if clean else CRASHED
        epoch = max((epoch.number for epoch in state.epochs), default=0)
        segment_bytes = state.segment_blocks * BLOCK
        return VolumeStatus(
            name=self.name,
            directory=self.directory,
            volume_id=state.volume.hex(),
            size=self.size,
            epoch=epoch,
            state="stopped",
            reason=f"{reason} History is suspect: {self.unread}." if self.unread else reason,
            position=self.end.position,
            durable=self.end.position if clean else state.durable.position,
            write=self.newest[0],
            time_ns=self.newest[1],
            point=self.kept_points[-1].number if self.kept_points else horizon.point,
            points=len(self.kept_points),
            horizon_write=self.oldest.write,
            horizon_time_ns=self.oldest.time_ns,
            log_bytes=len(self.pieces) * segment_bytes,
            log_budget_bytes=state.budget,
            log_ready_bytes=(len(state.uses) - len(self.pieces)) * segment_bytes,
            image_bytes=self.image_bytes,
            partial_blocks=0,
            map_entries=0,
            map_bytes=0,
            holders=tuple(
                HolderStatus(
                    pin.holder or f"snapshot {pin.name}",
                    pin.write,
                    gives_way=bool(pin.holder) and not pin.branch,
                    bytes=pin.rescued_bytes,
                    pinned=True,
                )
                for pin in self.snapshots()
                if not pin.branch_moment
            ),
            snapshots=tuple(self.snapshots()),
            branches=branch_statuses(self.state),
            folding=False,
            folds=0,
            folded_blocks=0,
            syncs=0,
            transfers=sum(len(columns.rows) for columns in self.pieces),
            read_mismatches=0,
            events=(),
            jump=jump_status(state.jump),
            suspect=suspect_statuses(self.suspect),
        )

    # Moments

    def resolve(self, moment: Moment) -> ResolvedMoment:
        """The write that a moment means. NotFound, naming the oldest and newest moments, if it is not retained."""
        return MomentResolver(self).resolve(moment)

    def stretches(self) -> list[LabelStretch]:
        """What clocks made the labels of this history."""
        return label_stretches(self.steps, self.oldest, self.now_ns)

    def last_write(self, number: WriteNumber) -> ResolvedMoment:
        """The write of this number, or the last before it, if a crash left the number out; and its time."""
        best = self.oldest.write, self.oldest.time_ns
        for columns in self.pieces:
            best = max(best, last_write(columns, number))
        return ResolvedMoment(*best)

    def columns_for(self, search: LabelSearch) -> tuple[WriteNumber, tuple[Columns, ...]]:
        """All there are: a stopped volume is asked once."""
        return search.stretch.after, self.pieces


def open_offline(host: Host, path: str) -> OfflineVolume:
    """Read the stopped volume in ``path`` without changing anything in it. NotFound: there is none. Damaged: its
    manifest or its log is. Refused: it is running."""
    with closing(locked(host, path, "Try again when it is served, or has stopped.")) as directory:
        return _read(host, directory)


def _read(host: Host, directory: Directory) -> OfflineVolume:
    loaded, log = load(directory), directory.child(layout.LOG)
    state = after_landing(loaded.state)
    judge_end(loaded.number, stated_edit(log, state.segment_blocks, state.volume))
    segments = _segments(log, state)
    try:
        found = _recovered(segments, state)
        pieces = [(piece.segment, piece.columns) for piece in found.pieces] + _tail(found.tail)
        unread: list[Unread] = []
        points, _ = sealed_points(state.volume, pieces, state.horizon, None, unread)
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
    return OfflineVolume(
        directory=directory.path,
        state=state,
        end=found.end,
        size=sizes[-1] if sizes else state.horizon.size,
        kept_points=tuple(points),
        pieces=columns,
        steps=tuple(steps),
        now_ns=LabelClock.opened(host.clock, state.clock, steps, found.end.time_ns).now_ns(),
        wall_ns=host.clock.wall_ns(),
        image_bytes=_image_bytes(directory),
        unread=suspect(unread, state.horizon.write),
        suspect=SuspectPeriods(load_marks(directory, loaded.state)),
    )


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
        stated, _ = stated_durable(segments, state.volume, state.cut)
        durable = max(stated, state.durable.position, horizon.position)
    return recover(segments, state.volume, start, horizon.address, durable, state.ends)


def _tail(tail: list[FoundTransfer]) -> list[tuple[Segment, Columns]]:
    """Columns of what stands above the durable position; opening would write these transfers anew."""
    builders: dict[int, tuple[Segment, ColumnsBuilder]] = {}
    for found in tail:
        segment = found.segment
        _, builder = builders.setdefault(segment.use, (segment, ColumnsBuilder(segment.base)))
        builder.add_transfer(found.transfer, found.block, found.node_header.lived_ns)
    return [(segment, builder.freeze()) for segment, builder in builders.values()]


def _image_bytes(directory: Directory) -> int:
    if not directory.exists(layout.IMAGE):
        return 0
    image = directory.open(layout.IMAGE, write=False)
    try:
        return image.size()
    finally:
        image.close()
