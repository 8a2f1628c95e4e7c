"""The decision, over every combination of what it looks at; and what must hold of it whatever the rule says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import product

import pytest

from revolume.mirror.base_plan import budget_for
from revolume.mirror.decide import Decision, Rule, Source, decide, identity
from revolume.mirror.messages import NOWHERE, Hello, Identity, Need, Pin, Room, TargetState, Welcome
from revolume.volume.end import End

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


def cases() -> Iterator[tuple[Source, Welcome]]:
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
            yield Source(hello, chain_at(theirs, found) if found else None, pin), welcome


def continued(source: Source, target: Welcome) -> bool:
    """The source has everything that the target lacks, and the target nothing that the source has not."""
    ours, theirs = source.hello.end, target.end
    return (
        source.hello.oldest <= theirs.position <= ours.position
        and source.at_target_end == identity(theirs)
        and (theirs.position < ours.position or theirs == ours)
    )


def expected(source: Source, target: Welcome) -> Rule:
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
        (not ahead and target.end.position < hello.oldest, Rule.LOG_GONE),
        (True, Rule.DIVERGED),
    ]
    return next(rule for holds, rule in table if holds)


def test_every_combination_gives_the_expected_rule() -> None:
    seen = set()
    count = 0
    for source, target in cases():
        decision = decide(source, target)
        assert decision.rule == expected(source, target), (source, target, decision)
        assert decision.reason.endswith(".")
        assert bool(decision.hint) == decision.rule.refuses
        seen.add(decision.rule)
        count += 1
    assert seen == set(Rule) - {Rule.TARGET_TOO_SMALL}  # below
    assert count > 20000


def test_it_is_a_function_of_its_arguments() -> None:
    for source, target in cases():
        assert decide(source, target) == decide(dataclasses.replace(source), dataclasses.replace(target))


def test_a_target_with_a_history_is_never_written_over() -> None:
    for source, target in cases():
        if target.state == TargetState.WHOLE:
            assert decide(source, target).rule not in (Rule.BASE, Rule.RESUME_BASE)


def test_whatever_is_not_the_copy_that_has_joined_never_begins() -> None:
    """The mirror is that copy and no other; where its node is not known, a whole copy whose log goes on."""
    for source, target in cases():
        if not source.hello.joined or decide(source, target).rule.refuses:
            continue
        assert decide(source, target).rule in (Rule.NOTHING, Rule.LOG)
        assert source.hello.expected in (bytes(16), target.node)


def test_a_position_alone_never_decides() -> None:
    """Take the identity away, or change a part of it, and nothing goes on from there."""
    going_on = (Rule.NOTHING, Rule.LOG, Rule.RESUME_BASE)
    for source, target in cases():
        if decide(source, target).rule not in going_on:
            continue
        found = source.at_target_end
        assert found is not None
        for wrong in (
            None,
            dataclasses.replace(found, chain=bytes(16)),
            dataclasses.replace(found, reign=bytes(16)),
            dataclasses.replace(found, epoch=found.epoch + 1),
        ):
            decision = decide(dataclasses.replace(source, at_target_end=wrong), target)
            assert decision.rule in (Rule.DIVERGED, Rule.BASE)
            assert (decision.rule == Rule.BASE) == (target.state == TargetState.BASE)


def test_rules_are_told_apart_by_name() -> None:
    assert Rule.TARGET_AHEAD.spoken == "target-ahead"
    assert Decision(Rule.LOG, "x.").rule.refuses is False


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
    source = Source(HELLO, None, None, Need(300 * MIB, 150 * MIB))
    decision = decide(source, empty(room))
    assert decision.rule == (Rule.TARGET_TOO_SMALL if words else Rule.BASE)
    assert words in decision.reason
    assert decide(dataclasses.replace(source, need=None), empty(room)).rule == Rule.BASE, "before it is worked out"
    if words:
        assert "300.0 MiB for the base" in decision.reason
        assert decision.hint


def test_the_budget_that_is_asked_for_is_enough() -> None:
    need = Need(300 * MIB, 150 * MIB)
    budget = budget_for(need, 64)
    refused = decide(Source(HELLO, None, None, need), empty(Room(budget - 1, 0, 1 << 40)))
    assert f"--budget {-(-budget // MIB)}MiB" in refused.hint
    assert decide(Source(HELLO, None, None, need), empty(Room(budget, 0, 1 << 40))).rule == Rule.BASE
