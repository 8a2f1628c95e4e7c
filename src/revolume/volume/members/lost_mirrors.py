"""Required mirrors that are lost: detached by deadline where that is the policy, and required again once level.

A mirror under *detach* is due when something that answers wait for has not been acknowledged by it for its
deadline, or when it has not been fed for so long and an answer waits. Then, each step durable before the next:

    no lease is granted any more → it is detached: in the manifest, and as a fact in the log
    → its lease has run out → with two or more other members: a majority of all has the fact on its disk
    → the detach counts (manifest), and answers no longer wait for it

An opening goes on where the one before it was ended: a detach that does not count yet is waited for like any
required mirror, and what leases were granted before the opening is taken to have been granted at its beginning.
The deadline counts only time in which this process ran: one that was stopped has not listened.

A mirror that says, or of which it shows, that another node may have become primary is never detached by deadline:
this node may be the one that is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from revolume.blocks.numbers import Position
from revolume.errors import RevolumeError
from revolume.host.clock import Clock
from revolume.volume.members.membership import Membership
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.mirrors import Mirrors
from revolume.volume.metadata.manifest_state import MirrorState
from revolume.volume.open_log import OpenLog
from revolume.volume.state.events import EventKind, Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

TICK_S: Final = 0.25
RETRY_S: Final = 0.05
RIVAL: Final = (
    "answers wait for mirror {}, which is not detached although its deadline has passed: another node may have "
    "become primary"
)


@dataclass(slots=True)
class _Wait:
    """Since when a mirror has lacked what is waited for: the first position of that, in its log file and on its
    disk, and for how long; and for how long it has not been fed."""

    received: Position | None = None
    received_ns: int = 0
    durable: Position | None = None
    durable_ns: int = 0
    away_ns: int = 0

    @property
    def lacks(self) -> bool:
        return self.received is not None or self.durable is not None

    @property
    def late_ns(self) -> int:
        return max(self.received_ns, self.durable_ns)


def majority_of(copies: int) -> int:
    """How many of them are more than half."""
    return copies // 2 + 1


class LostMirrors:
    """Of one open primary."""

    def __init__(
        self,
        mirrors: Mirrors,
        membership: Membership,
        *,
        log: OpenLog,
        clock: Clock,
        events: Events,
        tasks: UncancelledTasks,
    ) -> None:
        self._mirrors = mirrors
        self._membership = membership
        self._log = log
        self._clock = clock
        self._events = events
        self._tasks = tasks
        self._waits: dict[str, _Wait] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._returning: dict[str, asyncio.Task[None]] = {}
        self._wanted = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on, and finish what an earlier opening began."""
        for mirror in self._mirrors:
            lost = mirror.state.on_lost
            if lost.detaches and not (mirror.detached and lost.counts):
                mirror.lease.granted(self._clock.boot_ns(), lost.lease_ms)
            mirror.lease.stopped = mirror.detached
            if mirror.detached and not lost.counts:
                self._begin(mirror, self._make_count(mirror, lost.detached_ns))
        self._mirrors.on_change = self._changed
        self._changed()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    @property
    def returning(self) -> bool:
        """A mirror is about to be required again."""
        return bool(self._returning)

    async def stop(self) -> None:
        """Detach nothing any more."""
        for task in (self._watching, *self._under_way.values(), *self._returning.values()):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    def _begin(self, mirror: Mirror, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(mirror, job))
        self._under_way[mirror.name] = task
        task.add_done_callback(lambda done: self._under_way.pop(mirror.name, None))

    async def _guarded(self, mirror: Mirror, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except (OSError, RevolumeError) as error:
            self._events.tell(f"mirror {mirror.name} can't be detached: {error}", EventKind.TROUBLE)

    # Watching

    def _changed(self) -> None:
        """Have the mirrors watched that may have to be detached."""
        for mirror in self._mirrors:
            if mirror.state.on_lost.detaches or mirror.detached:
                mirror.on_level = partial(self._level, mirror)
                mirror.lease.on_told = partial(self._told, mirror)
                self._wanted.set()

    async def _watch(self) -> None:
        """While there is a mirror that may have to be detached."""
        while True:
            await self._wanted.wait()
            before_ns = self._clock.monotonic_ns()
            await self._clock.sleep(TICK_S)
            ran_ns = min(self._clock.monotonic_ns() - before_ns, int(2e9 * TICK_S))
            watched = [m for m in self._mirrors if m.state.on_lost.detaches and m.required]
            for mirror in watched:
                self._look_at(mirror, ran_ns)
            if not watched:
                self._wanted.clear()

    def _look_at(self, mirror: Mirror, ran_ns: int) -> None:
        wait = self._waits.setdefault(mirror.name, _Wait())
        self._note(mirror, wait, ran_ns)
        mirror.lease.late_ns = wait.late_ns
        due = wait.lacks and max(wait.late_ns, wait.away_ns) >= mirror.state.on_lost.deadline_ms * 10**6
        if not due or not mirror.state.on_lost.told or mirror.name in self._under_way or mirror.detached:
            return
        if mirror.rival:
            self._events.tell(RIVAL.format(mirror.name), EventKind.TROUBLE)
            wait.received_ns = wait.durable_ns = wait.away_ns = 0
        else:
            self._begin(mirror, self._detach(mirror))

    def _note(self, mirror: Mirror, wait: _Wait, ran_ns: int) -> None:
        received = self._mirrors.oldest_lacked(mirror)
        durable = next((position for position, future in mirror.waiting if not future.done()), None)
        met = wait.received is None or received is None or received > wait.received
        wait.received, wait.received_ns = received, 0 if met else wait.received_ns + ran_ns
        met = wait.durable is None or durable is None or durable > wait.durable
        wait.durable, wait.durable_ns = durable, 0 if met else wait.durable_ns + ran_ns
        wait.away_ns = 0 if mirror.fed else wait.away_ns + ran_ns

    # Detaching

    async def _detach(self, mirror: Mirror) -> None:
        mirror.lease.stopped = True
        since_ns, deadline_s = self._clock.wall_ns(), mirror.state.on_lost.deadline_ms / 1000

        def detached(state: MirrorState) -> MirrorState:
            return replace(state, on_lost=replace(state.on_lost, detached_ns=since_ns, counts=False))

        await self._mirrors.records.change(mirror, detached)
        self._waits.pop(mirror.name, None)
        self._events.tell(
            f"mirror {mirror.name} did not acknowledge for {deadline_s:g} s what answers wait for: it is "
            "detached, and required again once it is level",
            EventKind.MIRROR_DETACHED,
        )
        await self._make_count(mirror, since_ns)

    async def _make_count(self, mirror: Mirror, since_ns: int) -> None:
        """A detach that is recorded counts once nothing that the mirror knows speaks for it any more."""
        await self._membership.stated()
        await mirror.lease.ran_out(self._clock)
        if self._copies > 2:
            await self._known_by_majority(mirror, since_ns)

        def counts(state: MirrorState) -> MirrorState:
            known = state.on_lost
            return state if known.detached_ns != since_ns else replace(state, on_lost=replace(known, counts=True))

        await self._mirrors.records.change(mirror, counts)

    @property
    def _copies(self) -> int:
        """By which is decided what counts: this one, and each that has joined."""
        return 1 + sum(mirror.joined for mirror in self._mirrors)

    async def _known_by_majority(self, mirror: Mirror, since_ns: int) -> None:
        position: Position | None = None
        while mirror.state.on_lost.detached_ns == since_ns:
            if position is None and not await self._membership.all_stated():
                await self._clock.sleep(RETRY_S)  # until the log has room
                continue
            if position is None:
                position = self._log.appender.complete_position
                self._events.tell(
                    f"the detach of mirror {mirror.name} counts once more than half of the {self._copies} copies "
                    "have it on their disk"
                )
            if 1 + len(list(self._knowing(mirror, position))) >= majority_of(self._copies):
                return
            await self._clock.sleep(RETRY_S)

    def _knowing(self, mirror: Mirror, position: Position) -> Iterator[Mirror]:
        """Others that have the log up to there on their disk."""
        for other in self._mirrors:
            if other is mirror or not other.joined:
                continue
            if other.durable >= position:
                yield other
            else:
                other.ask_durable(position)

    # Coming back

    def _told(self, mirror: Mirror) -> None:
        """Its copy has recorded the policy."""
        lost = mirror.state.on_lost
        if mirror.joined and lost.detaches and not lost.told and mirror.name not in self._under_way:
            self._begin(mirror, self._mirrors.records.change(mirror, _told))

    def _level(self, mirror: Mirror) -> None:
        """It was detached, and has everything again."""
        if mirror.detached and mirror.name not in self._returning:
            task = asyncio.get_running_loop().create_task(self._guarded(mirror, self._required_again(mirror)))
            self._returning[mirror.name] = task
            task.add_done_callback(lambda done: self._returning.pop(mirror.name, None))

    async def _required_again(self, mirror: Mirror) -> None:
        await self._mirrors.records.change(mirror, _required_again)
        mirror.lease.stopped = False
        if mirror.required:
            self._events.tell(
                f"mirror {mirror.name} is level again: answers wait for it from now on", EventKind.MIRROR_REQUIRED
            )


def _told(state: MirrorState) -> MirrorState:
    return replace(state, on_lost=replace(state.on_lost, told=state.on_lost.detaches))


def _required_again(state: MirrorState) -> MirrorState:
    return replace(state, on_lost=replace(state.on_lost, detached_ns=0, counts=False))
