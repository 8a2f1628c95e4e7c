"""The members of a volume, stated in its log: so every copy knows every other, as far as its log reaches.

A primary knows its mirrors by its manifest, which decides. What the log does not say of them yet is stated in it,
one fact after the other, each durable and then noted in the manifest. An order does not wait for that: where the
log has no room at the moment, or the volume is lost meanwhile, it is stated at the next change or opening.

A primary states itself as well, once there is another copy. Whoever was primary before stays a member until it is
given up, or has become a mirror: what it has may be wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace

from revolume.blocks.numbers import WriteNumber
from revolume.errors import NotFound, RevolumeError
from revolume.host.address import TcpAddress, parse_address
from revolume.volume.members.forks import Forks
from revolume.volume.members.resync_points import StatedResyncPoints, pin_of_promoted
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.former import Former
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Listener, Member, MirrorMode, MirrorState, State
from revolume.volume.metadata.member_record import pack_membership
from revolume.volume.metadata.on_lost import BLOCK_WHEN_LOST, OnLost
from revolume.volume.metadata.resync_order import NO_ORDER
from revolume.volume.open_log import OpenLog
from revolume.volume.uncancelled_tasks import UncancelledTasks

_ANYWHERE = frozenset({"0.0.0.0", "::"})


class Membership:
    """Of one open primary. Once ``closed``, nothing is stated any more. ``forks`` look whether they are needed
    whenever something is stated."""

    def __init__(
        self, *, log: OpenLog, tasks: UncancelledTasks, forks: Forks, resync_points: StatedResyncPoints
    ) -> None:
        self._log = log
        self._resync_points = resync_points
        self._tasks = tasks
        self._forks = forks
        self._turn = asyncio.Lock()
        self.closed = False

    @property
    def _state(self) -> State:
        return self._log.manifest.state

    def changed(self) -> None:
        """State what is recorded of the members soon, if the log does not say it yet."""
        state = self._state
        if not self.closed and (members_of(state) != state.members or any(self._resync_points.due(state))):
            self._tasks.begin(self.stated())

    async def all_stated(self) -> bool:
        """Whether the log says all of it, durably; what it does not say yet is stated as far as it has room."""
        await self.stated()
        async with self._turn:
            return members_of(self._state) == self._state.members

    async def stated(self) -> None:
        """State what the log does not say yet, as far as it has room."""
        with contextlib.suppress(RevolumeError, OSError):
            await self._log.turn.passed()  # not within the turn: whoever asks for the members need not wait
            async with self._turn:
                for statements in (_statements, self._resync_points.due):
                    for body, edit in list(statements(self._state)):
                        if not await self._append(body):
                            return
                        await self._log.manifest.record(edit)
                self._forks.look()

    async def _append(self, body: bytes) -> bool:
        """Append a fact, and make it durable. Whether there was room for it."""
        draft, log = facts.draft(body), self._log
        await log.turn.passed()
        if self.closed or (not log.appender.fits(draft) and not log.pool.ready):
            return False
        log.writer.emit(draft)
        await log.commit.wait_durable(log.appender.position)
        return True

    async def listed(self) -> tuple[Member, ...]:
        """The members, with all that the log says of them up to where it was durable when this was called."""
        async with self._turn:
            return self._state.members

    async def forget(self, name: str) -> None:
        """A former primary is no member any more. NotFound: there is none of that name."""
        async with self._turn:
            member = next((each for each in self._state.members if each.name == name), None)
            if member is None or member.mode is not None or member.node == self._state.node:
                known = ", ".join(mirror.name for mirror in self._state.mirrors) or "none"
                raise NotFound("no-mirror", f"{self._state.name} has no mirror {name}.", f"It has: {known}.")
            await self._log.manifest.record((EditKind.DROP_MEMBERSHIP, name.encode()))
            await self._append(facts.member_gone(name))
            self._forks.look()


def _statements(state: State) -> Iterator[tuple[bytes, tuple[EditKind, bytes]]]:
    """What the log has to say, and what is noted of that."""
    wanted = members_of(state)
    names = {member.name for member in wanted}
    for member in state.members:
        if member.name not in names:
            yield facts.member_gone(member.name), (EditKind.DROP_MEMBERSHIP, member.name.encode())
    for member in wanted:
        if member not in state.members:
            yield facts.member_stated(member), (EditKind.MEMBERSHIP, pack_membership(member))


def members_of(state: State) -> tuple[Member, ...]:
    """All members of a primary's volume, in the order of ``state.members`` as far as they are there."""
    if not state.mirrors and not state.members:
        return ()
    own = Member(own_name(state), state.node, reached_at(state.listener), None, joined=True)
    mirrors = [_as_member(mirror) for mirror in state.mirrors]
    names, nodes = {m.name for m in (own, *mirrors)}, {m.node for m in (own, *mirrors)}
    former = [m for m in state.members if m.mode is None and m.name not in names and m.node not in nodes]
    wanted = {member.name: member for member in (own, *mirrors, *former)}
    known = [wanted.pop(member.name) for member in state.members if member.name in wanted]
    return (*known, *wanted.values())


