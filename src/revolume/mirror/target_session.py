"""The target's side of one connection, from its greeting to its end.

    greeting    HELLO, FETCH or EXAMINE; nothing else, and not for long
    deciding    WELCOME was sent; BEGIN says by which rule it goes on, and the same facts must give that rule here
    mirroring   a base, if there is none, and then the log; positions go back
    tail        the other way round: our log is sent to a primary that opens

It owns no algorithm: ``Intake`` stores the log, ``BaseIntake`` the base, ``Reporter`` says how far we are,
``Asking`` asks for blocks whole, ``Tail`` sends. Who may become the source is for the server to say
(``Admission``).
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.network import Wire
from revolume.mirror.asking import Asking
from revolume.mirror.base_intake import BaseIntake
from revolume.mirror.decide import Decision, Rule, Source, decide
from revolume.mirror.frames import CHECK_SIZE, Broken, Type, body_of
from revolume.mirror.intake import Intake, log_frames
from revolume.mirror.link import PING_BODY, Link, unbroken
from revolume.mirror.messages import (
    BASE_END,
    FETCH,
    NUMBER,
    Begin,
    Fetch,
    Hello,
    Welcome,
    pack_welcome,
    unpack_base_end,
    unpack_begin,
    unpack_fetch,
    unpack_hello,
    unpack_number,
    unpack_refusal,
)
from revolume.mirror.parts import Secondary, Shelf
from revolume.mirror.reporter import Reporter
from revolume.mirror.rows import BASE_BODY_MAX, WHOLE_BODY_MAX
from revolume.mirror.tail import Tail

GREETING_SECONDS: Final = 10.0
HELLO_BODY_MAX: Final = 4096
REFUSED_BODY_MAX: Final = 4096
BEGIN_BODY_MAX: Final = 4 << 20
"""An opening of the volume takes 40 bytes of it."""

GREETING: Final[dict[int, int]] = {
    Type.HELLO: HELLO_BODY_MAX,
    Type.FETCH: FETCH.size + CHECK_SIZE,
    Type.EXAMINE: FETCH.size + CHECK_SIZE,
    Type.PING: PING_BODY,
}
DECIDING: Final[dict[int, int]] = {
    Type.BEGIN: BEGIN_BODY_MAX,
    Type.REFUSED: REFUSED_BODY_MAX,
    Type.PING: PING_BODY,
}
WITH_LOG: Final[dict[int, int]] = {
    Type.SYNC: NUMBER.size + CHECK_SIZE,
    Type.WHOLE: WHOLE_BODY_MAX,
    Type.REFUSED: REFUSED_BODY_MAX,
    Type.PING: PING_BODY,
}
WITH_BASE: Final[dict[int, int]] = {Type.BASE: BASE_BODY_MAX, Type.BASE_END: BASE_END.size + CHECK_SIZE}
TAIL: Final[dict[int, int]] = {Type.REFUSED: REFUSED_BODY_MAX, Type.PING: PING_BODY}

_OF_THE_LOG = (int(Type.LOG), int(Type.LOG_WIDE), int(Type.EPOCH))


class Admission(Protocol):
    """The server, as far as its sessions see it."""

    async def admit(self, session: TargetSession, hello: Hello) -> Welcome:
        """Make this session the source's: the one before has been drained and fenced. Refused otherwise."""

    async def admit_fetch(self, session: TargetSession, fetch: Fetch) -> Secondary:
        """The volume whose log may be sent."""

    async def admit_examine(self, session: TargetSession, asked: Fetch) -> Welcome:
        """What this mirror has, for somebody who only asks. Nobody is fenced for it."""

    async def begun(self, session: TargetSession, hello: Hello, decision: Decision) -> None:
        """It mirrors from now on."""

    async def whole(self, session: TargetSession) -> None:
        """Its base has been completed."""

    def ended(self, session: TargetSession, reason: str) -> None:
        """Once."""


