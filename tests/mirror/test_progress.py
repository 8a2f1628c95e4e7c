"""A mirror's progress at its source: every transition that the table has, and none besides; what holds after each;
the status that is derived; and the frames that may come, in every state of both ends of a link."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from revolume.blocks.geometry import BLOCK
from revolume.mirror.catch_up_plan import CatchUpPlan, Rule
from revolume.mirror.counters import Lag
from revolume.mirror.link import Link
from revolume.mirror.mirror_status import MirrorState, MirrorStatus
from revolume.mirror.recovery import tail_fetcher
from revolume.mirror.source import source_session
from revolume.mirror.source.progress import MIRRORING, TRANSITIONS, Phase, Progress
from revolume.mirror.source.progress_status import progress_status
from revolume.mirror.target import target_session
from revolume.mirror.wire.frames import FRAME, ProtocolError, Type
from revolume.mirror.wire.limits import BODY_BYTES_MAX, LOG_TYPES, expecting
from revolume.volume.members.kept_points import LOG, KeptStatus
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.metadata import manifest_state
from tests.support.link_recording import load

SECOND = 1_000_000_000
RECORDING = Path(__file__).parent.parent / "data" / "link-2" / "session.xz"
LOG_PLAN = CatchUpPlan(Rule.LOG, "The log continues.")
REFUSAL = CatchUpPlan(Rule.DIVERGED, "Each has what the other has not.")


def made(joined: bool = True) -> Progress:
    mirror = Mirror(manifest_state.MirrorState("m", manifest_state.MirrorMode.SYNC, joined, 1, 0))
    feed: Any = SimpleNamespace(end=100, end_address=500, oldest=0)
    return Progress(mirror, feed, "Connecting.", 0)


def log() -> Any:
    return SimpleNamespace(begun=10, sent=50, caught_up=False, held=False)


def base() -> Any:
    return SimpleNamespace(fraction=0.25, pace=SimpleNamespace(stored_bytes=1000, rate=2000.0))


def _to_planning(progress: Progress) -> None:
    progress.become_planning()
    progress.planned(LOG_PLAN, None)


def _to_joining(progress: Progress) -> None:
    if progress.mirroring:
        progress.become_joining(SECOND)
    else:
        progress.become_joining(SECOND, log(), Lag(100))


def _to_joined(progress: Progress) -> None:
    if progress.mirroring:
        progress.become_joined(SECOND)
    else:
        progress.become_joined(SECOND, log(), Lag(100))


MOVES: dict[Phase, Callable[[Progress], None]] = {
    Phase.DISCONNECTED: lambda progress: progress.become_disconnected("It is lost.", SECOND),
    Phase.REFUSED: lambda progress: progress.become_refused("It is refused.", SECOND),
    Phase.GREETING: lambda progress: progress.become_greeting(),
    Phase.PLANNING: _to_planning,
    Phase.SENDING_BASE: lambda progress: progress.become_sending_base(log(), Lag(100), base(), SECOND),
    Phase.SENDING_DIFFERENCE: lambda progress: progress.become_sending_difference(base(), 4000),
    Phase.JOINING: _to_joining,
    Phase.JOINED: _to_joined,
}
WAYS: dict[Phase, list[Phase]] = {
    Phase.DISCONNECTED: [],
    Phase.REFUSED: [Phase.GREETING, Phase.REFUSED],
    Phase.GREETING: [Phase.GREETING],
    Phase.PLANNING: [Phase.GREETING, Phase.PLANNING],
    Phase.SENDING_BASE: [Phase.GREETING, Phase.PLANNING, Phase.SENDING_BASE],
    Phase.SENDING_DIFFERENCE: [Phase.GREETING, Phase.PLANNING, Phase.SENDING_DIFFERENCE],
    Phase.JOINING: [Phase.GREETING, Phase.PLANNING, Phase.JOINING],
    Phase.JOINED: [Phase.GREETING, Phase.PLANNING, Phase.JOINED],
}


def at(phase: Phase, joined: bool = True) -> Progress:
    progress = made(joined)
    for step in WAYS[phase]:
        MOVES[step](progress)
    assert progress.phase is phase
    return progress


def check_invariants(progress: Progress) -> None:
    phase = progress.phase
    assert progress.mirroring == (progress.log is not None) == (phase in MIRRORING)
    assert (progress.base is not None) == (phase in (Phase.SENDING_BASE, Phase.SENDING_DIFFERENCE))
    assert progress.connected == (progress.mirroring or phase is Phase.SENDING_DIFFERENCE)
    if progress.log is not None:
        assert progress.lag is not None
        assert progress.log.held == (phase is Phase.SENDING_BASE)
        assert progress.last.durable <= progress.last.received <= progress.log.sent
        assert not progress.refused
    if phase is Phase.REFUSED:
        assert progress.refused
    if phase is Phase.DISCONNECTED:
        assert not progress.refused


@pytest.mark.parametrize(("now", "then"), list(itertools.product(Phase, Phase)))
def test_a_transition_is_in_the_table_or_it_is_refused(now: Phase, then: Phase) -> None:
    progress = at(now)
    if then in TRANSITIONS[now]:
        MOVES[then](progress)
        assert progress.phase is then
        check_invariants(progress)
    else:
        with pytest.raises(AssertionError):
            MOVES[then](progress)
        assert progress.phase is now


def test_what_must_hold_holds_along_every_walk() -> None:
    walks = [[Phase.DISCONNECTED]]
    for _ in range(8):
        walks = [[*walk, then] for walk in walks for then in TRANSITIONS[walk[-1]]]
    assert {phase for walk in walks for phase in walk} == set(Phase)
    for walk in walks:
        progress, refusals = made(), 0
        for phase in walk[1:]:
            MOVES[phase](progress)
            refusals += phase is Phase.REFUSED
            check_invariants(progress)
        assert progress.refusals == refusals


class TestAcknowledging:
    def test_what_is_within_what_was_sent_is_believed(self) -> None:
        progress = at(Phase.JOINED)
        progress.acknowledge(Positions(50, 20, 3, 15))
        progress.acknowledge(Positions(50, 50, 3, 15))
        assert progress.last == Positions(50, 50, 3, 15)

    @pytest.mark.parametrize(
        "then",
        [
            Positions(51, 20, 3, 15),
            Positions(39, 20, 3, 15),
            Positions(40, 41, 3, 15),
            Positions(40, 19, 3, 15),
            Positions(40, 20, 2, 15),
            Positions(40, 20, 3, 14),
            Positions(40, 20, 4, 41),
        ],
        ids=[
            "not sent",
            "back",
            "durable, not received",
            "durable back",
            "point back",
            "agreed back",
            "agreed ahead",
        ],
    )
    def test_what_it_cannot_know_is_not(self, then: Positions) -> None:
        progress = at(Phase.JOINED)
        progress.acknowledge(Positions(40, 20, 3, 15))
        with pytest.raises(ProtocolError, match="where it cannot be"):
            progress.acknowledge(then)
        assert progress.last == Positions(40, 20, 3, 15)

    def test_each_session_begins_anew(self) -> None:
        progress = at(Phase.JOINED)
        progress.acknowledge(Positions(40, 20, 3, 15))
        MOVES[Phase.DISCONNECTED](progress)
        for phase in WAYS[Phase.JOINED]:
            MOVES[phase](progress)
        progress.acknowledge(Positions(12, 12, 1, 12))


class TestFailures:
    def test_sessions_that_get_nowhere_are_counted(self) -> None:
        progress = made()
        for count in (1, 2):
            progress.begin_attempt(0)
            progress.attempt_failed("Nobody answers.", SECOND)
            assert progress.failures == count and progress.phase is Phase.DISCONNECTED
        progress.begin_attempt(0)
        progress.become_greeting()
        progress.become_disconnected("It is lost.", SECOND)
        assert progress.failures == 3

    def test_one_that_brought_something_over_or_lasted_was_none(self) -> None:
        for brought, lasted in ((True, 0), (False, 6 * SECOND)):
            progress = at(Phase.JOINED)
            progress.failures = 3
            progress.begin_attempt(0)
            if brought:
                progress.acknowledge(Positions(11, 11, 0, 0))
            progress.become_disconnected("It is lost.", lasted)
            assert progress.failures == 0

    def test_a_refusal_stands_until_a_session_is_not_refused(self) -> None:
        progress = at(Phase.REFUSED)
        progress.attempt_failed("Nobody answers.", SECOND)
        assert progress.phase is Phase.REFUSED and progress.refused
        progress.become_greeting()
        progress.become_planning()
        assert status(progress).state == MirrorState.REFUSED
        progress.planned(REFUSAL, None)
        assert progress.refused
        progress.become_refused("It is refused.", SECOND)
        progress.become_greeting()
        progress.become_disconnected("It is lost.", SECOND)
        assert not progress.refused


def test_a_mirror_joins_when_the_log_that_it_lacks_is_sent_in_a_moment() -> None:
    progress = at(Phase.JOINING, joined=False)
    assert progress.lag is not None
    assert not progress.may_join(SECOND)  # nothing flows yet, and 400 blocks are lacking
    assert progress.may_join(SECOND + SECOND) is False
    progress.lag.address = 500 - (256 << 10) // BLOCK
    assert progress.may_join(SECOND + SECOND)
    progress.become_joined(SECOND)
    assert not progress.may_join(SECOND + SECOND)


def status(progress: Progress, now_ns: int = 3 * SECOND, position: int = 100) -> MirrorStatus:
    return progress_status(
        progress, address="there", position=position, snapshots=(), oldest=0, now_ns=now_ns,
        kept=KeptStatus(LOG),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "joined", "state"),
    [
        (Phase.DISCONNECTED, True, MirrorState.CONNECTING),
        (Phase.REFUSED, True, MirrorState.REFUSED),
        (Phase.GREETING, True, MirrorState.CONNECTING),
        (Phase.PLANNING, True, MirrorState.CONNECTING),
        (Phase.SENDING_BASE, False, MirrorState.BASE),
        (Phase.JOINING, False, MirrorState.BASE),
        (Phase.JOINED, True, MirrorState.CATCHING_UP),
    ],
)
def test_the_state_that_is_shown(phase: Phase, joined: bool, state: MirrorState) -> None:
    assert status(at(phase, joined)).state == state


def test_it_is_in_sync_while_it_lacks_next_to_nothing() -> None:
    progress: Any = at(Phase.JOINED)
    progress.log.caught_up = True
    assert status(progress).state == MirrorState.IN_SYNC
    progress.lag.appended(60, 0)
    assert status(progress, 4 * SECOND).state == MirrorState.IN_SYNC
    assert status(progress, 6 * SECOND).state == MirrorState.CATCHING_UP


def test_why_answers_wait() -> None:
    lost, refused, behind = at(Phase.DISCONNECTED), at(Phase.REFUSED), at(Phase.JOINED)
    assert status(lost).waits == "Replies wait for mirror m, lost for 3 s."
    assert status(refused).waits == "Replies wait for mirror m, refused for 3 s: It is refused."
    assert status(behind).waits == ""
    assert behind.lag is not None
    behind.lag.appended(60, 0)
    assert status(behind).waits == "Replies wait for mirror m, which is 3 s behind."
    assert status(lost, position=0).waits == ""
    assert status(at(Phase.DISCONNECTED, joined=False)).waits == ""


def test_what_is_left_of_a_base_is_told_with_the_log_behind_it() -> None:
    progress = at(Phase.SENDING_BASE, joined=False)
    progress.base_plan = SimpleNamespace(need=SimpleNamespace(base=5000))  # type: ignore[assignment]
    left = 400 * BLOCK + 4000
    assert (status(progress).left_bytes, status(progress).left_seconds) == (left, left / 2000)
    progress.become_disconnected("It is lost.", SECOND)
    assert (status(progress).left_bytes, status(progress).left_seconds) == (0, None)
    for phase in WAYS[Phase.SENDING_BASE]:
        MOVES[phase](progress)
    assert status(progress).left_bytes == 400 * BLOCK + 3000  # what came over before counts


# --- which frames may come ----------------------------------------------------------------------------------

TABLES = {
    "source": source_session.FRAMES,
    "target": target_session.FRAMES,
    "tail": tail_fetcher.FRAMES,
}
FROM_TARGET = {
    Type.WELCOME, Type.REFUSED, Type.PING, Type.POSITIONS, Type.REQUEST_BLOCKS, Type.BASE_AT, Type.BASE_DONE,
    Type.MOMENT_AT, Type.HANDED_OVER, Type.LEASE_ASK, Type.HEAL_ASK, Type.HEALED, Type.SUSPECT_AT, Type.DIVERGED,
    Type.COMPARE_OPENED, Type.COMPARED, Type.FIXED,
}  # fmt: skip
FROM_SOURCE = LOG_TYPES | {
    Type.HELLO, Type.BEGIN, Type.REFUSED, Type.PING, Type.SYNC, Type.BLOCKS, Type.BASE, Type.BASE_END, Type.FETCH,
    Type.EXAMINE, Type.MOMENT, Type.HANDOVER, Type.LEASE, Type.HEAL_ASK, Type.HEALED, Type.SUSPECT,
    Type.COMPARE_OPEN, Type.COMPARE_ASK, Type.COMPARE_END, Type.FIXUP, Type.FIXUP_AT, Type.MOMENTS_ASK,
    Type.RECALL, Type.RECALL_BLOCKS,
}  # fmt: skip


def test_the_tables_have_every_state_and_every_frame() -> None:
    assert set(source_session.FRAMES) == set(Phase)
    assert set(target_session.FRAMES) == set(target_session.TRANSITIONS) == set(target_session.State)
    assert set(tail_fetcher.FRAMES) == set(tail_fetcher.State)
    assert set().union(*source_session.FRAMES.values()) == FROM_TARGET
    assert set().union(*target_session.FRAMES.values()) == FROM_SOURCE
    assert set(BODY_BYTES_MAX) | {Type.LOG, Type.LOG_WIDE} == set(Type)


class _Wire:
    """It takes what is sent, and knows that it was cut off."""

    backlog = 0

    def __init__(self) -> None:
        self.aborted = False

    def start(self, user: object) -> None: ...

    def pause(self) -> None: ...

    def send(self, buffers: object) -> None: ...

    def abort(self) -> None:
        self.aborted = True


class _Collector:
    """What a link hands out."""

    def __init__(self) -> None:
        self.kinds: list[int] = []

    def frame(self, kind: int, frame: memoryview) -> None:
        self.kinds.append(kind)

    def settled(self) -> None: ...

    def writable(self) -> None: ...

    def ended(self, reason: str) -> None: ...


def _handed_out(allowed: frozenset[Type], kind: int) -> tuple[bool, str]:
    """Whether a frame of that type reaches the session, and why the link ended."""
    wire, user, host = _Wire(), _Collector(), SimpleNamespace()
    link = Link(host, wire, expecting(allowed, 1))  # type: ignore[arg-type]
    link._user = user
    data = FRAME.pack(8, kind, 0, 0, 0) + bytes(8)
    link.buffer()[: len(data)] = data
    link._inbox.end += len(data)
    try:
        link._parse(user)
    except ProtocolError as error:
        return bool(user.kinds), error.cause
    return bool(user.kinds), ""


@pytest.mark.parametrize("end", TABLES)
def test_a_frame_out_of_place_reaches_no_session(end: str) -> None:
    for allowed in TABLES[end].values():
        for kind in [*Type, 6, 255]:
            if kind == Type.PING:
                continue  # never handed out; it must have its checksum
            reached, why = _handed_out(allowed, kind)
            assert reached == (kind in allowed)
            assert why == ("" if reached else why) and (reached or why.endswith("came where none is expected."))


def test_a_recorded_session_keeps_to_the_tables() -> None:
    """Each frame that two nodes sent is one that the other end's state allowed."""
    states: dict[int, tuple[Any, Any]] = {}
    for frame in load(RECORDING):
        kind = Type(frame.data[4])
        source, target = states.get(frame.connection, (Phase.GREETING, target_session.State.GREETING))
        if kind in (Type.FETCH, Type.EXAMINE):
            source = tail_fetcher.State.ASKING if kind is Type.FETCH else source
        table = source_session.FRAMES if isinstance(source, Phase) else tail_fetcher.FRAMES
        assert kind in (target_session.FRAMES[target] if frame.forth else table[source]), (kind, source, target)
        states[frame.connection] = _after(kind, frame.data, source, target)


def _after(kind: Type, data: bytes, source: Any, target: Any) -> tuple[Any, Any]:
    there = target_session.State
    match kind:
        case Type.WELCOME:
            return Phase.PLANNING, there.DECIDING
        case Type.BEGIN if data[16] == Rule.BASE:
            return Phase.SENDING_BASE, there.RECEIVING_BASE
        case Type.BEGIN:
            return Phase.JOINED, there.MIRRORING
        case Type.BASE_DONE:
            return Phase.JOINING, there.MIRRORING
        case Type.TAIL:
            return tail_fetcher.State.RECEIVING, there.SENDING_TAIL
        case _:
            return source, target
