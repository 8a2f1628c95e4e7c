"""The mirrors of an open primary: who they are, what of the log is kept for each, and what answers wait for.

*Required* is a sync mirror that has joined: base and log have met there. From then on the mirror is that one copy,
by its node id, and no other. It becomes so durably, and ceases only by a durable order, ``detach`` or ``replace``;
a plain write is answered once it is in the log file of every required mirror, a flush once it is durable there.

For each mirror the log is kept behind the newest point that it holds durably (while its base is under way: the
point at which the shipped log will begin). What is recorded of that lags behind what is known, never the reverse.
What is given up when there is no room, and what a lost link pins, is the business of ``kept_for_mirrors.py``.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from revolume.blocks.numbers import Position, WriteNumber
from revolume.chain.point import Point
from revolume.errors import NotFound, Refused
from revolume.host.clock import Clock
from revolume.log.write.group_commit import GroupCommit
from revolume.volume.dirty.dirty_regions import DirtyRegions
from revolume.volume.members.kept_for_mirrors import KeptForMirrors, newest_held
from revolume.volume.members.kept_points import kept_from
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.mirror_records import MirrorRecords
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.on_lost import AS_IT_IS, AskedOnLost
from revolume.volume.metadata.resync_order import ResyncOrder
from revolume.volume.points.point_maker import PointMaker
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.holders import Holders
from revolume.volume.state.events import EventKind, Events
from revolume.volume.uncancelled_tasks import UncancelledTasks


class Mirrors:
    """All mirrors of an open primary. ``kept``: what is kept of the past for each. ``written`` is the last write's
    number, ``retired`` the write below which the log is being folded, or was. ``changed`` is called when
    something else is recorded of one."""

    def __init__(
        self,
        volume_name: str,
        *,
        manifest: ManifestWriter,
        commit: GroupCommit,
        retained: RetainedPoints,
        holders: Holders,
        events: Events,
        tasks: UncancelledTasks,
        point_maker: PointMaker,
        clock: Clock,
        written: Callable[[], WriteNumber],
        retired: Callable[[], WriteNumber],
        dirty: DirtyRegions,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._volume_name = volume_name
        self._manifest = manifest
        self._retained = retained
        self._events = events
        self._begin = point_maker.begin
        self._retired = retired
        self._state_change = changed
        self.on_change: Callable[[], None] = lambda: None
        self._clock = clock
        self._released: list[tuple[Position, int, Callable[[], None]]] = []
        self._count = 0
        self._records = MirrorRecords(manifest=manifest, holders=holders, tasks=tasks, changed=self._changed)
        self.records = self._records
        self.kept = KeptForMirrors(
            self._records,
            manifest=manifest,
            commit=commit,
            retained=retained,
            holders=holders,
            events=events,
            tasks=tasks,
            point_maker=point_maker,
            written=written,
            retired=retired,
            dirty=dirty,
        )

    def __iter__(self) -> Iterator[Mirror]:
        return iter(self._records.known.values())

    def get(self, name: str) -> Mirror:
        """NotFound if there is none of that name."""
        if name not in self._records.known:
            known = ", ".join(self._records.known) or "none"
            raise NotFound("no-mirror", f"{self._volume_name} has no mirror {name}.", f"It has: {known}.")
        return self._records.known[name]

    # Membership, durable

    async def register(
        self,
        name: str,
        mode: MirrorMode,
        peer: str | None = None,
        address: str | None = None,
        history: History | None = None,
        lost: AskedOnLost = AS_IT_IS,
    ) -> Mirror:
        """A mirror of this name and mode. A known one keeps everything but its mode and what else is given: the
        name that its certificate must have, its address, how much of the past a base of it begins with, what
        becomes of answers when it is ``lost``."""
        if name not in self._records.known:
            self._records.known[name] = Mirror(MirrorState.unjoined(name, mode))
        mirror = self._records.known[name]
        asked: dict[str, Any] = {"mode": mode, "peer": peer, "address": address, "history": history}
        given = {field: value for field, value in asked.items() if value is not None}

        def changed(state: MirrorState) -> MirrorState:
            return replace(state, **given, on_lost=lost.applied(state.on_lost))

        known, wanted = name in {m.name for m in self._manifest.state.mirrors}, changed(mirror.state)
        if not known or mirror.state != wanted:
            if wanted.mode == MirrorMode.ASYNC or wanted.on_lost.lease_ms < mirror.state.on_lost.lease_ms:
                await self._lease_ran_out(mirror)
            await self._records.change(mirror, changed)
            mirror.lease.stopped = mirror.detached
        return mirror

    async def _lease_ran_out(self, mirror: Mirror) -> None:
        """Before something becomes less by an order than what the mirror takes for sure."""
        mirror.lease.stopped = True
        try:
            await mirror.lease.ran_out(self._clock)
        except BaseException:
            mirror.lease.stopped = mirror.detached
            raise

    async def pin_base(self, mirror: Mirror, start: Point | None = None) -> Point:
        """The point at which a new mirror begins, kept for it from now on: ``start``, or one that is made now.
        Refused once a copy has joined: answers may rest on it."""
        if mirror.joined:
            raise Refused(
                "member-replaced", f"A copy has joined as mirror {mirror.name}; no other begins in its place.",
                f"Give it up first: 'revolume mirror replace DIR {mirror.name}'.",
            )  # fmt: skip
        point = start or await self._begin()

        def begun(state: MirrorState) -> MirrorState:
            return kept_from(replace(state, since=point.write, based=False, moments=False), point)

        await self._records.change_at(mirror, point, begun)
        return point

    async def unpin_base(self, mirror: Mirror) -> None:
        """A base is not begun after all."""
        await self._records.change(mirror, lambda state: replace(kept_from(state, None), since=None))

    async def joined(self, mirror: Mirror, node: bytes, advertised: str = "") -> None:
        """Base and log have met in the copy of this node, which the mirror is from now on. A sync mirror is
        required from now on. If nothing of the log was kept for it, it is kept again from where it stands.
        Refused if what was kept is given up at this moment. ``advertised``: where it says that other nodes reach
        it."""
        point = (
            None
            if mirror.state.kept
            else newest_held(mirror, self._retained, self._retired()) or await self._begin()
        )

        def join(state: MirrorState) -> MirrorState:
            if not state.kept:
                if point is None:
                    cause = f"What was kept for mirror {mirror.name} was given up while it was about to join."
                    raise Refused("mirror-given-up", cause, "It connects anew by itself.")
                state = kept_from(state, point)
            lost = state.on_lost if state.joined else state.on_lost.afresh()
            return replace(state, joined=True, node=node, advertised=advertised, on_lost=lost)

        await self._records.change_at(mirror, point, join)

    async def detach(self, name: str) -> None:
        """Give a mirror up: nothing waits for it and nothing is kept for it any more. If it has a lease, not
        before that has run out."""
        mirror = self.get(name)
        await self._lease_ran_out(mirror)
        await self._records.drop(mirror, lambda: self._detached(mirror))

    def _changed(self, mirror: Mirror) -> None:
        mirror.settle()
        self._release()
        mirror.lease.offer()
        self.on_change()
        self._state_change()

    @staticmethod
    def _detached(mirror: Mirror) -> None:
        mirror.state = replace(mirror.state, joined=False)

    async def replace(self, name: str) -> Mirror:
        """Forget which copy the mirror is: nothing waits for that copy and nothing is kept for it any more, and
        the next one that joins is the mirror."""
        mirror = self.get(name)
        await self._lease_ran_out(mirror)
        await self._records.change(mirror, forgotten)
        mirror.lease.stopped = False
        mirror.forget_copy()
        return mirror

    async def ordered(self, mirror: Mirror, order: ResyncOrder) -> None:
        """This is what is ordered of how it is brought up to date, durably, in place of what was."""
        if mirror.state.order != order:
            await self._records.change(mirror, lambda state: replace(state, order=order))

    # What is kept

    async def based(self, mirror: Mirror, with_moments: bool = False) -> None:
        """Its base is complete, and earlier pinned moments came ``with_moments`` before it; or it is a whole copy
        that another source fed. What is kept for a sync mirror does not give way from now on."""
        point = None if mirror.state.kept else newest_held(mirror, self._retained, self._retired())

        def complete(state: MirrorState) -> MirrorState:
            if point is not None and not state.kept:
                state = kept_from(state, point)
            return replace(state, based=True, moments=with_moments or state.moments)

        await self._records.change_at(mirror, point, complete)

    async def advance_hold(self, mirror: Mirror) -> None:
        """Less is kept for it: it has agreed on a newer point, durably."""
        await self.kept.advance_hold(mirror)

    async def drop_hold(self) -> bool:
        """There is no other room in the log: give up what is kept of it longest for an async mirror."""
        return await self.kept.drop_hold()

    def fold_blocker(self) -> str:
        """Name of the required mirror for which the log is kept, and can be folded once it has caught up; or
        ""."""
        return self.kept.fold_blocker()

    # Promises

    def connected(self, mirror: Mirror, there: Positions) -> None:
        """A session begins, and this is what the copy has now. If that is less than it had acknowledged as
        durable, an event says so."""
        mirror.begin_session(there)
        if mirror.level_at:
            self._events.tell(less_than_acknowledged(mirror), EventKind.TROUBLE)

    def acknowledged(self, mirror: Mirror, now: Positions) -> None:
        """The mirror has come so far: answers that waited for it are released."""
        if mirror.acknowledge(now):
            self._events.tell(f"mirror {mirror.name} has everything again that it had acknowledged")
        if self._released:
            self._release()

    def released(self, position: Position) -> bool:
        """Whether every required mirror has received everything up to ``position``."""
        return all(m.received >= position for m in self._records.known.values() if m.required)

    def oldest_lacked(self, mirror: Mirror) -> Position | None:
        """The first position that an answer waits for and this mirror has not received."""
        return min((position for position, _, _ in self._released if position > mirror.received), default=None)

    def on_release(self, position: Position, callback: Callable[[], None]) -> None:
        """Call back once ``released(position)``."""
        if self.released(position):
            callback()
            return
        self._count += 1
        heapq.heappush(self._released, (position, self._count, callback))

    def _release(self) -> None:
        while self._released and self.released(self._released[0][0]):
            heapq.heappop(self._released)[2]()

    def ask_durable(self, position: Position) -> None:
        """Have every required mirror make this position durable: somebody is about to wait for it."""
        for mirror in self:
            if mirror.required and mirror.durable < position:
                mirror.ask_durable(position)

    async def wait_durable(self, position: Position) -> None:
        """Return once everything up to ``position`` is durable at every required mirror."""
        required = [m for m in self if m.required and m.durable < position]
        if required:
            await asyncio.gather(*(m.wait_durable(position) for m in required))


def forgotten(state: MirrorState) -> MirrorState:
    """Of a mirror whose copy was given up by an order: another one may become it."""
    mirror, lost = MirrorState.unjoined(state.name, state.mode), state.on_lost
    return replace(mirror, peer=state.peer, address=state.address, history=state.history, on_lost=lost.afresh())


def less_than_acknowledged(mirror: Mirror) -> str:
    """What is told of a copy that came back with less than it had acknowledged as durable."""
    return (
        f"mirror {mirror.name} has come back with less than it had acknowledged: it holds the log durably up to "
        f"position {mirror.durable}, and had acknowledged {mirror.level_at}. Its directory is an older state of "
        "itself, or its disk lost what it had synced. It proves nothing until it has caught up."
    )


def missing(name: str) -> Refused:
    """A required mirror was left out."""
    return Refused(
        "mirror-missing",
        f"Mirror {name} is required: answered writes may live only there.",
        f"Give --mirror-to for it, or give it up with 'revolume detach DIR {name}'.",
    )
