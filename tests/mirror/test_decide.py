"""The decision, over every combination of what it looks at; and what must hold of it whatever the rule says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import product

import pytest

from revolume.mirror.base_plan import budget_for
from revolume.mirror.catch_up_plan import (
    SMALL_LOG,
    CatchUpPlan,
    Rule,
    SourceFacts,
    contains,
    identity,
    plan_catch_up,
)
from revolume.mirror.wire.begin_messages import BaseNeed, Common, Costs, EpochEntry
from revolume.mirror.wire.codec import NOWHERE, Identity, Pin
from revolume.mirror.wire.greeting_messages import NO_ROOM, Hello, Room, TargetState, Welcome
from revolume.mirror.wire.version import COMPARISON, RESYNC_POINTS
from revolume.mirror.wording import size_words
from revolume.volume.metadata.resync_order import Prefer
from revolume.volume.open.log_identity import End

OURS, THEIRS = b"a" * 16, b"b" * 16
SAME, OTHER = b"s" * 16, b"o" * 16
F = Pin(7, 2, SAME)


def chain_at(position: int, branch: bytes) -> Identity:
    return Identity(1, OURS, branch[:8] + position.to_bytes(8, "little"))


def end_at(position: int, branch: bytes) -> End:
    at = chain_at(position, branch)
    return End(position, at.epoch, at.reign, at.chain, position, position)


HELLO = Hello(1, 64, 64, OURS, b"n" * 16, OURS, 3, 1 << 20, 0, end_at(5, SAME), "vol", "m1")


MEMBERS = (None, bytes(16), b"t" * 16, b"u" * 16)
"""Which copy has joined as this mirror: none, one of which no node is known, the one that answers, another."""


def cases() -> Iterator[tuple[SourceFacts, Welcome]]:
    for volume, state, known, segment, theirs, branch, oldest, found, ahead, pin, base in product(
        (OURS, THEIRS),
        TargetState,
        ((2, THEIRS), (3, OURS), (3, THEIRS), (4, OURS)),
        (63, 64),
        (2, 3, 5, 6),
        (SAME, OTHER),
        (0, 3, 4),
        (None, SAME, OTHER),
        (None, SAME, OTHER),
        (None, F, Pin(7, 2, OTHER)),
        (F, Pin(8, 2, SAME)),
    ):
        end = NOWHERE if state == TargetState.EMPTY else end_at(theirs, branch)
        welcome = Welcome(
            state, segment, known[0], known[1], b"t" * 16,
            bytes(16) if state == TargetState.EMPTY else volume,
            end, 0, 0, 0, (0, 0), chain_at(5, ahead) if ahead else None,
            base if state == TargetState.BASE else None, 0,
        )  # fmt: skip
        for member in MEMBERS if (branch, oldest, ahead) == (SAME, 3, SAME) else MEMBERS[:1]:
            joined = member is not None
            hello = dataclasses.replace(HELLO, oldest=oldest, joined=joined, expected=member or bytes(16))
            yield SourceFacts(hello, chain_at(theirs, found) if found else None, pin), welcome


def continued(source: SourceFacts, target: Welcome) -> bool:
    """The source has everything that the target lacks, and the target nothing that the source has not."""
    ours, theirs = source.hello.end, target.end
    return (
        source.hello.oldest <= theirs.position <= ours.position
        and source.at_target_end == identity(theirs)
        and (theirs.position < ours.position or theirs == ours)
    )


def expected(source: SourceFacts, target: Welcome) -> Rule:
    """The rule, said the other way round: as a table from the most to the least particular."""
    hello = source.hello
    empty, whole = target.state == TargetState.EMPTY, target.state == TargetState.WHOLE
    ahead = target.end.position > hello.end.position
    joined = hello.joined
    table = [
        (joined and (empty or target.volume != hello.volume), Rule.MEMBER_REPLACED),
        (not empty and target.volume != hello.volume, Rule.OTHER_VOLUME),
        (target.known_epoch > hello.epoch, Rule.STALE_EPOCH),
        (target.known_epoch == hello.epoch and target.known_reign != hello.reign, Rule.RIVAL_EPOCH),
        (joined and not whole, Rule.MEMBER_REPLACED),
        (joined and any(hello.expected) and hello.expected != target.node, Rule.MEMBER_REPLACED),
        (target.segment_blocks < hello.largest_blocks, Rule.SEGMENTS_TOO_SMALL),
        (empty, Rule.BASE),
        (not whole and continued(source, target) and source.pin == target.base, Rule.RESUME_BASE),
        (not whole, Rule.BASE),
        (continued(source, target) and target.end == hello.end, Rule.NOTHING),
        (continued(source, target), Rule.LOG),
        (ahead and target.at_source_end == identity(hello.end), Rule.TARGET_AHEAD),
        (target.end.position < hello.oldest and source.at_target_end == identity(target.end), Rule.COMPARISON),
        (not ahead and target.end.position < hello.oldest, Rule.LOG_GONE),
        (True, Rule.DIVERGED),
    ]
    return next(rule for holds, rule in table if holds)


def test_every_combination_gives_the_expected_rule() -> None:
    seen = set()
    count = 0
    for source, target in cases():
        decision = plan_catch_up(source, target)
        assert decision.rule == expected(source, target), (source, target, decision)
        assert decision.reason.endswith(".")
        assert bool(decision.hint) == decision.rule.refuses
        seen.add(decision.rule)
        count += 1
    below = {Rule.TARGET_TOO_SMALL, Rule.LOG_TO_CUT, Rule.COMMON_POINT, Rule.RESYNC_CANCELLED}
    assert seen == set(Rule) - below - {Rule.DIFFERENCE, Rule.DIRTY_REGIONS}
    assert count > 20000


def test_it_is_a_function_of_its_arguments() -> None:
    for source, target in cases():
        assert plan_catch_up(source, target) == plan_catch_up(
            dataclasses.replace(source), dataclasses.replace(target)
        )


def test_a_target_with_a_history_is_never_written_over() -> None:
    for source, target in cases():
        if target.state == TargetState.WHOLE:
            assert plan_catch_up(source, target).rule not in (Rule.BASE, Rule.RESUME_BASE)


def test_whatever_is_not_the_copy_that_has_joined_never_begins() -> None:
    """The mirror is that copy and no other; where its node is not known, a whole copy whose log goes on."""
    for source, target in cases():
        if not source.hello.joined or plan_catch_up(source, target).rule.refuses:
            continue
        assert plan_catch_up(source, target).rule in (Rule.NOTHING, Rule.LOG, Rule.COMPARISON)
        assert source.hello.expected in (bytes(16), target.node)


def test_a_position_alone_never_decides() -> None:
    """Take the identity away, or change a part of it, and nothing goes on from there."""
    going_on = (Rule.NOTHING, Rule.LOG, Rule.RESUME_BASE)
    for source, target in cases():
        if plan_catch_up(source, target).rule not in going_on:
            continue
        found = source.at_target_end
        assert found is not None
        for wrong in (
            None,
            dataclasses.replace(found, chain=bytes(16)),
            dataclasses.replace(found, reign=bytes(16)),
            dataclasses.replace(found, epoch=found.epoch + 1),
        ):
            decision = plan_catch_up(dataclasses.replace(source, at_target_end=wrong), target)
            assert decision.rule in (Rule.DIVERGED, Rule.BASE)
            assert (decision.rule == Rule.BASE) == (target.state == TargetState.BASE)


def test_rules_are_told_apart_by_name() -> None:
    assert Rule.TARGET_AHEAD.label == "target-ahead"
    assert CatchUpPlan(Rule.LOG, "x.").rule.refuses is False


MIB = 1 << 20


def empty(room: Room) -> Welcome:
    return Welcome(
        TargetState.EMPTY, 64, 0, bytes(16), b"t" * 16, bytes(16), NOWHERE, 0, 0, 0, (0, 0), None, None, 0, room
    )  # fmt: skip


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (Room(200 * MIB, 0, 1000 * MIB), ""),
        (Room(100 * MIB, 0, 1000 * MIB), "its log may take 100.0 MiB"),
        (Room(200 * MIB, 0, 400 * MIB), "its disk has 400.0 MiB free"),
    ],
)
def test_a_base_that_would_not_fit_is_refused_with_the_sizes(room: Room, words: str) -> None:
    """300 MiB of blocks, and a snapshot that keeps 150 MiB of log."""
    source = SourceFacts(HELLO, None, None, BaseNeed(300 * MIB, 150 * MIB))
    decision = plan_catch_up(source, empty(room))
    assert decision.rule == (Rule.TARGET_TOO_SMALL if words else Rule.BASE)
    assert words in decision.reason
    assert plan_catch_up(dataclasses.replace(source, need=None), empty(room)).rule == Rule.BASE, (
        "before it is worked out"
    )
    if words:
        assert "300.0 MiB for the base" in decision.reason
        assert decision.hint


def test_the_budget_that_is_asked_for_is_enough() -> None:
    need = BaseNeed(300 * MIB, 150 * MIB)
    budget = budget_for(need, 64)
    refused = plan_catch_up(SourceFacts(HELLO, None, None, need), empty(Room(budget - 1, 0, 1 << 40)))
    assert f"--budget {-(-budget // MIB)}MiB" in refused.hint
    assert plan_catch_up(SourceFacts(HELLO, None, None, need), empty(Room(budget, 0, 1 << 40))).rule == Rule.BASE


STANDS, ELSEWHERE = Pin(4, 2, SAME), Pin(4, 2, OTHER)
OPENINGS = (EpochEntry(1, OURS, 0, 0), EpochEntry(3, THEIRS, 4, 4))
FORKED = (EpochEntry(1, OURS, 0, 0), EpochEntry(3, THEIRS, 2, 2))
"""Opening 1 ends at position 4, or at 2: what a copy has of it behind that went its own way."""
LOG, SAVES, SAVES_LITTLE = 1 << 30, 1 << 28, 1 << 29


def resync_cases() -> Iterator[tuple[SourceFacts, Welcome]]:
    """A whole copy of our volume whose log ends in opening 1 at ``end``."""
    for end, oldest, found, common, stands, cut, difference, prefer, openings, allowed, last in product(
        (2, 3, 4, 6),
        (0, 5),
        (None, SAME, OTHER),
        (None, STANDS),
        ((), (STANDS,), (ELSEWHERE,), (ELSEWHERE, STANDS)),
        (0, 4),
        (SAVES, SAVES_LITTLE, 2 * LOG),
        Prefer,
        (OPENINGS, FORKED, ()),
        (None, "take_back", "yields", "both"),
        ("difference", "regions", "before comparisons"),
    ):
        welcome = Welcome(
            TargetState.WHOLE, 64, {"yields": 3, "both": 4}.get(allowed or "", 1), OURS, b"t" * 16, OURS,
            end_at(end, SAME), end, 4, 2, (0, 0), None, None, 0,
            points=stands, yields=allowed in ("yields", "both"),
            version=RESYNC_POINTS if last == "before comparisons" else COMPARISON,
        )  # fmt: skip
        hello = dataclasses.replace(
            HELLO, oldest=oldest, prefer=prefer, take_back=allowed in ("take_back", "both")
        )
        at_end = chain_at(end, found) if found and end >= oldest else None
        regions = last != "difference"
        known = None if common is None else Common(common, cut, Costs(LOG, difference), regions)
        yield SourceFacts(hello, at_end, None, None, known, openings), welcome


def expected_resync(source: SourceFacts, target: Welcome) -> Rule:
    """As a table once more. A difference needs a point that both have and at which the target *stands*, and proof
    that nothing there is not of the source's log."""
    common, end, oldest = source.common, target.end.position, source.hello.oldest
    by_log = continued(source, target)
    ends_within = bool(source.openings) and end <= source.openings[1].position
    contained = source.at_target_end == identity(target.end) if source.at_target_end else ends_within
    possible = common is not None and ELSEWHERE not in target.points and contained
    saves = (
        common is not None
        and {
            Prefer.EITHER: common.costs.difference * 2 < LOG,
            Prefer.HISTORY: False,
            Prefer.BYTES: common.costs.difference < LOG,
        }[source.hello.prefer]
    )
    compares = target.version >= COMPARISON
    jump = Rule.DIRTY_REGIONS if compares and common is not None and common.regions else Rule.DIFFERENCE
    difference = Rule.LOG_TO_CUT if by_log and common and end < common.cut else jump
    allowed = source.hello.take_back or target.yields
    goes_back = allowed and STANDS in target.points[1:]
    diverged = Rule.COMMON_POINT if allowed and common and STANDS in target.points else Rule.DIVERGED
    table = [
        (end > source.hello.end.position, diverged),
        (end < oldest and possible, Rule.COMMON_POINT if goes_back else jump),
        (end < oldest and contained, Rule.COMPARISON if compares else Rule.LOG_GONE),
        (end < oldest, diverged if diverged == Rule.COMMON_POINT else Rule.LOG_GONE),
        (by_log and possible and saves, Rule.COMMON_POINT if goes_back else difference),
        (by_log, Rule.LOG),
        (True, diverged),
    ]
    return next(rule for holds, rule in table if holds)


