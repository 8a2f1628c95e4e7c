"""How much of a base is under way: by rate, by round trip, and by what the session has brought over."""

from __future__ import annotations

from revolume.mirror.source.base_pace import SHARE, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, BasePace

MS = 1_000_000


def sent_over(rate: float, round_trip_ns: int, seconds: float) -> BasePace:
    """A link of so many bytes a second, behind which a target acknowledges at once; time is counted here."""
    pace, now, free_at, arrivals = BasePace(), 0, 0, list[int]()
    while now < seconds * 1e9:
        while pace.open:
            size = pace.piece_bytes()
            free_at = max(free_at, now) + int(size / rate * 1e9)
            pace.sent(size, now)
            arrivals.append(free_at + round_trip_ns)
        now = arrivals.pop(0)
        pace.stored(now)
        lost = max(WINDOW_BYTES_MIN, pace.stored_bytes // SHARE)
        assert pace.under_way_bytes <= lost + pace.piece_bytes(), "a link lost now costs more than its share"
    return pace


def test_a_fast_link_is_filled_and_a_slow_one_is_not() -> None:
    assert sent_over(1e9, MS // 10, 2.0).window_bytes == WINDOW_BYTES_MAX
    assert sent_over(1e6, MS // 10, 5.0).window_bytes == WINDOW_BYTES_MIN


def test_a_long_way_does_not_make_the_window_smaller() -> None:
    """100 MB/s over 80 ms: eight megabytes are under way before the first is acknowledged."""
    pace = sent_over(100e6, 80 * MS, 5.0)
    assert pace.window_bytes > 8e6
    assert pace.rate > 0.9 * 100e6
