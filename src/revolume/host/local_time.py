"""The time of day where this machine is: for what people order by the clock, never for a measure or a label."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class LocalTime:
    """``second`` of the day, in the time zone ``zone``."""

    second: int
    zone: str


def local_time(wall_ns: int) -> LocalTime:
    """What a clock on the wall shows at a time since 1970, in the machine's time zone."""
    there = datetime.fromtimestamp(wall_ns // 10**9, UTC).astimezone()
    return LocalTime(there.hour * 3600 + there.minute * 60 + there.second, there.strftime("%Z"))