def test_every_combination_of_what_resynchronises() -> None:
    seen = set()
    for source, target in resync_cases():
        decision = plan_catch_up(source, target)
        assert decision.rule == expected_resync(source, target), (source, target, decision)
        assert bool(decision.hint) == decision.rule.refuses
        seen.add(decision.rule)
    gone = {Rule.LOG_GONE, Rule.DIVERGED}
    jumps = {Rule.DIFFERENCE, Rule.DIRTY_REGIONS, Rule.COMPARISON}
    assert seen == {Rule.LOG, Rule.LOG_TO_CUT, Rule.COMMON_POINT} | jumps | gone


def test_of_two_rivals_the_one_that_is_ordered_to_gives_way() -> None:
    welcome = Welcome(
        TargetState.WHOLE, 64, 3, THEIRS, b"t" * 16, OURS, end_at(6, OTHER), 6, 4, 2, (0, 0), None, None, 0,
        points=(STANDS,),
    )  # fmt: skip
    hello = dataclasses.replace(HELLO, points=(STANDS,))
    assert plan_catch_up(SourceFacts(hello, None, None), welcome).rule == Rule.RIVAL_EPOCH
    ordered = dataclasses.replace(hello, take_back=True)
    assert plan_catch_up(SourceFacts(ordered, None, None), welcome).rule == Rule.COMMON_POINT
    newer = dataclasses.replace(welcome, known_epoch=4)
    assert plan_catch_up(SourceFacts(ordered, None, None), newer).rule == Rule.STALE_EPOCH
    made_a_mirror = dataclasses.replace(newer, yields=True)
    assert plan_catch_up(SourceFacts(hello, None, None), made_a_mirror).rule == Rule.STALE_EPOCH
    assert plan_catch_up(SourceFacts(ordered, None, None), made_a_mirror).rule == Rule.COMMON_POINT


