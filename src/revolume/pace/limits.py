"""What people allow bulk: so many bytes a second, and a window of the day. Pure.

A window is in the node's local time. Days are taken to have 86,400 seconds: on the two nights of a year on which
they have not, a stated time is wrong by an hour until the clock has changed, and the window itself never is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil
from typing import Final

from revolume.errors import UsageError

DAY_S: Final = 86400
RATE_MIN: Final = 64 << 10
"""Bytes a second. With less, one piece takes so long that both ends would seem lost."""
_WINDOW = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")


@dataclass(frozen=True, slots=True)
class DailyWindow:
    """From second ``start`` of each day to second ``end``, which may be of the next one."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{_clock_words(self.start)}-{_clock_words(self.end)}"

    @property
    def length(self) -> int:
        """Seconds a day in which it is open."""
        return (self.end - self.start) % DAY_S

    def opens_in(self, second: int) -> int:
        """Seconds from this second of a day until it is open; 0: it is."""
        return 0 if (second - self.start) % DAY_S < self.length else (self.start - second) % DAY_S

    def passed(self, second: int, work_s: float) -> float:
        """Seconds from this second of a day until it has been open for ``work_s``."""
        wait = float(self.opens_in(second))
        first = (self.end - second) % DAY_S if not wait else self.length
        closings = ceil(max(0.0, work_s - first) / self.length)
        return wait + work_s + closings * (DAY_S - self.length)


@dataclass(frozen=True, slots=True)
class BulkLimits:
    """``rate``: bytes a second of all bulk together, 0 for as fast as it goes; ``window``: None for always."""

    rate: int = 0
    window: DailyWindow | None = None


UNLIMITED: Final = BulkLimits()


def parse_window(text: str) -> DailyWindow:
    """The window that ``22:00-06:00`` says. UsageError: it says none."""
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise _bad(text, "Write it as 22:00-06:00, in local time.")
    times = [int(hour) * 3600 + int(minute) * 60 for hour, minute in ((found[1], found[2]), (found[3], found[4]))]
    if max(times) > DAY_S or int(found[2]) > 59 or int(found[4]) > 59:
        raise _bad(text, "Hours go from 00 to 24, minutes from 00 to 59.")
    start, end = times[0] % DAY_S, times[1] % DAY_S
    if start == end:
        raise _bad(text, "It is never open; leave it out for always.")
    return DailyWindow(start, end)


def checked_rate(rate: int, text: str) -> int:
    """``rate``, as ``text`` says it. UsageError: nothing would get through."""
    if rate < RATE_MIN:
        cause = f"{text[:80]!a} is too little a second to bring a mirror up to date."
        raise UsageError("bad-rate", cause, "Allow 64KiB or more; without it there is no limit.")
    return rate


def _clock_words(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}"


def _bad(text: str, hint: str) -> UsageError:
    return UsageError("bad-window", f"{text[:80]!a} is not a window of the day.", hint)
