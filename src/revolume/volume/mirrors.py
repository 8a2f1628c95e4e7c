"""What a primary knows of its mirrors: durably, who they are and what of the log is kept for each; while it
runs, how far each has come.

A mirror's positions only move by its acknowledgements, and begin anew with every session: what a copy had said
before proves nothing of what it has now. *Required* is a sync mirror that has joined: base and log have met there.
From then on the mirror is that one copy, by its node id, and no other. It becomes so durably, and ceases only by a
durable order, ``detach`` or ``replace``; a plain write is answered once it is in the log file of every required
mirror, a flush once it is durable there.

For each mirror the log is kept behind the newest point that it holds durably (while its base is under way: the
point at which the shipped log will begin). What is recorded of that lags behind what is known, never the reverse.
An async mirror's hold is dropped when the log has no other room: it is then *lost*, and must be resynchronised.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from revolume.chain.point import Point
from revolume.errors import NotFound, Refused
from revolume.volume.core import Core
from revolume.volume.events import EventKind
from revolume.volume.holding import HoldKind
from revolume.volume.manifest import EditKind, MirrorMode, MirrorState, pack_member

HOLDER = "mirror "


class Mirror:
    """One mirror, as the primary sees it."""

    def __init__(self, state: MirrorState) -> None:
        self.state = state
        self.received = 0
        self.durable = 0
        self.agreed_point = 0
        self.agreed_position = 0
        self.ask_durable: Callable[[int], None] = lambda position: None
        self.let_go: Callable[[], None] = lambda: None
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.level_at = 0
        """Not 0: it came back with less than it had acknowledged, and is level again at this position."""

    @property
    def name(self) -> str:
        """Unique among the volume's mirrors."""
        return self.state.name

    @property
    def mode(self) -> MirrorMode:
        """What was asked for."""
        return self.state.mode

    @property
    def joined(self) -> bool:
        """Base and log have met there."""
        return self.state.joined

    @property
    def node(self) -> bytes:
        """Node id of the copy that it is; zero: not known."""
        return self.state.node

    @property
    def peer(self) -> str:
        """The name for which its certificate must be valid; "" for the host of its address."""
        return self.state.peer

    @property
    def acknowledged_durable(self) -> int:
        """The highest position that this copy is known to have acknowledged as durable."""
        return max(self.level_at, self.durable, self.state.durable)

    @property
    def required(self) -> bool:
        """Answers wait for it."""
        return self.state.required

    @property
    def firm(self) -> bool:
        """What is kept for it does not give way."""
        return self.state.firm

    @property
    def lost(self) -> bool:
        """Nothing of the log is kept for it any more."""
        return self.joined and not self.state.kept

    def settle(self) -> None:
        """Release who waited for what is durable there now."""
        waiting, self.waiting = self.waiting, []
        for position, future in waiting:
            if future.done():
                continue
            if position <= self.durable or not self.required:
                future.set_result(None)
            else:
                self.waiting.append((position, future))

    async def wait_durable(self, position: int) -> None:
        """Return once everything up to ``position`` is durable there."""
        if position <= self.durable:
            return
        waiting = (position, asyncio.get_running_loop().create_future())
        self.waiting.append(waiting)
        self.ask_durable(position)
        try:
            await waiting[1]
        finally:
            if waiting in self.waiting:  # nobody waits any more
                self.waiting.remove(waiting)