def test_more_of_the_same_log_is_taken_back_only_where_both_were_told() -> None:
    for take_back, yields in product((False, True), (False, True)):
        welcome = Welcome(
            TargetState.WHOLE, 64, 3, OURS, b"t" * 16, OURS, end_at(6, SAME), 6, 4, 2, (0, 0), chain_at(5, SAME),
            None, 0, points=(STANDS,), yields=yields,
        )  # fmt: skip
        hello = dataclasses.replace(HELLO, points=(STANDS,), take_back=take_back)
        plan = plan_catch_up(SourceFacts(hello, None, None), welcome)
        assert plan.rule == (Rule.COMMON_POINT if take_back and yields else Rule.TARGET_AHEAD)
        assert "--take-back" not in plan.hint


def test_nothing_is_taken_back_that_nobody_ordered() -> None:
    """And a newer opening than the source's gives way only at a copy that was made a mirror by order."""
    for source, target in resync_cases():
        if plan_catch_up(source, target).rule != Rule.COMMON_POINT:
            continue
        refused = dataclasses.replace(source, hello=dataclasses.replace(source.hello, take_back=False))
        own_way = plan_catch_up(refused, dataclasses.replace(target, yields=False))
        assert own_way.rule in (Rule.DIVERGED, Rule.STALE_EPOCH, Rule.RIVAL_EPOCH, Rule.LOG_GONE) or (
            own_way.rule.jumps and contains(refused, target.end)
        )
        assert own_way.rule != Rule.DIVERGED or "--take-back" in own_way.hint


