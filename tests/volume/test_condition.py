"""In one word how a volume is; what it tells, and how often; when its room ends. Pure, as tables."""

from __future__ import annotations

import pytest

from revolume.volume.space.forecast import Rate, forecast, near
from revolume.volume.state.condition import Condition, state_of
from revolume.volume.state.damage import range_words, ranges
from revolume.volume.state.events import KEPT_MAX, KEPT_OF_A_KIND_MAX, Event, EventKind, Events, Level

WORST_FIRST = [
    (Condition(poisoned="Syncing the log failed."), "poisoned", "Syncing the log failed."),
    (Condition(diverged="Point cp7 disagrees."), "degraded", "Point cp7 disagrees."),
    (Condition(incomplete=True), "incomplete", "The base is being received."),
    (Condition(full=True, keeper="snapshot x keeps everything from w3 on"), "full",
     "Writes are refused: no room for the log: snapshot x keeps everything from w3 on."),
    (Condition(log_waits="m1"), "full", "Writes wait: the log is full until mirror m1 has caught up."),
    (Condition(replies_wait="Replies wait for mirror m1, lost for 9 s."), "waiting",
     "Replies wait for mirror m1, lost for 9 s."),
    (Condition(damaged_past="reads of block 7 of v@w4 fail"), "degraded", "Reads of block 7 of v@w4 fail."),
    (Condition(damaged=((3, 2), (9, 1))), "degraded",
     "Reads of blocks 3 to 4, 9 fail: what is there is not what was written."),
    (Condition(lost="Block 5 was lost."), "degraded", "Block 5 was lost."),
    (Condition(folding="no room."), "degraded", "The history can't be folded: no room."),
    (Condition(points="no room."), "degraded", "No consistency point can be made: no room."),
    (Condition(forecast="snapshot x keeps 3 GiB."), "degraded", "snapshot x keeps 3 GiB."),
    (Condition(), "online", "Serving."),
    (Condition(keeper="snapshot x keeps everything from w3 on"), "online", "Serving."),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "word", "reason"), WORST_FIRST)
def test_the_state(condition: Condition, word: str, reason: str) -> None:
    assert state_of(condition) == (word, reason)


def test_what_is_worse_comes_first() -> None:
    """Each beside everything that comes after it in the table."""
    names = list(Condition.__dataclass_fields__)
    whole: dict[str, object] = {}
    for condition, word, reason in reversed(WORST_FIRST[:-1]):
        whole |= {name: getattr(condition, name) for name in names if getattr(condition, name)}
        assert state_of(Condition(**whole))[0] == word, reason  # type: ignore[arg-type]


def test_ranges_of_blocks_in_words() -> None:
    assert ranges([7]) == ((7, 1),) and range_words(((7, 1),)) == "block 7"
    assert ranges([5, 3, 4, 9]) == ((3, 3), (9, 1)) and range_words(((3, 3), (9, 1))) == "blocks 3 to 5, 9"
    assert range_words(ranges(range(0, 20, 2))) == "blocks 0, 2, 4, 6 and 6 more ranges"


class Clock:
    now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


def test_a_repetition_raises_the_count_and_pushes_nothing_out() -> None:
    events = Events(Clock())
    events.tell("mirror m1 is lost", EventKind.MIRROR_LOST)
    for _ in range(1000):
        events.tell("no room", EventKind.TROUBLE)
    assert events.all() == (
        Event(EventKind.MIRROR_LOST, Level.WARNING, "mirror m1 is lost", 1, 1),
        Event(EventKind.TROUBLE, Level.WARNING, "no room", 2, 1001, 1000),
    )


def test_one_kind_does_not_push_out_another() -> None:
    events = Events(Clock())
    events.tell("block 3 fails", EventKind.DAMAGE)
    for kind in EventKind:
        for number in range(100):
            events.tell(f"{kind} {number}", kind)
    kinds = [event.kind for event in events.all()]
    assert len(kinds) == KEPT_MAX and set(kinds) == set(EventKind)
    assert max(map(kinds.count, kinds)) <= KEPT_OF_A_KIND_MAX
    assert events.texts()[-1] == f"{list(EventKind)[-1]} 99"


def test_who_comes_late_hears_what_was_told() -> None:
    events, heard = Events(Clock()), list[Event]()
    events.tell("recovered")
    events.follow(heard.append)
    events.tell("block 3 fails", EventKind.DAMAGE)
    assert [(event.message, event.level) for event in heard] == [
        ("recovered", Level.INFO), ("block 3 fails", Level.ERROR)
    ]  # fmt: skip


def test_near_full_has_a_gap_between_up_and_down() -> None:
    assert [near(False, held, 100) for held in (79, 80, 99)] == [False, True, True]
    assert [near(True, held, 100) for held in (79, 70, 69)] == [True, True, False]


def test_when_the_room_ends() -> None:
    rate = Rate()
    for second in range(600):
        rate.sample(second * 10**9, second * 1000)
    assert rate.bytes_per_s == pytest.approx(1000, rel=0.01)
    told = forecast("snapshot x", 3 << 30, 4 << 30, (1 << 30) / 7200)
    assert told.full_in_s == 7200.0
    assert told.sentence == (
        "snapshot x keeps 3.00 GiB of the log's 4.00 GiB; at the present rate it is full in 2 hours."
    )
    assert forecast("snapshot x", 3 << 30, 4 << 30, 0.0).full_in_s is None
    assert forecast("snapshot x", 5 << 30, 4 << 30, 100.0).full_in_s == 0.0