class TargetSession:
    """See the module's text."""

    def __init__(self, host: Host, wire: Wire, shelf: Shelf, admission: Admission) -> None:
        self.link = Link(host, wire, GREETING)
        self.hello: Hello | None = None
        self._shelf = shelf
        self._admission = admission
        self._welcome: Welcome | None = None
        self._secondary: Secondary | None = None
        self._intake: Intake | None = None
        self._reporter: Reporter | None = None
        self._asking = Asking(self.link)
        self._base: BaseIntake | None = None
        self._tail: Tail | None = None
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen for the greeting."""
        self.link.start(self)
        self._watch = self.link.spawn(self._wait_for_greeting())

    async def _wait_for_greeting(self) -> None:
        await self.link.host.clock.sleep(GREETING_SECONDS)
        raise Broken(f"It said nothing for {GREETING_SECONDS:.0f} seconds.")

    # What arrives

    def frame(self, kind: int, frame: memoryview) -> None:
        """The log first: everything else is rare."""
        if kind in _OF_THE_LOG:
            assert self._intake is not None
            self._intake.frame(kind, frame)
        else:
            self._rare(Type(kind), frame)

    def _rare(self, kind: Type, frame: memoryview) -> None:
        match kind:
            case Type.HELLO:
                self._greeted(unpack_hello(body_of(frame)))
            case Type.FETCH:
                self._asked(unpack_fetch(body_of(frame)))
            case Type.EXAMINE:
                self._leave_greeting()
                self.link.spawn(self._examine(unpack_fetch(body_of(frame))))
            case Type.BEGIN:
                self._decided(unpack_begin(body_of(frame)))
            case Type.REFUSED:
                self.link.refused(unpack_refusal(body_of(frame)))
            case Type.SYNC:
                assert self._reporter is not None
                self._reporter.want(unpack_number(body_of(frame)))
            case Type.WHOLE:
                self._asking.frame(frame)
            case Type.BASE:
                assert self._base is not None
                self._base.frame(frame)
            case Type.BASE_END:
                assert self._base is not None
                self._base.end(unpack_base_end(body_of(frame))[0])

    def settled(self) -> None:
        if self._intake is not None:
            self._intake.settle()

    def writable(self) -> None:
        if self._tail is not None:
            self._tail.pump()

    # Greeting and deciding: rare, so nothing is received while they wait for the disk

    def _greeted(self, hello: Hello) -> None:
        self._leave_greeting()
        self.hello = hello
        self.link.spawn(self._greet(hello))

    def _asked(self, fetch: Fetch) -> None:
        self._leave_greeting()
        self.link.spawn(self._send_tail(fetch))

    def _leave_greeting(self) -> None:
        self.link.hold()
        if self._watch is not None:
            self._watch.cancel()

    async def _greet(self, hello: Hello) -> None:
        welcome = await self._admission.admit(self, hello)
        self._welcome = welcome
        self.link.expected = DECIDING
        self.link.session = draw_session(self.link.host)
        self.link.welcome()
        self.link.send_control(Type.WELCOME, pack_welcome(welcome))
        self.link.go_on()

    def _decided(self, begin: Begin) -> None:
        hello, welcome = self.hello, self._welcome
        assert hello is not None
        assert welcome is not None
        decision = decide(Source(hello, begin.at_target_end, begin.pin, begin.need), welcome)
        if decision.rule != begin.rule or decision.rule.refuses:
            raise RevolumeError(
                "mirror-disagreement",
                f"The source decided by rule {begin.rule}, the target by {decision.rule}: {decision.reason}",
                "Both nodes should run the same version.",
            )
        if (decision.rule == Rule.BASE) != (begin.start is not None):
            raise Broken("A base begins with its point, and nothing else does.")
        self.link.hold()
        self.link.spawn(self._begin(hello, begin, decision))

    async def _begin(self, hello: Hello, begin: Begin, decision: Decision) -> None:
        if begin.start is not None:
            secondary = await unbroken(self._shelf.create(hello.volume, hello.name, begin.start))
        else:
            assert self._shelf.secondary is not None
            secondary = self._shelf.secondary
        await secondary.bound.told(hello.acknowledged)
        await self._admission.begun(self, hello, decision)
        self._mirror(hello, secondary)
        self.link.go_on()

    def _mirror(self, hello: Hello, secondary: Secondary) -> None:
        """From here on the log is stored as it comes."""
        if secondary.failure is not None:
            raise secondary.failure
        link = self.link
        reporter = Reporter(link, secondary)
        self._secondary, self._reporter = secondary, reporter
        self._intake = Intake(link, secondary, hello.volume, secondary.end, reporter.report)
        link.expected = WITH_LOG | log_frames(hello.largest_blocks)
        if secondary.base is not None:
            self._base = BaseIntake(link, secondary, secondary.base.point, secondary.base.next_block, self._whole)
            link.expected = link.expected | WITH_BASE
        secondary.on_durable = self._on_durable
        secondary.on_agreed = self._on_agreed
        secondary.on_failure = link.refuse
        secondary.ask_whole = self._asking.ask
        reporter.start()
        secondary.resume()

    async def _whole(self) -> None:
        await self._admission.whole(self)

    def _on_durable(self, position: int) -> None:
        assert self._reporter is not None
        self._reporter.report()

    def _on_agreed(self, point: Point) -> None:
        assert self._reporter is not None
        self._reporter.report()

    # A tail for a primary that opens

    async def _send_tail(self, fetch: Fetch) -> None:
        secondary = await self._admission.admit_fetch(self, fetch)
        self.link.expected = TAIL
        self.link.session = draw_session(self.link.host)
        self.link.welcome()
        self._tail = Tail(self.link, secondary, self._shelf.node)
        await self._tail.begin(fetch)
        self.link.go_on()

    # What there is, for somebody who only asks

    async def _examine(self, asked: Fetch) -> None:
        welcome = await self._admission.admit_examine(self, asked)
        self.link.session = draw_session(self.link.host)
        self.link.send_control(Type.WELCOME, pack_welcome(welcome))
        await self.link.close()

    # The end

    def ended(self, reason: str) -> None:
        self._asking.end()
        secondary = self._secondary
        if secondary is not None and secondary.on_durable == self._on_durable:
            secondary.on_durable = _nobody_cares
            secondary.on_agreed = _nobody_cares
            secondary.on_failure = _nobody_cares
            secondary.ask_whole = None
        self._admission.ended(self, reason)


def _nobody_cares(value: object) -> None:
    """No source is there to be told."""


def draw_session(host: Host) -> int:
    """A session id that nobody guesses; never 0."""
    return int.from_bytes(host.entropy.token(8), "little") or 1
