"""Rates and windows of the day: what is understood, and how long things take within them."""

from __future__ import annotations

import pytest

from revolume.cli.values import parse_bulk_window, parse_rate
from revolume.errors import UsageError
from revolume.pace.limits import parse_window

HOUR = 3600


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("22:00-06:00", 22 * HOUR, 6 * HOUR),
        ("1:30-02:15", HOUR + 1800, 2 * HOUR + 900),
        ("18:00-24:00", 18 * HOUR, 0),
        ("00:00-12:00", 0, 12 * HOUR),
    ],
)
def test_windows_are_understood(text: str, start: int, end: int) -> None:
    window = parse_window(text)
    assert (window.start, window.end) == (start, end)
    assert parse_window(str(window)) == window


@pytest.mark.parametrize(
    "text", ["", "22-06", "25:00-06:00", "22:60-06:00", "22:00-22:00", "24:01-01:00", "x", "0-1"]
)
def test_what_is_no_window_is_told_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_window(text)
    assert "window" in told.value.cause
    assert told.value.hint.endswith(".")


@pytest.mark.parametrize(("hour", "opens"), [(22, 0), (23, 0), (0, 0), (5.99, 0), (6, 16), (12, 10), (21, 1)])
def test_when_a_window_over_midnight_opens(hour: float, opens: float) -> None:
    assert parse_window("22:00-06:00").opens_in(int(hour * HOUR)) == opens * HOUR


@pytest.mark.parametrize(
    ("hour", "work", "passed"),
    [
        (22, 0, 0),
        (22, 8, 8),
        (12, 8, 18),
        (12, 9, 10 + 8 + 16 + 1),
        (5, 2, 1 + 16 + 1),
        (5, 1 + 8 + 8, 1 + 16 + 8 + 16 + 8),
        (5, 1 + 8 + 8 + 1, 1 + 16 + 8 + 16 + 8 + 16 + 1),
    ],
)
def test_how_long_work_takes_within_a_window(hour: int, work: int, passed: int) -> None:
    assert parse_window("22:00-06:00").passed(hour * HOUR, work * HOUR) == passed * HOUR


def test_rates() -> None:
    assert parse_rate("50MiB") == parse_rate("50M/s") == 50 << 20
    assert parse_rate("none") == parse_rate(None) == 0
    assert parse_bulk_window("none") is parse_bulk_window(None) is None
    for bad in ("0", "1K", "50MB", "fast", "-1M"):
        with pytest.raises(UsageError):
            parse_rate(bad)