def test_nothing_is_sent_over_what_the_source_does_not_have() -> None:
    for source, target in resync_cases():
        rule = plan_catch_up(source, target).rule
        if not rule.jumps and rule != Rule.LOG_TO_CUT:
            continue
        forked = dataclasses.replace(source, at_target_end=None, openings=())
        assert plan_catch_up(forked, target).rule in (Rule.LOG_GONE, Rule.DIVERGED, Rule.COMMON_POINT)
        elsewhere = dataclasses.replace(target, points=(ELSEWHERE,))
        assert plan_catch_up(source, elsewhere).rule in (Rule.LOG, Rule.LOG_GONE, Rule.COMPARISON)


def test_everything_is_compared_only_where_nothing_else_is_known() -> None:
    """Not with an older release, and never where the log or a difference would do."""
    for source, target in resync_cases():
        if plan_catch_up(source, target).rule != Rule.COMPARISON:
            continue
        assert target.end.position < source.hello.oldest and contains(source, target.end)
        older = dataclasses.replace(target, version=RESYNC_POINTS)
        assert plan_catch_up(source, older).rule == Rule.LOG_GONE
        known = dataclasses.replace(target, points=(STANDS,))
        told = dataclasses.replace(source, common=Common(STANDS))
        assert plan_catch_up(told, known).rule == Rule.DIFFERENCE
        whole = dataclasses.replace(source.hello, oldest=0)
        by_log = dataclasses.replace(source, hello=whole, at_target_end=identity(target.end), common=None)
        assert plan_catch_up(by_log, target).rule == Rule.LOG


