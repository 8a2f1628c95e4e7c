"""The source's side of one connection, from HELLO to its end.

``Progress`` holds the state; ``FRAMES`` is the table of the frames that may come in each of its phases. A frame
out of place ends the session, and nothing of it is used. The session owns no algorithm: ``plan_catch_up`` decides
how the copy is brought up to date, ``BaseSender`` sends a base or a difference, ``LogSender`` the log,
``BlockServer`` blocks that the target asks for. Positions come back and are handed to the volume, which releases
clients' answers by them.

A new mirror joins when its base is complete and the log has caught up: until then no answer waits for it. A
session that sends a difference ends with it, and so does one that sends the log up to a cut: the next one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.network import Wire
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.catch_up_plan import CatchUpPlan, Rule, SourceFacts, plan_catch_up
from revolume.mirror.counters import Lag
from revolume.mirror.healing import HEALING_FRAMES, LinkHealing
from revolume.mirror.link import Link
from revolume.mirror.log_sender import LogSender
from revolume.mirror.source.base_sender import BaseSender
from revolume.mirror.source.block_server import BlockServer
from revolume.mirror.source.compared_reader import open_base, open_jump
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.source.durable_requests import DurableRequests
from revolume.mirror.source.gathered_facts import base_start, gather_facts, greeting, standing
from revolume.mirror.source.handing_over import Handed, HandingOver
from revolume.mirror.source.hold_advance import HoldAdvance
from revolume.mirror.source.lease_grants import LeaseGrants
from revolume.mirror.source.moment_sender import MomentSender
from revolume.mirror.source.ordered_catch_up import OrderedCatchUp
from revolume.mirror.source.progress import Phase, Progress, is_level
from revolume.mirror.source.suspect_sender import SuspectSender
from revolume.mirror.storage_protocols import SourceVolume
from revolume.mirror.wire.begin_messages import NO_COSTS, Begin, pack_begin
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.frames import Type, body_of
from revolume.mirror.wire.greeting_messages import Hello, Welcome, pack_hello, unpack_welcome
from revolume.mirror.wire.limits import expecting
from revolume.mirror.wire.session_messages import unpack_number, unpack_positions, unpack_refusal
from revolume.mirror.wire.version import MOMENTS, SOURCE
from revolume.volume.members.positions import NOTHING, Positions
from revolume.volume.open.log_identity import End

_ALWAYS: Final = frozenset({Type.PING, Type.REFUSED})
_ANSWERS: Final = frozenset({Type.COMPARE_OPENED, Type.COMPARED})
_SUSPECT: Final = frozenset({Type.SUSPECT_AT, Type.DIVERGED})
_MIRRORING: Final = _ALWAYS | HEALING_FRAMES | _SUSPECT | {Type.POSITIONS, Type.REQUEST_BLOCKS, Type.LEASE_ASK}
FRAMES: Final[Mapping[Phase, frozenset[Type]]] = {
    Phase.DISCONNECTED: frozenset(),
    Phase.REFUSED: frozenset(),
    Phase.GREETING: _ALWAYS | {Type.WELCOME},
    Phase.PLANNING: _ALWAYS,
    Phase.SENDING_BASE: _MIRRORING | _ANSWERS | {Type.BASE_AT, Type.BASE_DONE, Type.MOMENT_AT},
    Phase.SENDING_DIFFERENCE: _ALWAYS | HEALING_FRAMES | _ANSWERS | {Type.BASE_AT, Type.BASE_DONE},
    Phase.JOINING: _MIRRORING,
    Phase.JOINED: _MIRRORING | _ANSWERS | {Type.HANDED_OVER, Type.FIXED},
}
"""What may come from the target."""

BUFFER: Final = 64 << 10
UNANSWERED: Final = (
    f"It had not answered the greeting; a node whose release of Revolume does not know {SOURCE} of the mirror "
    "protocol ends so: see its log."
)

_POSITIONS: Final = int(Type.POSITIONS)
Planned = Callable[[CatchUpPlan, BasePlan | None, Welcome], None]


class SourceSession:
    """One connection of the mirror that ``progress`` is about, which is in GREETING from here on. ``planned`` is
    called when it is known how it goes on; ``ended_because`` gets the sentence that says why the session ended."""

    def __init__(
        self, host: Host, wire: Wire, volume: SourceVolume, progress: Progress, node: bytes, planned: Planned
    ) -> None:
        progress.become_greeting()
        self.progress = progress
        self.link = Link(host, wire, expecting(FRAMES[progress.phase]))
        self.link.session_frame = Type.WELCOME
        self.ended_because: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.goes_on = ""
        """Why it has ended itself, and what comes next; "" if nothing like that has happened."""
        self._volume = volume
        self._mirror = progress.mirror
        self._node = node
        self._planned = planned
        self._hello: Hello | None = None
        self.suspect = SuspectSender(self.link)
        self.comparison = Comparison(self.link, self.suspect)
        self._blocks = BlockServer(self.link, volume, progress.counters)
        self._node_there = bytes(16)
        self._advertised = ""
        self._cut_point = 0
        self._by_snapshot = False
        self._hold = HoldAdvance(self.link, volume, self._mirror)
        self._durable = DurableRequests(self.link)
        self._joining: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] = lambda: None
        self.handing_over = HandingOver(self.link)
        self._leases = LeaseGrants(self.link, self._mirror)
        self._healing = LinkHealing(self.link, f"mirror {self._mirror.name}")
        self._version, self._seeded = 0, False
        self._ordered = OrderedCatchUp(self.link, volume, self._mirror)

    def start(self) -> None:
        """Say who we are."""
        self._hello = greeting(self._volume, self._mirror, self._node, self._ordered.order)
        self.link.start(self)
        self.link.send_control(Type.HELLO, pack_hello(self._hello))

    @property
    def _now_ns(self) -> int:
        return self.link.host.clock.monotonic_ns()

    def _expect(self) -> None:
        """What the present phase allows."""
        self.link.expected = expecting(FRAMES[self.progress.phase])

    # What arrives

    def frame(self, kind: int, frame: memoryview) -> None:
        """A frame that the phase allows. Positions first: everything else is rare."""
        if kind in HEALING_FRAMES:
            self._healing.frame(Type(kind), frame)
            return
        body = body_of(frame)
        if kind == _POSITIONS:
            self._acknowledged(unpack_positions(body))
        else:
            self._rare(Type(kind), body)

    def _rare(self, kind: Type, body: memoryview) -> None:
        match kind:
            case Type.WELCOME:
                self.progress.become_planning()
                self._expect()
                self.link.welcome(BUFFER)
                self.link.spawn(self._plan(unpack_welcome(body)))
            case Type.REFUSED:
                self.handing_over.ended(Handed.REFUSED)
                self.link.refused(unpack_refusal(body))
            case Type.LEASE_ASK:
                self._leases.asked(body)
            case Type.HANDED_OVER:
                self.handing_over.taken()
            case Type.DIVERGED:
                self._volume.found_differences.told(self._mirror, unpack_number(body))
            case Type.SUSPECT_AT:
                self.suspect.stored(unpack_number(body))
            case Type.REQUEST_BLOCKS:
                self._blocks.request(body)
            case Type.COMPARE_OPENED | Type.COMPARED | Type.FIXED:
                self.comparison.frame(kind, body)
            case Type.BASE_AT:
                assert self.progress.base is not None
                self.progress.base.stored(unpack_number(body))
                self.progress.base_arrives()
            case Type.MOMENT_AT:
                assert self.progress.base is not None
                self.progress.base.moments_stored(unpack_number(body))
                self.progress.base_arrives()
            case Type.BASE_DONE:
                assert self.progress.base is not None
                self.progress.base.finished(unpack_number(body))

    def settled(self) -> None:
        """Nothing is kept back."""

    def writable(self) -> None:
        if self.progress.log is not None:
            self.progress.log.send_available()

    # Planning

    async def _plan(self, welcome: Welcome) -> None:
        assert self._hello is not None
        self._advertised = welcome.advertised
        self.suspect.version = welcome.version
        self.comparison.version = welcome.version
        self._volume.refuse_same_copy(self._mirror, welcome.node)
        if await self._ordered.has_taken_back(welcome):
            self._end_and_go_on("It has taken back what it wrote alone.")
            return
        facts = await gather_facts(self._volume, self._mirror, self._hello, welcome)
        plan = await self._ordered.judged(plan_catch_up(facts, welcome), welcome)
        self._node_there = welcome.node
        self._version, self._seeded = welcome.version, welcome.seeded
        base_plan = None
        if plan.rule == Rule.BASE:
            base_plan = await self._volume.plan_base(self._mirror, welcome.version >= MOMENTS)
            facts = replace(facts, need=base_plan.need)
            plan = plan_catch_up(facts, welcome)
        self.progress.planned(plan, base_plan)
        self._planned(plan, base_plan, welcome)
        if plan.rule.refuses:
            if base_plan is not None:
                await self._volume.unpin_base(self._mirror)
            raise RevolumeError(plan.rule.label, plan.reason, plan.hint)
        if base_plan is not None:
            await self._begin_base(facts, base_plan)
        elif plan.rule.jumps:
            await self._begin_difference(plan.rule, facts, welcome)
        elif plan.rule == Rule.COMMON_POINT:
            self._let_take_back(Begin(plan.rule, facts.at_target_end, facts.pin, None, None, facts.common))
        else:
            self._go_on(Begin(plan.rule, facts.at_target_end, facts.pin, None, None, facts.common), welcome)

    async def _begin_base(self, facts: SourceFacts, plan: BasePlan) -> None:
        """What both ends decided by is what was known then: the point where it begins comes with the start."""
        start = await base_start(self._volume, plan)
        begin = Begin(Rule.BASE, facts.at_target_end, facts.pin, start, plan.need)
        log, lag = self._begin(begin, start.end, NOTHING)
        self._send_base(log, lag, 0)
        self._mirror_from_now()

    async def _begin_difference(self, rule: Rule, facts: SourceFacts, welcome: Welcome) -> None:
        """From the point at which the copy stands to that of a snapshot that it lacks, or to one that is made now;
        or to the one to which an earlier session began to send."""
        stands = welcome.points[0]
        since, costs = (stands, NO_COSTS) if facts.common is None else (facts.common.point, facts.common.costs)
        plan = await self._volume.differences.begin(self._mirror, since, welcome.base, stands)
        point, start = plan.point, await base_start(self._volume, plan)
        pin = Pin(point.number, point.position, point.chain)
        self._by_snapshot = any(named.point == point.number for named in plan.names)
        begin = Begin(rule, facts.at_target_end, pin, start, None, facts.common)
        self._volume.connected(self._mirror, standing(welcome))
        self.link.send_control(Type.BEGIN, pack_begin(begin, SOURCE.highest))
        self._healing.begin(self._version, self._volume.healing)
        base = BaseSender(
            self.link,
            point,
            lambda upto: open_jump(self._volume, self.comparison, rule, since, upto, stands),
            size=start.size,
            next_block=welcome.next_block if welcome.base == pin else 0,
            sent=self.progress.counters.difference_sent,
            done=lambda: self._difference_done(point),
            pacer=self.progress.pacer,
        )
        self.progress.become_sending_difference(base, costs.difference)
        self._expect()
        self.link.spawn(base.run())

    def _let_take_back(self, begin: Begin) -> None:
        """The copy ends this session when it has gone back."""
        self.goes_on = "It takes back what it wrote alone."
        self.link.send_control(Type.BEGIN, pack_begin(begin, SOURCE.highest))

    def _difference_done(self, point: Point) -> None:
        self.goes_on = f"The difference up to cp{point.number} is there."
        self.link.spawn(self._ordered.difference_sent(last=not self._by_snapshot))

    def _end_and_go_on(self, why: str) -> None:
        """This session has done what it began for; the next one begins at once."""
        self.goes_on = why
        self.link.spawn(self.link.close())

    def _go_on(self, begin: Begin, welcome: Welcome) -> None:
        """The copy goes on from where it is. It has at least what is durable there; its first report says the
        rest."""
        log, lag = self._begin(begin, welcome.end, standing(welcome))
        if begin.rule == Rule.RESUME_BASE:
            self._send_base(log, lag, welcome.next_block)
        elif self._mirror.joined:
            self.progress.become_joined(self._now_ns, log, lag)
            self._expect()
        else:
            self.progress.become_joining(self._now_ns, log, lag)
            self._expect()
        self._mirror_from_now()
        recorded = self._mirror.node, self._mirror.state.advertised
        if self.progress.phase is Phase.JOINED and (
            self._mirror.log_given_up or recorded != (welcome.node, welcome.advertised)
        ):  # what was kept for it had been given up, or an older release noted no node
            self.link.spawn(self._volume.joined(self._mirror, welcome.node, welcome.advertised))
        elif self.progress.phase is Phase.JOINING:
            self._base_is_there()

    def _begin(self, begin: Begin, end: End, there: Positions) -> tuple[LogSender, Lag]:
        """Tell the volume and the target; the log that goes out behind ``end``."""
        self._volume.connected(self._mirror, there)
        self.link.send_control(Type.BEGIN, pack_begin(begin, SOURCE.highest))
        self._healing.begin(self._version, self._volume.healing)
        feed = self._volume.feed
        address = feed.address_behind(end.position)
        lag = Lag(feed.end_address if address is None else address)
        counters, upto = self.progress.counters, None
        if begin.rule == Rule.LOG_TO_CUT and begin.common is not None:
            upto, cut = begin.common.cut, self._mirror.cut
            self._cut_point = 0 if cut is None else cut.point
        log = LogSender(self.link, feed, end, counters, upto=upto, advanced=self._durable.log_advanced, lag=lag)
        self._durable.follow(log)
        return log, lag

    def _send_base(self, log: LogSender, lag: Lag, next_block: int) -> None:
        point, counters, moments = self._volume.base_point(self._mirror), self.progress.counters, None
        assert point is not None
        if self._version >= MOMENTS and not next_block:
            moments = MomentSender(self.link, self._volume, point, counters, self.progress.pacer)
        base = BaseSender(
            self.link,
            point,
            partial(open_base, self._volume, self.comparison if self._seeded else None),
            size=self._volume.size_at(point.write),
            next_block=next_block,
            sent=counters.base_sent,
            done=self._base_done,
            moments=moments,
            pacer=self.progress.pacer,
        )
        self.progress.become_sending_base(log, lag, base, self._now_ns)
        self._expect()
        self.link.spawn(base.run())

    def _mirror_from_now(self) -> None:
        log = self.progress.log
        assert log is not None
        self._mirror.ask_durable = self._durable.want
        self._stop_listening = self._volume.feed.listen(self._wake, log.send_early)
        self._wake()
        self._durable.want(self._volume.durable_wanted(self._mirror))

    # From the base to joining

    def _base_done(self) -> None:
        self.progress.become_joining(self._now_ns)
        self._expect()
        self._wake()
        self._base_is_there(self._version >= MOMENTS)

    def _base_is_there(self, with_moments: bool = False) -> None:
        self.link.spawn(self._volume.based(self._mirror, with_moments))
        self._join_if_caught_up()

    def _join_if_caught_up(self) -> None:
        if self._joining is None and self.progress.may_join(self._now_ns):
            self._joining = self.link.spawn(self._join())

    async def _join(self) -> None:
        await self.suspect.send_all(self._volume.suspect.periods, self._mirror)
        await self._volume.joined(self._mirror, self._node_there, self._advertised)
        if self._mirror.joined:  # it may have been detached meanwhile
            self.progress.become_joined(self._now_ns)
            self._expect()

    # Mirroring

    def _wake(self) -> None:
        """Send what was appended, and join the mirror if it has caught up."""
        log, lag, feed = self.progress.log, self.progress.lag, self._volume.feed
        assert log is not None and lag is not None
        log.send_available()
        lag.appended(feed.end, self._now_ns)
        if log.caught_up:
            lag.sent(feed.end, feed.end_address)

    def _acknowledged(self, now: Positions) -> None:
        self.progress.acknowledge(now)
        self._volume.acknowledged(self._mirror, now)
        if self.progress.phase is Phase.JOINING:
            self._join_if_caught_up()
        self._leases.follow(self.progress, self._now_ns)
        if is_level(self.progress, self._now_ns):
            self._ordered.level()
        if self._cut_point and now.agreed_point >= self._cut_point and now.durable >= now.agreed_position:
            self._end_and_go_on("The log up to where the link was lost is there.")
        if now.durable >= now.agreed_position:
            self._hold.agreed(now.agreed_point)

    # The end

    def ended(self, reason: str) -> None:
        self.handing_over.ended(Handed.SILENT)
        self.comparison.ended()
        if self.progress.phase is Phase.GREETING and self.link.refusal is None:
            reason = f"{reason} {UNANSWERED}"
        self._stop_listening()
        self._healing.end()
        self._leases.end()
        self.suspect.end()
        if self._mirror.ask_durable == self._durable.want:
            self._mirror.ask_durable = _nobody_listens
        if not self.ended_because.done():
            self.ended_because.set_result(reason)


def _nobody_listens(position: Position) -> None:
    """The next session asks for what is wanted then."""
