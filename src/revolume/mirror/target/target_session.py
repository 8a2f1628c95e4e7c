"""The target's side of one connection, from its greeting to its end.

What the session waits for, which frames may come then, and which state may follow on which, says
``session_states.py``. A frame out of place ends the session; nothing of it is used.

The session owns no algorithm: ``Preparation`` makes the copy ready for what comes, ``LogReceiver`` stores the log,
``BaseReceiver`` the base, ``Reporter`` says how far the copy is, ``BlockRequester`` asks for blocks,
``TailSender`` sends the end of the log. ``Admission``, the server, says who may become the source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.network import Wire
from revolume.mirror.catch_up_plan import CatchUpPlan, Rule, SourceFacts, plan_catch_up
from revolume.mirror.copy_protocols import CopyDirectory, RecalledMoment, TargetVolume
from revolume.mirror.healing import LinkHealing
from revolume.mirror.link import Link
from revolume.mirror.target.base_receiver import BaseReceiver
from revolume.mirror.target.block_requester import BlockRequester
from revolume.mirror.target.block_stores import BaseStore
from revolume.mirror.target.comparison import ComparisonResponder
from revolume.mirror.target.handover import answer_handover
from revolume.mirror.target.in_sync_lease import InSyncLease
from revolume.mirror.target.inquiry import Inquiry, draw_session
from revolume.mirror.target.log_receiver import LogReceiver
from revolume.mirror.target.preparation import Preparation
from revolume.mirror.target.reporter import Reporter
from revolume.mirror.target.session_states import FRAMES, TRANSITIONS, State
from revolume.mirror.target.suspect_receiver import SuspectReceiver
from revolume.mirror.target.tail_sender import TailSender
from revolume.mirror.wire.begin_messages import Begin, EpochEntry, unpack_begin
from revolume.mirror.wire.examine_messages import Examined
from revolume.mirror.wire.frames import ProtocolError, Type, body_of
from revolume.mirror.wire.greeting_messages import Hello, Welcome, pack_welcome, unpack_hello
from revolume.mirror.wire.handover_messages import unpack_handover
from revolume.mirror.wire.limits import LOG_TYPES, expecting
from revolume.mirror.wire.recall_messages import (
    Moments,
    Recall,
)
from revolume.mirror.wire.session_messages import unpack_base_end, unpack_refusal
from revolume.mirror.wire.tail_messages import Fetch, unpack_fetch
from revolume.volume.metadata.former import Former

GREETING_SECONDS: Final = 10.0
EPOCH_END: Final = 1 << 62
"""No volume is opened so often; above it a promotion would have no number left."""


_OF_THE_LOG: Final = tuple(map(int, LOG_TYPES))


class Admission(Protocol):
    """The server, as far as its sessions see it. ``lease``: this node's."""

    lease: InSyncLease

    async def admit(self, session: TargetSession, hello: Hello) -> Welcome:
        """Make this session the source's: the one before has been drained and fenced. Refused otherwise."""

    async def admit_fetch(self, session: TargetSession, fetch: Fetch) -> TargetVolume:
        """The volume whose log may be sent. Refused: this peer may not have it."""

    async def admit_examine(self, session: TargetSession, asked: Fetch) -> Examined:
        """What this node is and has, for a peer that only asks. Nobody is fenced for it."""

    async def admit_moments(self, session: TargetSession, asker: Fetch) -> Moments:
        """The moments that this node holds. Refused: this peer may not know."""

    async def admit_recall(self, session: TargetSession, asked: Recall) -> RecalledMoment:
        """A moment, held open. Nobody is fenced for it. Refused: this peer may not have it."""

    def handed_over(self, session: TargetSession, former: Former) -> Callable[[], None]:
        """The source hands over: what makes this node the primary, to be called once that is answered. Nobody else
        is answered meanwhile. Refused: this node can't become one."""

    async def begun(self, session: TargetSession, hello: Hello, plan: CatchUpPlan) -> None:
        """The session mirrors from now on."""

    async def whole(self, session: TargetSession) -> None:
        """The base of the copy has been completed."""

    def tell(self, sentence: str) -> None:
        """For the event log."""

    def ended(self, session: TargetSession, reason: str) -> None:
        """The session is over; called once."""


def believable(named: Sequence[EpochEntry], own: tuple[int, bytes]) -> bool:
    """Whether these may be the openings that a source knows which is in the opening ``own``: the copy keeps them,
    and as a primary it would go on above the newest."""
    numbers = [each.number for each in named]
    ordered = all(low < high for low, high in zip([0, *numbers], numbers, strict=False))
    newest = (named[-1].number, named[-1].reign) if named else own
    return ordered and newest[0] <= own[0] < EPOCH_END and (newest[0] < own[0] or newest == own)


