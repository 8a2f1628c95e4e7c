"""How far one mirror is, as its source knows it: one machine with named transitions.

    DISCONNECTED ─┐                          ┌─▶ SENDING_BASE ─▶ JOINING ─▶ JOINED
                  ├─▶ GREETING ─▶ PLANNING ──┤                     ▲          ▲
    REFUSED ──────┘                          ├─────────────────────┘          │
                                             ├────────────────────────────────┘
                                             └─▶ SENDING_DIFFERENCE
    from each phase with a connection back to DISCONNECTED or REFUSED

What is recorded of the mirror (``Mirror.state``) and what answers wait for (its positions) is held by ``Mirror``.
The run-time facts stand here; ``progress_status.py`` derives what is shown from both.

Invariants, which every transition keeps:

* ``log`` is there exactly in SENDING_BASE, JOINING and JOINED, the *mirroring* phases; ``base`` exactly in
  SENDING_BASE, where alone the log is held, and in SENDING_DIFFERENCE, whose session ends with the difference.
* ``last`` never goes back within a session, and last.durable <= last.received <= log.sent: a target's word is
  believed only within what it can know.
* ``lag`` is that of the last session that mirrored, None before the first.
* ``refused`` is whether the last session that came to an end, or to a plan, was refused.

No I/O, no clock: the time is an argument, monotonic nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.catch_up_plan import CatchUpPlan
from revolume.mirror.counters import Counters, Lag
from revolume.mirror.log_sender import LogSender
from revolume.mirror.source.base_sender import BaseSender
from revolume.mirror.storage_protocols import Feed
from revolume.mirror.wire.frames import ProtocolError
from revolume.pace.pacer import Pacer
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import NOTHING, Positions

STEADY_NS: Final = 5_000_000_000
"""A session that has lasted this long was none that failed, also if nothing had to be sent."""
MOMENT_S: Final = 0.5
MOMENT_BYTES: Final = 256 << 10
JOIN_BYTES_MAX: Final = 8 << 20
"""A mirror that lacks no more of the log than this has caught up: answers that wait for it wait for a moment."""


class Phase(Enum):
    """Where a mirror is in its life, as far as this source's sessions go."""

    DISCONNECTED = "there is no connection; it is connected to again soon"
    REFUSED = "there is no connection; the last one was refused, and somebody has to do something first"
    GREETING = "HELLO is out"
    PLANNING = "WELCOME has come; it is being decided how the copy is brought up to date"
    SENDING_BASE = "the base goes out; the log waits for it"
    SENDING_DIFFERENCE = "what has changed since a common point goes out; the next session goes on"
    JOINING = "the copy has its base; it joins once the log has caught up"
    JOINED = "the copy is the mirror; the log goes out as it is written"


_ENDED: Final = frozenset({Phase.DISCONNECTED, Phase.REFUSED})
MIRRORING: Final = frozenset({Phase.SENDING_BASE, Phase.JOINING, Phase.JOINED})
TRANSITIONS: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.DISCONNECTED: frozenset({Phase.GREETING}),
    Phase.REFUSED: frozenset({Phase.GREETING}),
    Phase.GREETING: _ENDED | {Phase.PLANNING},
    Phase.PLANNING: _ENDED | MIRRORING | {Phase.SENDING_DIFFERENCE},
    Phase.SENDING_DIFFERENCE: _ENDED,
    Phase.SENDING_BASE: _ENDED | {Phase.JOINING},
    Phase.JOINING: _ENDED | {Phase.JOINED},
    Phase.JOINED: _ENDED,
}


