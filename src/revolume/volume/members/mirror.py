"""One mirror as its primary knows it: what is recorded of it, and how far its copy is in the present session.

A mirror's positions only move by its acknowledgements, and begin anew with every session: what a copy had said
before proves nothing of what it has now. A copy that comes back with less than it had acknowledged as durable
proves nothing until it is *level* again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from revolume.blocks.numbers import Position
from revolume.host.clock import Clock
from revolume.volume.members.positions import NOTHING, Positions
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState


def with_margin(lease_ms: int) -> int:
    """A lease, and by how much the clocks of two machines may differ over it, in ms."""
    return lease_ms + lease_ms // 10 + 200


class GrantedLease:
    """What a mirror was told of being in sync. ``until_ns``: the boot time here at which the last of it has surely
    run out there; ``stopped``: nothing more is granted; ``late_ns``: how long something has been waited for that
    the mirror has not acknowledged. ``offer`` tells the mirror for how long a lease would be; ``on_told`` is
    called when the copy says that it has recorded the policy."""

    def __init__(self) -> None:
        self.until_ns = 0
        self.stopped = False
        self.late_ns = 0
        self.offer: Callable[[], None] = lambda: None
        self.on_told: Callable[[], None] = lambda: None

    def granted(self, now_ns: int, lease_ms: int) -> None:
        """The mirror may hold it for so long from now on; ``now_ns`` is boot time."""
        self.until_ns = max(self.until_ns, now_ns + with_margin(lease_ms) * 10**6)

    async def ran_out(self, clock: Clock) -> None:
        """Return once nothing that was granted can be held any more. Whoever waits has stopped it."""
        while (left_ns := self.until_ns - clock.boot_ns()) > 0:
            await clock.sleep(left_ns / 1e9)


class Mirror:
    """One mirror: ``state`` is what is recorded of it; the positions are those of the present session, and begin
    anew with each. ``waiting``: (position, future) of clients that wait until the mirror has that much durably;
    ``ask_durable`` asks the mirror to make a position durable, and does nothing while it is not connected."""

    def __init__(self, state: MirrorState) -> None:
        self.state = state
        self.received = Position(0)
        self.durable = Position(0)
        self.agreed_point = 0
        self.agreed_position = Position(0)
        self.ask_durable: Callable[[Position], None] = lambda position: None
        self.release_hold: Callable[[], None] = lambda: None
        self.waiting: list[tuple[Position, asyncio.Future[None]]] = []
        self.level_at = Position(0)
        """Not 0: it came back with less than it had acknowledged, and is level again at this position."""
        self.unrecorded_cut: Kept | None = None
        """A cut that is not recorded yet."""
        self.cut_hold_ns = 0
        """How long writes were held for its last cut since the volume was opened."""
        self.differs_since = 0
        """Not 0: its copy was found to differ at this point, and nothing has proved it equal since."""
        self.fed = False
        """The log goes out to it."""
        self.rival = False
        """It is refused because another node may have become primary: it is not detached by deadline."""
        self.lease = GrantedLease()
        self.on_level: Callable[[], None] = lambda: None
        """It was detached by deadline, and is level again."""

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
    def acknowledged_durable(self) -> Position:
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
    def detached(self) -> bool:
        """It was detached by deadline, and is not level again."""
        return self.state.detached

    @property
    def may_have_lease(self) -> bool:
        """Whether it may be told that it is in sync: answers wait for it, and it is not late."""
        state, lease = self.state, self.lease
        policy = state.on_lost
        late_ms_max = max(policy.deadline_ms - with_margin(policy.lease_ms), policy.lease_ms // 3)
        in_sync = state.required and policy.detaches and not state.detached and not self.level_at
        return in_sync and not lease.stopped and lease.late_ns <= late_ms_max * 10**6

    @property
    def cut(self) -> Kept | None:
        """The point that was made when its link was lost, until it stands there."""
        return self.state.cut or self.unrecorded_cut

    @property
    def log_given_up(self) -> bool:
        """No log is kept for it any more; what changed since it stood may be known."""
        return self.joined and not self.state.kept

    @property
    def lost(self) -> bool:
        """Nothing at all is kept for it any more, neither log nor difference."""
        return self.log_given_up and self.state.pin is None and self.state.jump is None

    def begin_session(self, there: Positions) -> None:
        """A session begins, and this is what the copy has now: nothing that it said before counts."""
        owed = self.acknowledged_durable if self.joined else Position(0)
        self.level_at = owed if there.durable < owed else Position(0)
        self.differs_since = 0  # if it still does, it says so
        self._stand_at(there)

    def acknowledge(self, now: Positions) -> bool:
        """The copy has come so far; whether it is level again with that. Within a session nothing goes back."""
        self._stand_at(now)
        if self.waiting:
            self.settle()
        level = bool(self.level_at) and now.durable >= self.level_at
        if level:
            self.level_at = Position(0)
        return level

    def forget_copy(self) -> None:
        """Its copy was given up by an order: nothing is known of how far another one is."""
        self.level_at = Position(0)
        self._stand_at(NOTHING)

    def _stand_at(self, now: Positions) -> None:
        self.received, self.durable = now.received, now.durable
        self.agreed_point, self.agreed_position = now.agreed_point, now.agreed_position

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

    async def wait_durable(self, position: Position) -> None:
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