class TargetSession:
    """One connection at a node that listens. ``directory``: where a copy is kept, None at a primary, which admits
    nobody. ``hello`` is what the source said of itself, None until then."""

    def __init__(self, host: Host, wire: Wire, directory: CopyDirectory | None, admission: Admission) -> None:
        self.state = State.GREETING
        self.link = Link(host, wire, expecting(FRAMES[self.state]))
        self.hello: Hello | None = None
        self._directory = directory
        self._admission = admission
        self._welcome: Welcome | None = None
        self._volume: TargetVolume | None = None
        self._log: LogReceiver | None = None
        self._reporter: Reporter | None = None
        self._blocks = BlockRequester(self.link)
        self._suspect = SuspectReceiver(self.link)
        self._healing = LinkHealing(self.link, "the source")
        self._comparison: ComparisonResponder | None = None
        self._base: BaseReceiver | None = None
        self._tail: TailSender | None = None
        self._inquiry = Inquiry(
            self.link,
            examined=partial(admission.admit_examine, self),
            moments=partial(admission.admit_moments, self),
            moment=partial(admission.admit_recall, self),
            recalling=partial(self._move, State.RECALLING),
        )
        self._greeting_timer: asyncio.Task[None] | None = None

    @property
    def examines(self) -> bool:
        """The peer only asks."""
        return self._inquiry.begun

    def start(self) -> None:
        """Listen for the greeting."""
        self.link.start(self)
        self._greeting_timer = self.link.spawn(self._wait_for_greeting())

    async def _wait_for_greeting(self) -> None:
        await self.link.host.clock.sleep(GREETING_SECONDS)
        raise ProtocolError(f"It said nothing for {GREETING_SECONDS:.0f} seconds.")

    def _move(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state = state
        self.link.expected = expecting(FRAMES[state], self.hello.largest_blocks if self.hello is not None else 0)

    # What arrives

    def frame(self, kind: int, frame: memoryview) -> None:
        """A frame that the state allows. The log comes first: all else is rare."""
        if kind in _OF_THE_LOG:
            assert self._log is not None
            self._log.frame(kind, frame)
        else:
            self._rare(Type(kind), frame)

    def _rare(self, kind: Type, frame: memoryview) -> None:
        match kind:
            case Type.HELLO:
                self._greeted(unpack_hello(body_of(frame)))
            case Type.FETCH:
                self._asked_for_tail(unpack_fetch(body_of(frame)))
            case Type.EXAMINE | Type.MOMENTS_ASK | Type.RECALL:
                self._leave_greeting()
                self._inquiry.begin(kind, frame)
            case Type.BEGIN:
                self._begin(unpack_begin(body_of(frame), self._version))
            case Type.REFUSED:
                self.link.refused(unpack_refusal(body_of(frame)))
            case Type.SYNC | Type.LEASE:
                assert self._reporter is not None
                self._reporter.asked(kind, body_of(frame))
            case Type.HANDOVER:
                assert self.hello is not None
                assert self._volume is not None
                self._move(State.HANDING_OVER)
                handover = unpack_handover(body_of(frame))
                accept = partial(self._admission.handed_over, self, Former(self.hello.node, handover.address))
                self.link.spawn(answer_handover(self.link, self._volume, handover, accept))
            case Type.SUSPECT:
                self._suspect.frame(body_of(frame))
            case Type.HEAL_ASK | Type.HEALED:
                self._healing.frame(kind, frame)
            case Type.BLOCKS:
                self._blocks.frame(frame)
            case Type.COMPARE_ASK | Type.RECALL_BLOCKS if self.examines:
                self._inquiry.frame(kind, frame)
            case Type.COMPARE_OPEN | Type.COMPARE_ASK | Type.COMPARE_END | Type.FIXUP | Type.FIXUP_AT:
                assert self._comparison is not None
                self._comparison.frame(kind, frame)
            case Type.MOMENT:
                assert self._base is not None
                self._base.moment(frame)
            case Type.BASE:
                assert self._base is not None
                self._base.frame(frame)
            case Type.BASE_END:
                assert self._base is not None
                self._base.end(unpack_base_end(body_of(frame))[0])

    def settled(self) -> None:
        if self._log is not None:
            self._log.settle()

    def writable(self) -> None:
        if self._tail is not None:
            self._tail.send_available()

    # Greeting and deciding: rare, so nothing is received while they wait for the disk

    def _greeted(self, hello: Hello) -> None:
        self._leave_greeting()
        self.hello = hello
        self.link.spawn(self._greet(hello))

    def _asked_for_tail(self, fetch: Fetch) -> None:
        self._leave_greeting()
        self.link.spawn(self._send_tail(fetch))

    def _leave_greeting(self) -> None:
        self.link.hold()
        self._move(State.ADMITTING)
        if self._greeting_timer is not None:
            self._greeting_timer.cancel()

    async def _greet(self, hello: Hello) -> None:
        welcome = await self._admission.admit(self, hello)
        self._welcome = welcome
        self._move(State.DECIDING)
        self.link.session = draw_session(self.link.host)
        self.link.welcome()
        self.link.send_control(Type.WELCOME, pack_welcome(welcome))
        self.link.go_on()

    @property
    def _version(self) -> int:
        assert self._welcome is not None
        return self._welcome.version

    def _begin(self, begin: Begin) -> None:
        hello, welcome = self.hello, self._welcome
        assert hello is not None
        assert welcome is not None
        openings = begin.start.epochs if begin.start is not None else ()
        facts = SourceFacts(hello, begin.at_target_end, begin.pin, begin.need, begin.common, openings)
        plan = plan_catch_up(facts, welcome)
        if plan.rule != begin.rule or plan.rule.refuses:
            raise RevolumeError(
                "mirror-disagreement",
                f"The source decided by rule {begin.rule}, the target by {plan.rule}: {plan.reason}",
                "Both nodes should run the same version.",
            )
        if (plan.rule == Rule.BASE or plan.rule.jumps) != (begin.start is not None):
            raise ProtocolError("A base and a difference begin with their point, and nothing else does.")
        if begin.start is not None and not believable(begin.start.epochs, (hello.epoch, hello.reign)):
            raise ProtocolError("Its base names openings that are newer than its own, or in no order.")
        self.link.hold()
        self._move(State.PREPARING)
        self.link.spawn(self._prepare(hello, begin, plan))

    async def _prepare(self, hello: Hello, begin: Begin, plan: CatchUpPlan) -> None:
        directory, welcome = self._directory, self._welcome
        assert directory is not None
        assert welcome is not None
        begun = partial(self._admission.begun, self, hello, plan)
        preparation = Preparation(directory, hello, welcome, begin, begun)
        if plan.rule == Rule.COMMON_POINT:
            self._admission.tell(await preparation.take_back())
            await self.link.close()
            return
        if plan.rule.jumps:
            whole = partial(self._admission.whole, self)  # the source ends the session when it hears of that
            self._base = BaseReceiver(self.link, *await preparation.difference(), whole)
            self._move(State.RECEIVING_DIFFERENCE)
            self._heal_with_source(directory.secondary)
        else:
            self._mirror(hello, await preparation.log())
        self.link.go_on()

    def _mirror(self, hello: Hello, volume: TargetVolume) -> None:
        """From here on the log is stored as it comes."""
        if volume.failure is not None:
            raise volume.failure
        link, base = self.link, volume.base
        reporter = Reporter(link, volume, self._admission.lease)
        self._volume, self._reporter = volume, reporter
        self._log = LogReceiver(link, volume, hello.volume, volume.end, reporter.report)
        if base is None:
            self._move(State.MIRRORING)
        else:
            store = BaseStore(volume, self._welcome is not None and self._welcome.seeded)
            self._base = BaseReceiver(link, store, base.point, base.next_block, self._base_complete)
            self._move(State.RECEIVING_BASE)
        self._heal_with_source(volume)
        volume.attach(self)
        reporter.start()
        self._suspect.begin(volume, self._version)
        volume.resume()

    def _heal_with_source(self, volume: TargetVolume | None) -> None:
        """And answer what it asks of digests."""
        if volume is not None and self._directory is not None:
            opened, version = self._directory.open_compared, self._version
            self._comparison = ComparisonResponder(self.link, volume, opened, version)
            self._healing.begin(version, volume.healing)

    async def _base_complete(self) -> None:
        await self._admission.whole(self)
        self._base = None
        self._move(State.MIRRORING)

    # What the copy tells and asks: see ``source_link.SourceLink``

    def on_durable(self, position: Position) -> None:
        """Its durable position has moved."""
        assert self._reporter is not None
        self._reporter.report()

    def on_agreed(self, point: Point) -> None:
        """It stands at this point."""
        assert self._reporter is not None
        self._reporter.report()
        self._suspect.tell()

    def on_refused(self, error: RevolumeError) -> None:
        """It takes no more points."""
        self.link.refuse(error)

    async def fetch_blocks(self, point: Point, blocks: list[int]) -> dict[int, bytes | None]:
        """Ask the source for these blocks whole."""
        return await self._blocks.ask(point, blocks)

    # A tail for a primary that opens

    async def _send_tail(self, fetch: Fetch) -> None:
        volume = await self._admission.admit_fetch(self, fetch)
        self._move(State.SENDING_TAIL)
        self.link.session = draw_session(self.link.host)
        self.link.welcome()
        assert self._directory is not None
        self._tail = TailSender(self.link, volume, self._directory.node)
        await self._tail.begin(fetch)
        self.link.go_on()

    # The end

    def ended(self, reason: str) -> None:
        self._inquiry.ended()
        self._blocks.end()
        self._healing.end()
        if self._comparison is not None:
            self._comparison.ended()
        if self._volume is not None:
            self._volume.detach(self)
        self._admission.ended(self, reason)
