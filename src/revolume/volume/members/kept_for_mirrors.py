"""What an open primary keeps of its past for each mirror: given up in steps, and no longer than it is needed.

When the log has no other room, what is kept for an async mirror shrinks from the log to a pinned point (its
*pin*): folds go on, stop there, and rescue what they overwrite. When the disk has no room for that either, the
pin goes too: from then on it is only noted which blocks changed (the mirror's dirty region log,
``dirty/dirty_regions.py``), until the mirror has acknowledged durably that it stands where more is kept again.
What is kept for a required mirror does not give way.

When the link to a mirror is lost, a point is made at once (its *cut*), and pinned: the moment up to which it
had been fed. Between the loss and the cut nothing is waited for. The cut is recorded afterwards: a process that
is killed before that takes the last point for it when it opens again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.errors import NotFound, RevolumeError
from revolume.log.write.group_commit import GroupCommit
from revolume.volume.dirty.dirty_regions import DirtyRegions
from revolume.volume.members.base_start import point_of
from revolume.volume.members.kept_points import (
    arrived,
    jumping,
    kept_from,
    kept_of,
    log_given_up,
    nothing_kept,
    passing,
    standing,
)
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.mirror_records import Change, MirrorRecords
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_state import MirrorState
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.points.point_maker import PointMaker
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.holder import HolderKind
from revolume.volume.space.holders import Holders
from revolume.volume.state.events import EventKind, Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

CUTS_MEASURED = 200


class KeptForMirrors:
    """Of one open primary. ``written``: the last write's number; ``retired``: the write below which the log is
    being folded, or was."""

    def __init__(
        self,
        records: MirrorRecords,
        *,
        manifest: ManifestWriter,
        commit: GroupCommit,
        retained: RetainedPoints,
        holders: Holders,
        events: Events,
        tasks: UncancelledTasks,
        point_maker: PointMaker,
        written: Callable[[], WriteNumber],
        retired: Callable[[], WriteNumber],
        dirty: DirtyRegions,
    ) -> None:
        self._records = records
        self._manifest = manifest
        self._commit = commit
        self._retained = retained
        self._holders = holders
        self._events = events
        self._tasks = tasks
        self._point_maker = point_maker
        self._written = written
        self._retired = retired
        self._dirty = dirty
        self._lost: list[Mirror] = []
        self._cutting: asyncio.Task[None]
        self.cut_holds_ns: deque[int] = deque(maxlen=CUTS_MEASURED)
        for mirror in records:
            self._take_up(mirror)

    # After an opening

    def _take_up(self, mirror: Mirror) -> None:
        """Pins without which nothing is known of what changed are none. A mirror whose cut was not recorded any
        more was fed up to the last point at most."""
        recorded, state = self._manifest.state, mirror.state
        mirror.state = replace(
            state,
            pin=standing(recorded, state.pin),
            cut=standing(recorded, state.cut),
            jump=standing(recorded, state.jump),
        )
        newest = self._retained.newest
        lacks = mirror.joined and not mirror.lost and newest is not None and newest.number > mirror.state.point
        if lacks and newest is not None and mirror.state.cut is None:
            mirror.unrecorded_cut = kept_of(newest)
        self._records.hold(mirror)

    def start(self) -> None:
        """Record what was found out when the volume was opened."""
        recorded = {state.name: state for state in self._manifest.state.mirrors}
        for mirror in self._records:
            if mirror.unrecorded_cut is not None or mirror.state != recorded.get(mirror.name):
                self._tasks.begin(self._record_cut(mirror))

    async def _record_cut(self, mirror: Mirror) -> None:
        def cut(state: MirrorState) -> MirrorState:
            return replace(state, cut=mirror.cut if state.joined else None)

        try:
            await self._records.change(mirror, cut)
            if mirror.state.cut is not None:
                mirror.unrecorded_cut = None
        except RevolumeError as error:
            self._events.tell(f"the cut of mirror {mirror.name} is not recorded: {error}", EventKind.TROUBLE)

    # The link is lost

    async def cut(self, mirror: Mirror) -> Kept | None:
        """The link to a mirror is lost: the point made at this moment, or the newest if nothing was written
        since, is pinned until the mirror stands there. All that are lost in one turn of the loop have one
        point. A cut that it has not reached yet stays. None: no copy has joined, or no point can be made, which
        is told."""
        if not mirror.joined or mirror.cut is not None:
            return mirror.cut
        if not self._lost:
            self._cutting = asyncio.get_running_loop().create_task(self._tasks.finish(self._cut_now()))
        self._lost.append(mirror)
        await asyncio.shield(self._cutting)
        return mirror.cut

    async def _cut_now(self) -> None:
        lost, self._lost = self._lost, []
        release = self._holders.lease(HolderKind.UNDER_WAY, "the cut at a lost link", self._written())
        try:
            point = await self._point_maker.cut(self.cut_holds_ns.append) or point_of(self._manifest.state.horizon)
            for mirror in lost:
                self._pin_cut(mirror, kept_of(point))
        except RevolumeError as error:
            self._events.tell(f"no point could be made when a mirror's link was lost: {error}", EventKind.TROUBLE)
        finally:
            release()

    def _pin_cut(self, mirror: Mirror, cut: Kept) -> None:
        if not mirror.joined or mirror.cut is not None:
            return
        mirror.cut_hold_ns = self.cut_holds_ns[-1]
        mirror.unrecorded_cut = cut
        self._records.hold(mirror)
        self._tasks.begin(self._record_cut(mirror))

    @property
    def cut_hold_p99_ns(self) -> int:
        """Of 100 of the last cuts, 99 held writes no longer; 0: there was none."""
        holds = sorted(self.cut_holds_ns)
        return holds[(99 * len(holds) - 1) // 100] if holds else 0

    # It comes on

    async def advance_hold(self, mirror: Mirror) -> None:
        """Record that the log is needed only behind the newest point that the mirror holds durably, and let go of
        what was pinned for it up to there."""
        newest = newest_held(mirror, self._retained, self._retired())
        durable = min(mirror.durable, self._commit.durable)
        if newest is None and mirror.agreed_position > durable:
            return
        reached = mirror.agreed_point if mirror.agreed_position <= durable else newest.number if newest else 0

        def advanced(state: MirrorState) -> MirrorState:
            if newest is not None and self._moves(state, newest):
                state = replace(kept_from(state, newest), durable=max(state.durable, durable))
            return arrived(state, reached, self._newest_number)

        if advanced(mirror.state) != mirror.state or self._reaches_unrecorded(mirror, reached):
            await self._records.change_at(mirror, newest, advanced)
        await self._clear(mirror, reached)

    async def _clear(self, mirror: Mirror, reached: int) -> None:
        """It stands durably at the point of number ``reached``, or beyond it: its dirty region log is needed no
        more if log or a pinned point is kept for it at or before that."""
        if self._dirty.of(mirror.name) is None:
            return
        pin = mirror.state.pin
        if (mirror.state.kept and mirror.state.point <= reached) or (pin is not None and pin.point <= reached):
            await self._dirty.drop(mirror.name)

    def _moves(self, state: MirrorState, newest: Point) -> bool:
        """Whether the log is kept from a newer point from now on; or again, once a mirror for which it was
        given up lacks next to nothing."""
        if state.kept:
            return newest.number > state.point
        last = self._retained.newest
        return state.joined and bool(state.pinned) and last is not None and newest.number >= last.number - 1

    @property
    def _newest_number(self) -> int:
        newest = self._retained.newest
        return self._manifest.state.horizon.point if newest is None else newest.number

    def _reaches_unrecorded(self, mirror: Mirror, reached: int) -> bool:
        cut = mirror.unrecorded_cut
        if cut is None or reached < cut.point or reached == cut.point < self._newest_number:
            return False
        mirror.unrecorded_cut = None
        return True

    # It is brought on by a difference

    async def pin_jump(self, mirror: Mirror, since: Point | None = None, by: Point | None = None) -> Point:
        """The point to which a mirror is brought by a difference, made now, and the log is kept from it on; where
        the mirror stands is pinned until it is there: ``since``, None for what is known of that. ``by``: it is
        brought to this earlier point first. Durable. NotFound: it is not known any more what changed since."""
        with ExitStack() as pinned:
            pinned.callback(self._pinned_now(mirror, since))
            pinned.callback(self._pinned_now(mirror, by))
            return await self._jump_begun(mirror, since, by)

    def _pinned_now(self, mirror: Mirror, since: Point | None) -> Callable[[], None]:
        if since is None:
            return lambda: None
        pinned = since.write in self._holders.pinned_writes() and standing(self._manifest.state, kept_of(since))
        if since.write < self._retired() and not pinned:
            cause = f"It is not known any more what changed since cp{since.number}."
            raise NotFound("point-not-retained", cause, "The mirror needs another point, or a base.")
        return self._holders.lease(HolderKind.MIRROR, mirror.name, since.write, pinned=True)

    async def _jump_begun(self, mirror: Mirror, since: Point | None, by: Point | None) -> Point:
        point = by or await self._point_maker.begin()

        def jump(state: MirrorState) -> MirrorState:
            before = None if since is None else kept_of(since)
            if state.kept and before is None and state.pin is None:
                before = Kept(state.point, state.write, self._time_of(state.point))
            return jumping(state, point, before) if by is None else passing(state, point, before)

        await self._records.change_at(mirror, None if by else point, jump)
        return point

    async def jumped(self, mirror: Mirror) -> None:
        """It stands at the point to which it was brought, or beyond it, durably: its pins are let go of."""
        jump = mirror.state.jump
        reached = max(mirror.agreed_point, 0 if jump is None else jump.point)
        mirror.unrecorded_cut = None
        await self._records.change(mirror, lambda state: arrived(state, reached))

    # Something has to go

    async def drop_hold(self) -> bool:
        """There is no other room in the log: give up what is kept longest for an async mirror, and pin where that
        stands. Whether there was one."""
        held = [m for m in self._records if m.state.kept and not m.firm]
        if not held:
            return False
        mirror = min(held, key=lambda m: m.state.write)
        name = mirror.name
        self._events.tell(
            f"the log has no more room for what mirror {name} lacks: from now on only the difference is kept for "
            f"mirror {name}"
            if mirror.joined
            else f"the log has no more room for the base of mirror {name}: it will begin anew"
        )

        def given_up(state: MirrorState) -> MirrorState:
            if state.firm or not state.kept:
                return state
            return log_given_up(state, self._time_of(state.point))

        await self._records.change(mirror, given_up)
        return True

    async def drop_pin(self) -> frozenset[WriteNumber]:
        """Not even the disk has room for what is pinned: give up a cut, else what an async mirror has left: it is
        noted from then on which blocks change. The moments that are not pinned for it any more; empty: there was
        nothing."""
        cuts = [m for m in self._records if m.cut is not None]
        if cuts:
            mirror = min(cuts, key=lambda m: m.cut.write if m.cut is not None else 0)
            return await self._dropped(mirror, lambda state: replace(state, cut=None))
        pinned = [m for m in self._records if m.state.pinned and not m.firm]
        if not pinned:
            return frozenset()
        mirror = min(pinned, key=lambda m: min(kept.write for kept in m.state.pinned))
        async with self._dirty.busy:  # no fold goes on between the file and the end of the pins
            goes_on = await self._noted(mirror)
            self._events.tell(
                f"the disk has no more room for what has changed since mirror {mirror.name} was lost: {goes_on}"
            )
            return await self._dropped(mirror, lambda state: state if state.firm else nothing_kept(state))

    async def _noted(self, mirror: Mirror) -> str:
        """How it goes on with a mirror whose pins have to go. What is noted for it goes on to be: it may not have
        come beyond that."""
        noted = "from now on it is only noted which blocks change"
        if self._dirty.of(mirror.name) is not None:
            return noted
        since = None if mirror.state.pin is None else self._moment(mirror.state.pin)
        if since is None:
            return "it must be compared as a whole"
        try:
            await self._dirty.begin(mirror.name, since)
        except (RevolumeError, OSError) as error:
            return f"it must be compared as a whole, since not even that can be noted ({error})"
        return noted

    def _moment(self, pin: Kept) -> Point | None:
        """What is known of a pinned moment; None: nothing."""
        state = self._manifest.state
        known = [point_of(each) for each in (state.horizon, *(rescue.moment for rescue in state.rescues))]
        found = (each for each in (*known, *self._retained) if (each.number, each.write) == (pin.point, pin.write))
        return next(found, None)

    async def _dropped(self, mirror: Mirror, change: Change) -> frozenset[WriteNumber]:
        before = {kept.write for kept in (*mirror.state.pinned, mirror.cut) if kept is not None}
        mirror.unrecorded_cut = None
        await self._records.change(mirror, change)
        return frozenset(before - {kept.write for kept in mirror.state.pinned})

    def _time_of(self, number: int) -> int:
        horizon = self._manifest.state.horizon
        times = {point.number: point.time_ns for point in self._retained} | {horizon.point: horizon.time_ns}
        return times.get(number, 0)

    # What is shown

    def fold_blocker(self) -> str:
        """Name of the required mirror for which more of the log is kept than for anybody else, and which lacks a
        point: the log can be folded once it has caught up. "": there is none."""
        newest = self._retained.newest
        required = [
            m for m in self._records
            if m.firm and m.state.kept and newest is not None and m.state.point < newest.number
        ]  # fmt: skip
        if not required:
            return ""
        last = min(required, key=lambda m: m.state.write)
        others = [each for each in self._holders.firm() if each.kind != HolderKind.REQUIRED_MIRROR]
        return last.name if all(last.state.write < other.write for other in others) else ""


def newest_held(
    mirror: Mirror, retained: Iterable[Point], retired_write: WriteNumber = WriteNumber(0)
) -> Point | None:
    """The newest of these points, oldest first, that the mirror holds durably, and that ends at ``retired_write``
    or behind it; None: it holds none."""
    reached = min(mirror.durable, mirror.agreed_position)
    held = [point for point in retained if point.position <= reached and point.write >= retired_write]
    return held[-1] if held else None
