"""One mirror, at its source: it is connected to, again and again for ever, and each connection is a session.

After a loss it is tried again soon, and less often while nothing gets through; a refusal says that somebody has to
do something, so it is tried rarely, and its sentence is the mirror's status. Nothing is told twice in a row.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.clock import within
from revolume.host.network import Wire
from revolume.host.words import spoken
from revolume.log.transfer import BLOCK
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.counters import Counters
from revolume.mirror.decide import Decision
from revolume.mirror.messages import Welcome
from revolume.mirror.parts import Mirror, Origin
from revolume.mirror.source_session import SourceSession
from revolume.mirror.status import MirrorState, MirrorStatus
from revolume.volume.events import EventKind

BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
REFUSED_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 10.0
STEADY_SECONDS: Final = 5.0
"""A session that has lasted this long was none that failed, also if nothing had to be sent."""
IN_SYNC_LAG_SECONDS: Final = 5.0
MODES: Final = {1: "sync", 2: "async"}


class MirrorSource:
    """See the module's text. ``tell`` takes sentences; ``note`` takes them with their kind, in its place."""

    def __init__(
        self,
        host: Host,
        origin: Origin,
        mirror: Mirror,
        address: str,
        node: bytes,
        context: ssl.SSLContext | None,
        tell: Callable[[str], None],
        note: Callable[[str, EventKind], None] | None = None,
    ) -> None:
        self._host = host
        self._origin = origin
        self._mirror = mirror
        self._address = address
        self._node = node
        self._context = context
        self._note = note or (lambda sentence, kind: tell(sentence))
        self._told = ""
        self._sentence = f"Connecting to {address}."
        self._decision: Decision | None = None
        self._refused = False
        self._failures = 0
        self._refusals = 0
        self._warning = ""
        self._waiting: asyncio.Task[None] | None = None
        self._lost_ns = host.clock.monotonic_ns()
        self._session: SourceSession | None = None
        self._task: asyncio.Task[None] | None = None
        self.plan: BasePlan | None = None
        """Of the base that is, or was, sent since this node was started."""
        self._base_stored = 0
        """Bytes of it that sessions before this one brought over."""
        self._lag_address: int | None = None
        """In this log, behind what the mirror had when it was last connected."""
        self.counters = Counters()

    def start(self) -> None:
        """Connect, and go on doing so."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End in order: what was sent arrives."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._session is not None:
            await self._session.link.close()
            await self._session.link.finished()

    async def _run(self) -> None:
        while True:
            steady, began = False, self._host.clock.monotonic_ns()
            try:
                steady = await self._connect()
            except (OSError, RevolumeError) as error:
                sentence = f"Mirror {self._mirror.name} at {self._address} cannot be reached: {spoken(error)}"
                self._say(sentence, EventKind.MIRROR_LOST)
            steady = steady or self._host.clock.monotonic_ns() - began > STEADY_SECONDS * 1e9
            self._failures = 0 if steady else self._failures + 1
            self._waiting = asyncio.ensure_future(self._host.clock.sleep(self._pause()))
            try:
                await asyncio.wait([self._waiting])
            finally:
                self._waiting.cancel()

    async def again(self) -> None:
        """Whatever was agreed on with the node at the address holds no more: greet it anew, at once."""
        if self._session is not None:
            await self._session.link.close()
        if self._waiting is not None:
            self._waiting.cancel()

    async def _connect(self) -> bool:
        """One connection, until it ends; whether it has got anywhere."""
        peer = self._mirror.peer or None
        connecting = self._host.network.connect(self._address, tls=self._context, server_hostname=peer)
        try:
            wire = await within(self._host.clock, CONNECT_SECONDS, connecting)
        except TimeoutError:
            raise ConnectionError(f"no answer within {CONNECT_SECONDS:.0f} seconds") from None
        return await self._mirrored(wire)

    async def _mirrored(self, wire: Wire) -> bool:
        self._decision = None
        session = SourceSession(
            self._host, wire, self._origin, self._mirror, self._node, self.counters, self._decided
        )
        self._session = session
        session.start()
        reason = await session.ended_because
        await session.link.finished()
        self._session = None
        self._base_stored += session.base_stored
        if session.pump is not None:
            self._lag_address = session.lag.address
            self._lost_ns = self._host.clock.monotonic_ns()
        self._refused = session.link.refusal is not None
        self._refusals += self._refused
        ours = self._decision is not None and self._decision.rule.refuses
        kind = EventKind.MIRROR_REFUSED if self._refused or ours else EventKind.MIRROR_LOST
        verb = "is refused" if ours else "refuses" if self._refused else "is lost"
        self._say(f"Mirror {self._mirror.name} at {self._address} {verb}: {reason}", kind)
        return session.progressed

    def _decided(self, decision: Decision, plan: BasePlan | None, welcome: Welcome) -> None:
        self._decision = decision
        if not decision.rule.refuses:
            self._warn(welcome)
            self._refused = False
            if plan is not None:
                self.plan, self._base_stored = plan, 0
                self._note(plan.sentence(self._mirror.name, welcome.room), EventKind.NOTE)
            sentence = f"Mirror {self._mirror.name} at {self._address}: {decision.rule.spoken}. {decision.reason}"
            self._say(sentence, EventKind.MIRROR_BACK)

    def _warn(self, welcome: Welcome) -> None:
        """What will matter once the mirror is promoted."""
        ours, theirs = self._origin.segment_blocks, welcome.segment_blocks
        warning = "" if theirs <= ours else (
            f"The segments of mirror {self._mirror.name} are larger ({theirs * BLOCK} bytes) than this node's "
            f"({ours * BLOCK}): once it is promoted, a directory with this node's segments can't be its mirror."
        )  # fmt: skip
        if warning and warning != self._warning:
            self._note(warning, EventKind.TROUBLE)
        self._warning = warning

    def _say(self, sentence: str, kind: EventKind) -> None:
        self._sentence = sentence
        if sentence != self._told:
            self._told = sentence
            self._note(sentence, kind)

    def _pause(self) -> float:
        """With a quarter of it left to chance, so that many mirrors do not come at once."""
        step = min(max(self._failures - 1, 0), len(BACKOFF_SECONDS) - 1)
        seconds = REFUSED_SECONDS if self._refused else BACKOFF_SECONDS[step]
        return seconds * (0.75 + self._host.entropy.token(1)[0] / 1024)

    # Status

    def status(self) -> MirrorStatus:
        """Plain values, now."""
        mirror, counters, session = self._mirror, self.counters, self._session
        base = session.base if session is not None else None
        lag, state = self._lag(), self._state()
        return MirrorStatus(
            mirror.name, self._address, MODES.get(mirror.mode, "?"), state, self._sentence,
            mirror.required, self._decision.rule.spoken if self._decision else "",
            base.fraction if base else float(mirror.joined), lag, self._lag_bytes(),
            mirror.received, mirror.durable, mirror.agreed_point, mirror.agreed_position,
            counters.client_bytes, counters.log_bytes, counters.point_bytes, counters.saved_bytes,
            counters.base_bytes, counters.whole_bytes, self._lost_seconds(), self._refusals, self._warning,
            *self._left(),
        )  # fmt: skip

    def _left(self) -> tuple[int, float | None]:
        """What has to be sent until it has joined, and how long that will take; the rate is the one of now."""
        session = self._session
        if self._mirror.joined or session is None or session.pump is None:
            return 0, None
        base = 0
        if session.base is not None and self.plan is not None:
            base = max(0, self.plan.need.base - self._base_stored - session.base.pace.stored_bytes)
        left, rate = base + self._lag_bytes(), session.rate
        return left, left / rate if rate else None

    @property
    def heard(self) -> bool:
        """It is being mirrored to, and has said something lately."""
        return self._session is not None and self.connected and not self._session.link.silent

    @property
    def connected(self) -> bool:
        """It is being mirrored to."""
        return self._session is not None and self._session.pump is not None

    def _lost_seconds(self) -> float:
        return 0.0 if self.connected else (self._host.clock.monotonic_ns() - self._lost_ns) / 1e9

    def _state(self) -> MirrorState:
        session = self._session
        if session is None or session.pump is None:
            return MirrorState.REFUSED if self._refused else MirrorState.CONNECTING
        if not self._mirror.joined:
            return MirrorState.BASE
        near = session.pump.caught_up and self._lag() < IN_SYNC_LAG_SECONDS
        return MirrorState.IN_SYNC if near else MirrorState.CATCHING_UP

    def _lag(self) -> float:
        session = self._session
        if session is None or session.pump is None:  # it lacks something since it was lost, if anything
            return self._lost_seconds() if self._mirror.received < self._origin.feed.end else 0.0
        return session.lag.seconds(self._host.clock.monotonic_ns())

    def _lag_bytes(self) -> int:
        """What lies in this log behind what the mirror is known to have. Of one that was never connected only a
        position is known: it is estimated by the average of a transfer."""
        session, feed = self._session, self._origin.feed
        if session is not None and session.pump is not None:
            self._lag_address = session.lag.address
        if self._lag_address is None:
            received = max(self._mirror.received, feed.oldest)
            return max(0, feed.end - received) * self.counters.average
        return max(0, feed.end_address - self._lag_address) * BLOCK
