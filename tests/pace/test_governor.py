"""The share of the loop's time that bulk gets: by lags, as tables."""

from __future__ import annotations

import pytest

from revolume.pace.governor import IDLE_NS, MS, SHARE_FIRST, SHARE_MAX, SHARE_MIN, TICK_NS, Governor


def ticked(
    governor: Governor, seconds: float, quiet: int, beside: int, *, now: int = 0, asked: bool = True
) -> int:
    """Ticks for so long, with these lags while bulk is silent and while it is sent; the time then."""
    end = now + int(seconds * 1e9)
    while now < end:
        now += TICK_NS
        governor.tick(now, quiet if governor.quiet else beside, asked)
    return now


def test_without_clients_bulk_has_everything() -> None:
    governor = Governor()
    ticked(governor, 5, 50 * MS, 50 * MS, asked=False)
    assert (governor.share, governor.quiet, governor.active) == (1.0, False, False)


@pytest.mark.parametrize(
    ("quiet", "beside", "share"),
    [
        (0, 0, SHARE_MAX),
        (0, 1 * MS, SHARE_MAX),
        (0, 20 * MS, SHARE_MIN),
        (4 * MS, 20 * MS, SHARE_MIN),
        (20 * MS, 20 * MS, SHARE_MAX),
        (20 * MS, 40 * MS, SHARE_MIN),
        (20 * MS, 27 * MS, SHARE_FIRST),
    ],
)
def test_the_share_follows_what_bulk_adds_to_the_lag(quiet: int, beside: int, share: float) -> None:
    governor = Governor()
    ticked(governor, 0.5, quiet, quiet)
    governor.share = SHARE_FIRST
    ticked(governor, 30, quiet, beside, now=int(0.5e9))
    assert governor.share == pytest.approx(share, rel=0.11)


def test_it_shrinks_at_once_and_grows_slowly() -> None:
    governor = Governor()
    now = ticked(governor, 30, 0, 0)
    now = ticked(governor, 1, 0, 30 * MS, now=now)
    shrunk = governor.share
    assert shrunk < SHARE_MAX / 3
    ticked(governor, 1, 0, 0, now=now)
    assert shrunk <= governor.share < SHARE_MAX


def test_bulk_is_silent_a_twentieth_of_the_time_however_rarely_clients_come() -> None:
    for every in (1, 10, 14, 40):
        governor, silent = Governor(), 0
        for tick in range(6000):
            governor.tick(tick * TICK_NS, 0, tick % every == 0)
            silent += governor.quiet
        assert silent <= 6000 * 0.055, every


def test_everything_is_given_back_when_clients_have_gone() -> None:
    governor = Governor()
    now = ticked(governor, 10, 0, 40 * MS)
    assert governor.active
    ticked(governor, IDLE_NS / 1e9 + 0.02, 0, 0, now=now, asked=False)
    assert governor.share == 1.0