class Progress:
    """One mirror. ``sentence`` says why it is in its phase, for a person; ``counters`` count since this source was
    opened; times are monotonic nanoseconds."""

    def __init__(self, mirror: Mirror, feed: Feed, sentence: str, now_ns: int, pacer: Pacer | None = None) -> None:
        """``pacer``: the node's, for what is sent in bulk."""
        self.mirror = mirror
        self.pacer = pacer
        self.phase = Phase.DISCONNECTED
        self.sentence = sentence
        self.counters = Counters()
        self.plan: CatchUpPlan | None = None
        """By which the present session goes on, or the last one did; None from a greeting until its plan."""
        self.base_plan: BasePlan | None = None
        """Of the base that is, or was, sent since this source was opened."""
        self.log: LogSender | None = None
        self.base: BaseSender | None = None
        self.lag: Lag | None = None
        self.last = NOTHING
        """What the target said last in this session."""
        self.refused = False
        self.refusals = 0
        self.failures = 0
        """Sessions and attempts in a row that got nowhere."""
        self.bases_given_way = 0
        """Bases in a row that gave way to the log before they were complete."""
        self.feed = feed
        self.lost_ns = now_ns
        """When it ceased to be mirrored to."""
        self.base_bytes_before = 0
        """Bytes of the base that sessions before this one brought over."""
        self.difference_bytes = 0
        """Of the difference that is sent, or was sent last: what it takes, as far as that was known before."""
        self._began_ns = now_ns
        self._arrived = False

    def _move(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], (self.phase, phase)
        self.phase = phase

    # Connecting

    def begin_attempt(self, now_ns: int) -> None:
        """It is being connected to."""
        self._began_ns = now_ns

    def attempt_failed(self, sentence: str, now_ns: int) -> None:
        """Nobody answers at its address. A refusal stays what it is: somebody has to do something."""
        assert self.phase in _ENDED, self.phase
        self.sentence = sentence
        self._count_attempt(now_ns)

    def become_greeting(self) -> None:
        """A connection is there, and HELLO is sent."""
        self._move(Phase.GREETING)
        self.plan = None
        self.last = NOTHING
        self._arrived = False

    def become_planning(self) -> None:
        """The copy has answered, and says what it has."""
        self._move(Phase.PLANNING)

    def planned(self, plan: CatchUpPlan, base_plan: BasePlan | None) -> None:
        """It is decided how the copy is brought up to date, or that it is not."""
        assert self.phase is Phase.PLANNING, self.phase
        self.plan = plan
        if plan.rule.refuses:
            return
        self.refused = False
        if base_plan is not None:
            self.base_plan, self.base_bytes_before = base_plan, 0

    # Mirroring

    def become_sending_base(self, log: LogSender, lag: Lag, base: BaseSender, now_ns: int) -> None:
        """The base goes out first; the log behind it is held."""
        self._move(Phase.SENDING_BASE)
        log.held = True
        self.base = base
        self._begin_flow(log, lag, now_ns)

    def become_sending_difference(self, base: BaseSender, size: int) -> None:
        """What has changed since a common point goes out, about so many bytes."""
        self._move(Phase.SENDING_DIFFERENCE)
        self.base, self.difference_bytes = base, size

    def become_joining(self, now_ns: int, log: LogSender | None = None, lag: Lag | None = None) -> None:
        """The copy has its base: its log catches up. ``log`` and ``lag``: of a session that begins so."""
        self._move(Phase.JOINING)
        self.bases_given_way = 0
        if log is not None and lag is not None:
            self._begin_flow(log, lag, now_ns)
            return
        assert self.log is not None
        assert self.lag is not None
        self._end_base()
        self.log.held = False
        self.lag.begin_flow(now_ns)

    def become_joined(self, now_ns: int, log: LogSender | None = None, lag: Lag | None = None) -> None:
        """The copy is the mirror, durably. ``log`` and ``lag``: of a session that begins so."""
        self._move(Phase.JOINED)
        self.bases_given_way = 0
        if log is not None and lag is not None:
            self._begin_flow(log, lag, now_ns)

    def _begin_flow(self, log: LogSender, lag: Lag, now_ns: int) -> None:
        self.log, self.lag = log, lag
        lag.begin_flow(now_ns)

    def _end_base(self) -> None:
        if self.base is not None:
            self.base_bytes_before += self.base.pace.stored_bytes
            self.base = None

    def base_arrives(self) -> None:
        """A piece of the base is stored there."""
        self._arrived = True

    def acknowledge(self, now: Positions) -> None:
        """The target's report. ProtocolError: it says what it cannot know, or takes back what it has said."""
        last, log = self.last, self.log
        assert log is not None
        assert self.lag is not None
        if (
            not last.received <= now.received <= log.sent
            or not last.durable <= now.durable <= now.received
            or not last.agreed_point <= now.agreed_point
            or not last.agreed_position <= now.agreed_position <= now.received
        ):
            raise ProtocolError("It says that it is where it cannot be.")
        self._arrived = self._arrived or now.received > log.begun
        self.last = now
        self.lag.received(now.received)

    def may_join(self, now_ns: int) -> bool:
        """The copy has its base, and what it lacks of the log is sent in a moment."""
        return self.phase is Phase.JOINING and _lacks_little(self, now_ns)

    # The end of a session

    def become_disconnected(self, sentence: str, now_ns: int) -> None:
        """The connection is lost."""
        self._move(Phase.DISCONNECTED)
        self.refused = False
        self._session_over(sentence, now_ns)

    def become_refused(self, sentence: str, now_ns: int) -> None:
        """One end has said why it does not go on."""
        self._move(Phase.REFUSED)
        self.refused = True
        self.refusals += 1
        self._session_over(sentence, now_ns)

    def _session_over(self, sentence: str, now_ns: int) -> None:
        self._end_base()
        if self.log is not None:
            self.log = None
            self.lost_ns = now_ns
        self.sentence = sentence
        self._count_attempt(now_ns)

    def _count_attempt(self, now_ns: int) -> None:
        steady = self._arrived or now_ns - self._began_ns > STEADY_NS
        self._arrived = False
        self.failures = 0 if steady else self.failures + 1

    def base_gave_way(self) -> int:
        """The session that is over was sending a base, which had to go for want of room; how many in a row."""
        self.bases_given_way += 1
        return self.bases_given_way

    @property
    def mirroring(self) -> bool:
        """The log, or the base before it, goes out."""
        return self.log is not None

    @property
    def connected(self) -> bool:
        """The copy is being mirrored to, or brought up to date."""
        return self.mirroring or self.phase is Phase.SENDING_DIFFERENCE

    def rate(self, now_ns: int) -> float:
        """Bytes a second that the target takes, of the base and then of the log; 0: nothing is known yet."""
        if self.base is not None:
            return self.base.pace.rate
        return self.lag.rate(now_ns) if self.lag is not None else 0.0


def is_level(progress: Progress, now_ns: int) -> bool:
    """The mirror has everything that it had acknowledged, and what it lacks of the log is sent in a moment."""
    return progress.phase is Phase.JOINED and not progress.mirror.level_at and _lacks_little(progress, now_ns)


def _lacks_little(progress: Progress, now_ns: int) -> bool:
    assert progress.lag is not None
    behind = (progress.feed.end_address - progress.lag.address) * BLOCK
    return behind <= min(JOIN_BYTES_MAX, max(MOMENT_BYTES, progress.rate(now_ns) * MOMENT_S))
