"""What a policy keeps, as a property of the pure rule: it is what a model says that looks at all points ever made,
whatever was folded on the way; so nothing that must be retained is let go, and nothing comes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.volume.metadata.keep_policy import KeepPolicy, Tier
from revolume.volume.space.policy_stops import Aged, StopKind, stops

POLICIES = st.builds(
    lambda writes, points, tiers: KeepPolicy(
        writes, points, tuple(Tier(period, span) for period, span in sorted(tiers.items()))
    ),
    st.integers(0, 20),
    st.sampled_from((0, 30, 60)),
    st.dictionaries(st.sampled_from((10, 25, 70)), st.integers(40, 300), max_size=3),
)


def promised(policy: KeepPolicy, made: list[Aged], now: int) -> set[int]:
    """Of all points ever made: the first of each period that is young enough, and all within the span of
    points."""
    found = set[int]()
    for tier in policy.tiers:
        firsts: dict[int, Aged] = {}
        for point in made:
            firsts.setdefault(point.lived_ms // tier.period_ms, point)
        found |= {each.write for each in firsts.values() if now - each.lived_ms <= tier.span_ms}
    span = policy.every_point_ms
    return found | {each.write for each in made if span and now - each.lived_ms <= span}


@settings(max_examples=300)
@given(POLICIES, st.lists(st.integers(1, 15), max_size=60), st.data())
def test_what_must_be_retained_is_retained(policy: KeepPolicy, gaps: list[int], data: st.DataObject) -> None:
    """Points are made and folded away at random; only those that the rule keeps are remembered."""
    made, behind, log, now = list[Aged](), list[Aged](), list[Aged](), 1
    for write, gap in enumerate(gaps, 1):
        now += gap
        made.append(Aged(write, now))
        log.append(made[-1])
        for _ in range(data.draw(st.integers(0, 2))):
            if log and now - log[0].lived_ms >= policy.every_write_ms:
                after = behind[-1].lived_ms if behind else None
                stop = next(stops(policy, log, now, 0, after), None)
                if stop is not None and stop.write == log[0].write:
                    behind.append(log[0])
                log.pop(0)
        kept = {stop.write for stop in stops(policy, behind, now, 0)}
        behind = [each for each in behind if each.write in kept]  # the rest is let go of for good
        want = {write for write in promised(policy, made, now) if write not in {each.write for each in log}}
        assert kept == want


@given(POLICIES, st.lists(st.integers(1, 15), max_size=60), st.integers(0, 300))
def test_what_was_given_up_stays_given_up(policy: KeepPolicy, gaps: list[int], upto: int) -> None:
    made, now = list[Aged](), 1
    for write, gap in enumerate(gaps, 1):
        now += gap
        made.append(Aged(write, now))
    before, after = list(stops(policy, made, now, 0)), list(stops(policy, made, now, upto))
    assert all(stop.lived_ms > upto or upto == 0 for stop in after)
    if upto:
        longest = max((tier.period_ms for tier in policy.tiers), default=0)
        kept = {stop.write for stop in after}
        assert {s.write for s in before if s.lived_ms >= upto + longest and s.lived_ms > upto} <= kept


@given(POLICIES, st.lists(st.integers(1, 15), max_size=60))
def test_points_of_periods_are_older_than_those_of_every_point(policy: KeepPolicy, gaps: list[int]) -> None:
    """So that the oldest first is also the order in which tiers give way."""
    made, now = list[Aged](), 1
    for write, gap in enumerate(gaps, 1):
        now += gap
        made.append(Aged(write, now))
    kinds = [stop.kind for stop in stops(policy, made, now, 0)]
    assert kinds == sorted(kinds)
    assert policy.every_point_ms or StopKind.POINT not in kinds
