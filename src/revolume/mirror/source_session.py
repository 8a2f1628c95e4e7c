"""The source's side of one connection, from HELLO to its end.

    greeting    HELLO is out; WELCOME says what the target has
    deciding    by which rule it is brought up to date (``decide``): BEGIN, or REFUSED
    mirroring   ``BaseSender`` sends a base, then ``Pump`` ships the log; ``Answers`` sends blocks asked for whole;
                positions come back and are handed to the storage, which releases clients' answers by them

A new mirror has joined when its base is complete and the log has caught up with it: until then no answer waits for
it, however long that takes.

A target's word is believed only within what it can know: it has not received more than was sent, it has not made
durable more than it received, and nothing goes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.network import Wire
from revolume.log.transfer import BLOCK
from revolume.mirror.answers import Answers
from revolume.mirror.base import BaseSender
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.counters import Counters, Lag
from revolume.mirror.decide import Decision, Rule, Source, decide
from revolume.mirror.frames import CHECK_SIZE, Broken, Type, body_of
from revolume.mirror.link import PING_BODY, Link
from revolume.mirror.messages import (
    NUMBER,
    POSITIONS,
    WELCOME,
    Begin,
    Hello,
    Identity,
    Pin,
    Positions,
    Start,
    TargetState,
    Welcome,
    pack_begin,
    pack_hello,
    unpack_number,
    unpack_positions,
    unpack_refusal,
    unpack_welcome,
)
from revolume.mirror.parts import Mirror, Origin
from revolume.mirror.pump import Pump
from revolume.mirror.rows import NEED_BODY_MAX
from revolume.mirror.target_session import REFUSED_BODY_MAX
from revolume.mirror.version import OURS
from revolume.volume.end import End

GREETING: Final[dict[int, int]] = {
    Type.WELCOME: WELCOME.size + CHECK_SIZE,
    Type.REFUSED: REFUSED_BODY_MAX,
    Type.PING: PING_BODY,
}
MIRRORING: Final[dict[int, int]] = {
    Type.POSITIONS: POSITIONS.size + CHECK_SIZE,
    Type.NEED: NEED_BODY_MAX,
    Type.REFUSED: REFUSED_BODY_MAX,
    Type.PING: PING_BODY,
}
WITH_BASE: Final[dict[int, int]] = {
    Type.BASE_AT: NUMBER.size + CHECK_SIZE,
    Type.BASE_DONE: NUMBER.size + CHECK_SIZE,
}
BUFFER: Final = 64 << 10
MOMENT_S: Final = 0.5
MOMENT_BYTES: Final = 256 << 10
MET_BYTES: Final = 8 << 20
"""A mirror that lacks no more of the log than this has caught up: answers that wait for it wait for a moment."""
UNANSWERED: Final = (
    f"It had not answered the greeting; a node whose release of Revolume does not know {OURS} of the mirror "
    "protocol ends so: see its log."
)

_POSITIONS: Final = int(Type.POSITIONS)


class SourceSession:
    """See the module's text. ``told`` is called when it is known how it goes on."""

    def __init__(
        self,
        host: Host,
        wire: Wire,
        origin: Origin,
        mirror: Mirror,
        node: bytes,
        counters: Counters,
        told: Callable[[Decision, BasePlan | None, Welcome], None],
    ) -> None:
        self.link = Link(host, wire, GREETING)
        self.link.naming = Type.WELCOME
        self.ended_because: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pump: Pump | None = None
        self.base: BaseSender | None = None
        self.lag = Lag(0)
        self.progressed = False
        """Something has arrived at the target."""
        self._origin = origin
        self._mirror = mirror
        self._node = node
        self._counters = counters
        self._told = told
        self._hello: Hello | None = None
        self._answers = Answers(self.link, origin, counters)
        self._last = Positions(0, 0, 0, 0)
        self._passed = 0
        self._passing: asyncio.Task[None] | None = None
        self._durable_wanted = 0
        self._durable_asked = 0
        self._welcomed = False
        self._node_there = bytes(16)
        self._sender: BaseSender | None = None
        self._log_since_ns = 0
        self._log_from = 0
        """When the log began to flow, and from which address of it on."""
        self._meeting = False
        """It is a whole copy that has not joined: base and log are about to meet."""
        self._stop_listening: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Say who we are."""
        origin, mirror = self._origin, self._mirror
        self._hello = Hello(
            mirror.mode, origin.segment_blocks, origin.segment_blocks, origin.volume_id, self._node, origin.reign,
            origin.epoch, origin.size, origin.feed.oldest, origin.end(), origin.name, mirror.name,
            mirror.node, mirror.acknowledged_durable if mirror.joined else 0, mirror.joined,
        )  # fmt: skip
        self.link.start(self)
        self.link.send_control(Type.HELLO, pack_hello(self._hello))

    # What arrives

    def frame(self, kind: int, frame: memoryview) -> None:
        """Positions first: everything else is rare."""
        body = body_of(frame)
        if kind == _POSITIONS:
            self._believe(unpack_positions(body))
        else:
            self._rare(Type(kind), body)

    def _rare(self, kind: Type, body: memoryview) -> None:
        match kind:
            case Type.WELCOME:
                self._welcomed = True
                self.link.expected = {Type.PING: PING_BODY, Type.REFUSED: REFUSED_BODY_MAX}
                self.link.welcome(BUFFER)
                self.link.spawn(self._decide(unpack_welcome(body)))
            case Type.REFUSED:
                self.link.refused(unpack_refusal(body))
            case Type.NEED:
                self._answers.asked(body)
            case Type.BASE_AT:
                assert self.base is not None
                self.base.stored(unpack_number(body))
                self.progressed = True
            case Type.BASE_DONE:
                assert self.base is not None
                self.base.finished(unpack_number(body))

    def settled(self) -> None:
        """Nothing is kept back."""

    def writable(self) -> None:
        if self.pump is not None:
            self.pump.pump()

    # Deciding

    async def _decide(self, welcome: Welcome) -> None:
        hello = self._hello
        assert hello is not None
        if welcome.durable > welcome.end.position:
            raise Broken("It says that it is where it cannot be.")
        found = None
        if welcome.state != TargetState.EMPTY and welcome.volume == hello.volume:
            found = await self._origin.feed.identity_at(welcome.end.position)
        pinned = self._origin.base_point(self._mirror)
        at_end = Identity(*found) if found else None
        pin = Pin(pinned.number, pinned.position, pinned.chain) if pinned else None
        decision = decide(Source(hello, at_end, pin), welcome)
        self._node_there = welcome.node
        plan = None
        if decision.rule == Rule.BASE:
            plan = await self._origin.plan_base(self._mirror)
            decision = decide(Source(hello, at_end, pin, plan.need), welcome)
        self._told(decision, plan, welcome)
        if decision.rule.refuses:
            if plan is not None:
                await self._origin.unpin_base(self._mirror)
            raise RevolumeError(decision.rule.spoken, decision.reason, decision.hint)
        if plan is not None:
            await self._begin_base(at_end, pin, plan)
        else:
            durable, agreed = welcome.durable, welcome.agreed_point
            there = Positions(durable, durable, agreed, min(welcome.agreed_position, durable))
            resumed = decision.rule == Rule.RESUME_BASE
            self._begin(Begin(decision.rule, at_end, pin, None), welcome.end, there, with_base=resumed)
            self._settle_base(decision, welcome)

    async def _begin_base(self, at_end: Identity | None, pin: Pin | None, plan: BasePlan) -> None:
        """What both ends decided by is what was known then: the point where it begins comes with the birth."""
        origin, point = self._origin, plan.point
        found = await origin.feed.identity_at(point.position)
        if found is None:
            raise RevolumeError("log-gone", f"The log at point cp{point.number} is not there.", "Try again.")
        end = End(point.position, *found, point.write, point.time_ns)
        size = origin.size_at(point.write)
        openings = origin.openings(origin.end().position)
        start = Start(
            end, point.number, point.write, point.time_ns, size, point.root, openings, plan.names,
            plan.names_position,
        )  # fmt: skip
        begin = Begin(Rule.BASE, at_end, pin, start, plan.need)
        self._begin(begin, end, Positions(0, 0, 0, 0), with_base=True)
        self._send_base(0)

    def _begin(self, begin: Begin, end: End, there: Positions, *, with_base: bool) -> None:
        """``there``: what the copy has at least; its first report says the rest."""
        self._origin.connected(
            self._mirror, there.received, there.durable, there.agreed_point, there.agreed_position
        )
        self.link.expected = MIRRORING
        self.link.send_control(Type.BEGIN, pack_begin(begin))
        feed = self._origin.feed
        address = feed.address_behind(end.position)
        self.lag = Lag(feed.end_address if address is None else address)
        self.pump = Pump(self.link, feed, end, self._counters, advanced=self._advanced, lag=self.lag)
        self.pump.held = with_base
        self._log_flows()
        self._mirror.ask_durable = self.ask_durable
        self._stop_listening = feed.listen(self._wake, self.pump.leaving)
        self._wake()
        self.ask_durable(self._origin.durable_wanted(self._mirror))

    def _settle_base(self, decision: Decision, welcome: Welcome) -> None:
        if decision.rule == Rule.RESUME_BASE:
            self._send_base(welcome.next_block)
        elif self._mirror.joined and (self._mirror.lost or self._mirror.node != welcome.node):
            # What was kept for it had been given up, or an older release noted no node.
            self.link.spawn(self._origin.joined(self._mirror, welcome.node))
        else:
            if not self._mirror.joined:
                self._begin_to_meet()

    def _send_base(self, next_block: int) -> None:
        point = self._origin.base_point(self._mirror)
        assert point is not None
        assert self.pump is not None
        self.link.expected = MIRRORING | WITH_BASE
        self.base = BaseSender(
            self.link, self._origin, point, next_block, self._counters, self._base_done
        )
        self._sender = self.base
        self.link.spawn(self.base.run())

    def _log_flows(self) -> None:
        self._log_since_ns, self._log_from = self.link.host.clock.monotonic_ns(), self.lag.address

    def _base_done(self) -> None:
        assert self.pump is not None
        self.base = None
        self.link.expected = MIRRORING
        self.pump.held = False
        self._log_flows()
        self._wake()
        self._begin_to_meet()

    @property
    def base_stored(self) -> int:
        """Bytes of the base that this session brought over."""
        return self._sender.pace.stored_bytes if self._sender is not None else 0

    @property
    def rate(self) -> float:
        """Bytes a second that the target takes: of the base, and then of the log. 0: nothing is known yet."""
        if self.base is not None:
            return self.base.pace.rate
        seconds = (self.link.host.clock.monotonic_ns() - self._log_since_ns) / 1e9
        return (self.lag.address - self._log_from) * BLOCK / seconds if seconds > 0 else 0.0

    def _begin_to_meet(self) -> None:
        self._meeting = True
        self.link.spawn(self._origin.based(self._mirror))
        self._meet()

    def _meet(self) -> None:
        """Once the log that it lacks is a moment's, the mirror has joined."""
        assert self.pump is not None
        behind = (self._origin.feed.end_address - self.lag.address) * BLOCK
        if self._meeting and behind <= min(MET_BYTES, max(MOMENT_BYTES, self.rate * MOMENT_S)):
            self._meeting = False
            self.link.spawn(self._origin.joined(self._mirror, self._node_there))

    # Mirroring

    def _wake(self) -> None:
        """Something was appended."""
        pump = self.pump
        assert pump is not None
        pump.pump()
        feed = self._origin.feed
        self.lag.appended(feed.end, self.link.host.clock.monotonic_ns())
        if pump.caught_up:
            self.lag.sent(feed.end, feed.end_address)

    def _advanced(self) -> None:
        if self._durable_wanted > self._durable_asked:
            self._ask()

    def ask_durable(self, position: int) -> None:
        """A client waits for this: the target is to make it durable, once it has been sent."""
        if position > self._durable_wanted:
            self._durable_wanted = position
            self._ask()

    def _ask(self) -> None:
        assert self.pump is not None
        wanted = min(self._durable_wanted, self.pump.sent)
        if wanted > self._durable_asked and self.link.open:
            self._durable_asked = wanted
            self.link.send_control(Type.SYNC, NUMBER.pack(wanted))

    def _believe(self, now: Positions) -> None:
        last, pump = self._last, self.pump
        assert pump is not None
        if (
            not last.received <= now.received <= pump.sent
            or not last.durable <= now.durable <= now.received
            or not last.agreed_point <= now.agreed_point
            or not last.agreed_position <= now.agreed_position <= now.received
        ):
            raise Broken("It says that it is where it cannot be.")
        self.progressed = self.progressed or now.received > pump.begun
        self._last = now
        self.lag.received(now.received)
        self._origin.acknowledged(self._mirror, now.received, now.durable, now.agreed_point, now.agreed_position)
        if self._meeting:
            self._meet()
        if now.agreed_point > self._passed and now.durable >= now.agreed_position:
            self._passed = now.agreed_point
            if self._passing is None:
                self._passing = self.link.spawn(self._pass())

    async def _pass(self) -> None:
        """Less of the log is kept for it; what it agrees on meanwhile is recorded next."""
        recorded = 0
        try:
            while recorded < self._passed:
                recorded = self._passed
                await self._origin.passed(self._mirror)
        finally:
            self._passing = None

    # The end

    def ended(self, reason: str) -> None:
        if not self._welcomed and self.link.refusal is None:
            reason = f"{reason} {UNANSWERED}"
        self._stop_listening()
        if self._mirror.ask_durable == self.ask_durable:
            self._mirror.ask_durable = _nobody_listens
        if not self.ended_because.done():
            self.ended_because.set_result(reason)


def _nobody_listens(position: int) -> None:
    """The next session asks for what is wanted then."""