def _as_member(mirror: MirrorState) -> Member:
    lost = mirror.on_lost
    return Member(
        mirror.name, mirror.node, mirror.advertised or mirror.address, mirror.mode, mirror.joined,
        lost.deadline_ms if lost.detaches else 0, mirror.detached,
    )  # fmt: skip


def own_name(state: State) -> str:
    """What this copy is called among the members: as its source called it, or by its node id."""
    named = next((member.name for member in state.members if member.node == state.node), None)
    return named or node_name(state.node)


def own_member(state: State) -> Member | None:
    """What this copy knows of itself; None: nothing."""
    return next((member for member in state.members if member.node == state.node), None)


def node_name(node: bytes) -> str:
    """What a copy is called that has no other name."""
    return f"node-{node[:4].hex()}"


def reached_at(listener: Listener) -> str:
    """Where other nodes reach this one; "" if that is not known."""
    if listener.advertised or not listener.address:
        return listener.advertised
    address = parse_address(listener.address)
    return "" if isinstance(address, TcpAddress) and address.host in _ANYWHERE else listener.address


def mirrors_of_promoted(state: State, former: Former | None = None) -> tuple[MirrorState, ...]:
    """The mirrors of a copy that becomes the primary: those that its log names, itself excepted. None has joined:
    each does once its log is found to be continued, and has caught up; its resync point is its pin until then. A
    copy that was the primary itself, and has heard of none since, has the mirrors that it had, but for what was
    kept for them and is folded by now. ``former`` has handed over: it is the mirror that this copy was, and it and
    all required ones are level."""
    if state.mirrors:
        return tuple(_still_kept(mirror, state) for mirror in state.mirrors)
    if former is not None:
        return _mirrors_handed_over(state, former)
    here = {state.listener.address, reached_at(state.listener)} - {""}
    others = [m for m in state.members if m.mode is not None and m.node != state.node and m.address not in here]
    return tuple(_to_join(member, state) for member in others)


def _mirrors_handed_over(state: State, former: Former) -> tuple[MirrorState, ...]:
    own = own_member(state)
    known = next((member.name for member in state.members if member.node == former.node), "")
    before = MirrorState.unjoined(known or node_name(former.node), (own and own.mode) or MirrorMode.SYNC)
    if own is not None:
        before = replace(before, on_lost=_policy(own))
    others = [m for m in state.members if m.mode is not None and m.node not in (state.node, former.node)]
    return (
        _level(replace(before, node=former.node, address=former.address), state),
        *(_level(_unjoined(m), state) if m.required else _to_join(m, state) for m in others),
    )


def _level(mirror: MirrorState, state: State) -> MirrorState:
    """It stands at the same point as this copy, and is the mirror from the first write on."""
    point, write = state.agreed.point, state.agreed.write
    return replace(mirror, joined=True, based=True, point=point, write=write, from_creation=not point)


def _still_kept(mirror: MirrorState, state: State) -> MirrorState:
    mirror = replace(mirror, order=NO_ORDER)  # of another opening
    gone = mirror.kept and mirror.write < max(state.horizon.write, state.folding)
    return replace(mirror, point=0, write=WriteNumber(0), from_creation=False) if gone else mirror


def _to_join(member: Member, state: State) -> MirrorState:
    return pin_of_promoted(state, _unjoined(member))


def _unjoined(member: Member) -> MirrorState:
    assert member.mode is not None
    mirror = MirrorState.unjoined(member.name, member.mode)
    return replace(mirror, node=member.node, address=member.address, on_lost=_policy(member))


def _policy(member: Member) -> OnLost:
    """As a new primary has it: nothing was told yet, nothing is detached."""
    return OnLost(True, member.deadline_ms) if member.deadline_ms else BLOCK_WHEN_LOST