def test_a_copy_that_differs_comes_by_the_log_or_is_compared() -> None:
    """Its source names no common point then: nothing that is only what changed is sent."""
    seen = set()
    for source, target in resync_cases():
        if source.common is not None:
            continue
        differs = dataclasses.replace(target, differs=True)
        decision = plan_catch_up(source, differs)
        assert decision.rule == plan_catch_up(source, target).rule
        assert ("differs from its source" in decision.reason) == (decision.rule == Rule.COMPARISON)
        seen.add(decision.rule)
    assert {Rule.LOG, Rule.COMPARISON} <= seen and not {Rule.DIFFERENCE, Rule.DIRTY_REGIONS} & seen


def test_little_log_is_always_caught_up() -> None:
    source, target = next(
        case
        for case in resync_cases()
        if plan_catch_up(*case).rule == Rule.DIFFERENCE and not case[0].hello.oldest
    )
    assert source.common is not None
    costs = Costs(SMALL_LOG, 1)
    little = dataclasses.replace(source, common=dataclasses.replace(source.common, costs=costs))
    assert plan_catch_up(little, target).rule == Rule.LOG


def test_a_difference_that_would_not_fit_is_refused_and_the_log_goes_on_where_it_can() -> None:
    """The facts are in WELCOME and BEGIN, so both ends find the same. What is not known is not judged."""
    seen = set[Rule]()
    for source, target in resync_cases():
        before = plan_catch_up(source, target)
        if before.rule not in (Rule.DIFFERENCE, Rule.DIRTY_REGIONS):
            continue
        assert source.common is not None
        takes = source.common.costs.difference
        for free in (takes, takes + 1, takes - 1, 0):
            room = Room(64 * MIB, 0, free)
            found = plan_catch_up(source, dataclasses.replace(target, room=room))
            by_log = continued(source, target)
            lacks = free < takes
            assert found.rule == ((Rule.LOG if by_log else Rule.TARGET_TOO_SMALL) if lacks else before.rule)
            if lacks:
                assert f"takes {size_words(takes)} beside the target's copy" in found.reason
                assert f"{size_words(takes - free)} too little" in found.reason
            seen.add(found.rule)
        unknown = dataclasses.replace(target, room=NO_ROOM)
        assert plan_catch_up(source, unknown).rule == before.rule
    assert seen == {Rule.DIFFERENCE, Rule.DIRTY_REGIONS, Rule.LOG, Rule.TARGET_TOO_SMALL}