class Mirrors:
    """All mirrors of an open primary. ``begin`` makes a point for a new one to begin at, ``retired`` is the write
    below which the log is being folded, or was."""

    def __init__(
        self, core: Core, begin: Callable[[], Awaitable[Point]], retired: Callable[[], int] = lambda: 0
    ) -> None:
        self._core = core
        self._begin = begin
        self._retired = retired
        self._released: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._changing = asyncio.Lock()
        self._mirrors = {state.name: Mirror(state) for state in core.manifest.state.mirrors}
        for mirror in self:
            self._hold(mirror)

    def __iter__(self) -> Iterator[Mirror]:
        return iter(self._mirrors.values())

    def get(self, name: str) -> Mirror:
        """NotFound if there is none of that name."""
        if name not in self._mirrors:
            known = ", ".join(self._mirrors) or "none"
            raise NotFound("no-mirror", f"{self._core.name} has no mirror {name}.", f"It has: {known}.")
        return self._mirrors[name]

    # Membership, durable

    async def register(self, name: str, mode: MirrorMode, peer: str | None = None) -> Mirror:
        """A mirror of this name and mode; a known one keeps everything but its mode and, if it is given, the name
        that its certificate must have."""
        if name not in self._mirrors:
            self._mirrors[name] = Mirror(MirrorState(name, mode, False, 0, 0))
        mirror = self._mirrors[name]
        wanted = replace(mirror.state, mode=mode, peer=mirror.state.peer if peer is None else peer)
        if mirror.state != wanted or name not in {m.name for m in self._core.manifest.state.mirrors}:
            await self._change(mirror, lambda state: replace(state, mode=wanted.mode, peer=wanted.peer))
        return mirror

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
            return _kept_from(replace(state, since=point.write, based=False), point)

        await self._change_at(mirror, point, begun)
        return point

    async def unpin_base(self, mirror: Mirror) -> None:
        """A base is not begun after all."""
        await self._change(mirror, lambda state: replace(_kept_from(state, None), since=None))

    async def joined(self, mirror: Mirror, node: bytes) -> None:
        """Base and log have met in the copy of this node, which the mirror is from now on. A sync mirror is
        required from now on. If nothing of the log was kept for it, it is kept again from where it stands.
        Refused if what was kept is given up at this moment."""
        point = None if mirror.state.kept else self._newest_held(mirror) or await self._begin()

        def join(state: MirrorState) -> MirrorState:
            if not state.kept:
                if point is None:
                    cause = f"What was kept for mirror {mirror.name} was given up while it was about to join."
                    raise Refused("mirror-given-up", cause, "It connects anew by itself.")
                state = _kept_from(state, point)
            return replace(state, joined=True, node=node)

        await self._change_at(mirror, point, join)

    async def detach(self, name: str) -> None:
        """Give a mirror up: nothing waits for it and nothing is kept for it any more."""
        mirror = self.get(name)
        await self._core.maintenance.finished(self._detached(mirror))

    async def _detached(self, mirror: Mirror) -> None:
        async with self._changing:
            await self._core.recorder.record((EditKind.DROP_MIRROR, mirror.name.encode()))
            self._mirrors.pop(mirror.name, None)
            mirror.state = replace(mirror.state, joined=False)
            mirror.let_go()
            mirror.settle()
            self._release()

    async def replace(self, name: str) -> Mirror:
        """Forget which copy the mirror is: nothing waits for that copy and nothing is kept for it any more, and
        the next one that joins is the mirror."""
        mirror = self.get(name)
        await self._change(mirror, forgotten)
        mirror.received = mirror.durable = mirror.agreed_point = mirror.agreed_position = mirror.level_at = 0
        return mirror

    async def _change(self, mirror: Mirror, change: Callable[[MirrorState], MirrorState]) -> None:
        """Durably, then in memory: to its end, even if who asked goes away. A mirror that was detached meanwhile
        stays so."""
        await self._core.maintenance.finished(self._changed(mirror, change))

    async def _change_at(
        self, mirror: Mirror, point: Point | None, change: Callable[[MirrorState], MirrorState]
    ) -> None:
        """The same; the point from which it keeps the log is not folded meanwhile."""
        let_go = self._core.lease(f"{HOLDER}{mirror.name} beginning", point.write) if point else lambda: None
        try:
            await self._change(mirror, change)
        finally:
            let_go()

    async def _changed(self, mirror: Mirror, change: Callable[[MirrorState], MirrorState]) -> None:
        async with self._changing:
            if self._mirrors.get(mirror.name) is not mirror:
                return
            state = change(mirror.state)
            await self._core.recorder.record((EditKind.MEMBER, pack_member(state)))
            mirror.state = state
            self._hold(mirror)
            mirror.settle()
            self._release()

    # What is kept

    def _hold(self, mirror: Mirror) -> None:
        """Exchange the hold; the new one begins before the old one ends."""
        before = mirror.let_go
        mirror.let_go = lambda: None
        if mirror.state.kept:
            kind = HoldKind.KEPT if mirror.firm else HoldKind.MIRROR
            mirror.let_go = self._core.lease(HOLDER + mirror.name, mirror.state.write, kind)
        before()

    async def based(self, mirror: Mirror) -> None:
        """Its base is complete, or it is a whole copy that another source fed. What is kept for a sync mirror does
        not give way from now on."""
        point = None if mirror.state.kept else self._newest_held(mirror)

        def complete(state: MirrorState) -> MirrorState:
            if point is not None and not state.kept:
                state = _kept_from(state, point)
            return replace(state, based=True)

        await self._change_at(mirror, point, complete)

    def _newest_held(self, mirror: Mirror) -> Point | None:
        """The newest retained point that the mirror holds durably."""
        reached, retired = min(mirror.durable, mirror.agreed_position), self._retired()
        held = [p for p in self._core.points if p.position <= reached and p.write >= retired]
        return held[-1] if held else None

    async def passed(self, mirror: Mirror) -> None:
        """Record that the log is needed only behind the newest point that the mirror holds durably."""
        held = [p for p in self._core.points if p.position <= min(mirror.durable, mirror.agreed_position)]
        if not mirror.state.kept or not held:
            return
        newest, durable = held[-1], min(mirror.durable, self._core.commit.durable)

        def passed(state: MirrorState) -> MirrorState:
            if not state.kept or newest.number <= state.point:
                return state
            return replace(_kept_from(state, newest), durable=max(state.durable, durable))

        if passed(mirror.state) is not mirror.state:
            await self._change(mirror, passed)

    async def drop_hold(self) -> bool:
        """There is no other room: give up what is kept longest for an async mirror. Whether there was one."""
        held = [m for m in self if m.state.kept and not m.firm]
        if not held:
            return False
        mirror = min(held, key=lambda m: m.state.write)
        self._core.events.tell(
            f"the log has no more room for what mirror {mirror.name} lacks: it must be resynchronised"
            if mirror.joined
            else f"the log has no more room for the base of mirror {mirror.name}: it will begin anew"
        )
        await self._change(mirror, lambda state: state if state.firm else _kept_from(state, None))
        return True

    def in_the_way(self) -> str:
        """The required mirror for which more of the log is kept than for anybody else, and which lacks a point:
        once it has come on the log can be folded. Empty: there is none. Answers wait for it as it is."""
        points = self._core.points
        required = [m for m in self if m.firm and points and m.state.point < points[-1].number]
        if not required:
            return ""
        last = min(required, key=lambda m: m.state.write)
        names = {HOLDER + m.name for m in self if m.firm}
        kept = [each for each in self._core.leases.values() if not each.kind.gives_way]
        others = [each.write for each in kept if each.holder not in names]
        others += [snapshot.write for snapshot in self._core.manifest.state.snapshots]
        return last.name if all(last.state.write < write for write in others) else ""

    # Promises

    def connected(
        self, mirror: Mirror, received: int, durable: int, agreed_point: int, agreed_position: int
    ) -> None:
        """A session begins, and this is what the copy has now: nothing that it said before counts. If it has less
        than it had acknowledged as durable, that is told."""
        owed = mirror.acknowledged_durable if mirror.joined else 0
        mirror.level_at = owed if durable < owed else 0
        mirror.received, mirror.durable = received, durable
        mirror.agreed_point, mirror.agreed_position = agreed_point, agreed_position
        if mirror.level_at:
            self._core.events.tell(less_than_acknowledged(mirror), EventKind.TROUBLE)

    def acknowledged(
        self, mirror: Mirror, received: int, durable: int, agreed_point: int, agreed_position: int
    ) -> None:
        """The mirror has come so far. Within a session nothing goes back."""
        mirror.received, mirror.durable = received, durable
        mirror.agreed_point, mirror.agreed_position = agreed_point, agreed_position
        if mirror.level_at and durable >= mirror.level_at:
            mirror.level_at = 0
            self._core.events.tell(f"mirror {mirror.name} has everything again that it had acknowledged")
        if mirror.waiting:
            mirror.settle()
        if self._released:
            self._release()

    def released(self, position: int) -> bool:
        """Whether every required mirror has received everything up to ``position``."""
        return all(m.received >= position for m in self._mirrors.values() if m.required)

    def on_release(self, position: int, callback: Callable[[], None]) -> None:
        """Call back once ``released(position)``."""
        if self.released(position):
            callback()
            return
        self._count += 1
        heapq.heappush(self._released, (position, self._count, callback))

    def _release(self) -> None:
        while self._released and self.released(self._released[0][0]):
            heapq.heappop(self._released)[2]()

    async def wait_durable(self, position: int) -> None:
        """Return once everything up to ``position`` is durable at every required mirror."""
        required = [m for m in self if m.required and m.durable < position]
        if required:
            await asyncio.gather(*(m.wait_durable(position) for m in required))

    def refuse_missing(self, names: set[str]) -> None:
        """Refused if a required mirror is not among those that are to be served."""
        for mirror in self:
            if mirror.required and mirror.name not in names:
                raise missing(mirror.name)


def forgotten(state: MirrorState) -> MirrorState:
    """Of a mirror whose copy was given up by an order: another one may become it."""
    return MirrorState(state.name, state.mode, False, 0, 0, peer=state.peer)


def less_than_acknowledged(mirror: Mirror) -> str:
    """What is told of a copy that came back with less than it had acknowledged as durable."""
    return (
        f"mirror {mirror.name} has come back with less than it had acknowledged: it holds the log durably up to "
        f"position {mirror.durable}, and had acknowledged {mirror.level_at}. Its directory is an older state of "
        "itself, or its disk lost what it had synced. It proves nothing until it has caught up."
    )



def _kept_from(state: MirrorState, point: Point | None) -> MirrorState:
    """The log is kept for the mirror from a point on. None: nothing is."""
    if point is None:
        return replace(state, point=0, write=0, from_creation=False)
    return replace(state, point=point.number, write=point.write, from_creation=not point.number)


def missing(name: str) -> Refused:
    """A required mirror was left out."""
    return Refused(
        "mirror-missing",
        f"Mirror {name} is required: answered writes may live only there.",
        f"Give --mirror-to for it, or give it up with 'revolume detach DIR {name}'.",
    )
