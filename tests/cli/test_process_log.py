"""Lines of the log that repeat without end are counted instead of being written."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from revolume.cli import process_log
from revolume.cli.process_log import Repeats


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(process_log, "time", clock)
    return clock


def written(repeats: Repeats, event: str, times: int = 1) -> list[dict[str, Any]]:
    """What comes through of ``times`` the same event."""
    through = []
    for _ in range(times):
        try:
            through.append(dict(repeats(None, "info", {"event": event})))
        except structlog.DropEvent:
            continue
    return through


def test_twenty_of_a_kind_come_through(clock: Clock) -> None:
    repeats = Repeats()
    assert len(written(repeats, "lost", 50)) == 20
    assert written(repeats, "other") == [{"event": "other"}]


def test_the_first_after_a_while_says_how_many_were_left_out(clock: Clock) -> None:
    repeats = Repeats()
    written(repeats, "lost", 50)
    clock.now += 11
    assert written(repeats, "lost") == [{"event": "lost", "left_out": 30}]
    clock.now += 11
    assert written(repeats, "lost") == [{"event": "lost"}]


def test_memory_for_kinds_is_bounded(clock: Clock) -> None:
    repeats = Repeats()
    for number in range(1000):
        written(repeats, f"event {number}")
    assert len(repeats._seen) <= 256
