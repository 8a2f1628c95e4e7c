"""Policies as people write them: what is read is written as it was meant; what contradicts itself is one
sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revolume.api.keep_text import format_policy, parse_policy
from revolume.errors import UsageError
from revolume.volume.metadata.keep_policy import KeepPolicy, Tier, WhenFull, pack_policy, unpack_policy

S, H, D = 1000, 3_600_000, 86_400_000


def test_a_plain_span_is_of_every_write() -> None:
    assert parse_policy("24h") == KeepPolicy(24 * H) == parse_policy("every-write=1d")
    assert parse_policy("500ms") == KeepPolicy(500)


def test_tiers_are_read_in_any_order() -> None:
    policy = parse_policy("daily=30d every-cp=3d, hourly=7d every-write=24h every-6h=14d")
    tiers = (Tier(H, 7 * D), Tier(6 * H, 14 * D), Tier(D, 30 * D))
    assert policy == KeepPolicy(24 * H, 3 * D, tiers)
    assert format_policy(policy) == "every-write=1d every-cp=3d hourly=7d every-6h=14d daily=30d"


@pytest.mark.parametrize(
    "text, told",
    [
        ("every-write=24h hourly=12h", "hourly keeps nothing that every-write"),
        ("every-write=1h every-cp=1h", "every-cp keeps nothing that every-write"),
        ("every-write=1h hourly=7d daily=7d", "daily keeps nothing that hourly"),
        ("every-write=1h weekly=7d", "There is no tier 'weekly'"),
        ("every-write=0 hourly=7d", "every-write=0 keeps nothing"),
        ("every-write=1h hourly=0", "hourly=0 keeps nothing"),
        ("every-write=1h every-write=2h", "every-write says how long something is kept"),
        ("every-write=1h hourly=7d every-1h=8d", "every-1h says how long something is kept"),
        ("hourly=7d", "does not say for how long every write"),
        ("every-write=1h 7d", "'7d' names no tier"),
        ("every-write=1h daily=12h", "The span of daily is shorter than its period"),
        ("every-write=1h hourly=1000d", "hourly would keep 24000 points"),
        ("every-write=soon", "'soon' is not a span of time"),
        ("", "does not say for how long every write"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_policy(text)
    assert told in refused.value.cause


@st.composite
def policies(draw: st.DrawFn) -> KeepPolicy:
    spans = sorted(draw(st.sets(st.integers(1, 10**6), min_size=2, max_size=5)))
    writes, points, *rest = spans
    periods = sorted(draw(st.sets(st.integers(1, 10**4), min_size=len(rest), max_size=len(rest))))
    tiers = tuple(
        Tier(period * S, span * S)
        for period, span in zip(periods, rest, strict=True)
        if period <= span and span // period <= 1000
    )
    return KeepPolicy(writes * S, draw(st.sampled_from((0, points))) * S, tiers, draw(st.sampled_from(WhenFull)))


@given(policies())
def test_what_is_written_is_read_again(policy: KeepPolicy) -> None:
    read = parse_policy(format_policy(policy))
    assert (read.every_write_ms, read.every_point_ms, read.tiers) == (
        policy.every_write_ms, policy.every_point_ms, policy.tiers,
    )  # fmt: skip
    assert unpack_policy(pack_policy(policy)) == policy
