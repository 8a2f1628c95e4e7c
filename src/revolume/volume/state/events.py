"""What an operator should know of a volume: things that happened, each with how often.

A repetition raises the count of what is there already, so that one thing that goes on and on does not push out
everything else. What is kept is bounded: so many things in all, and so many of one kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum


class EventKind(StrEnum):
    """What a program can tell apart. NOTE: worth telling, and nothing to act on."""

    NOTE = "note"
    TROUBLE = "trouble"
    MIRROR_LOST = "mirror-lost"
    MIRROR_BACK = "mirror-back"
    MIRROR_REFUSED = "mirror-refused"
    MIRROR_DETACHED = "mirror-detached"
    MIRROR_REQUIRED = "mirror-required"
    DIVERGED = "diverged"
    SUSPECT = "suspect"
    NEAR_FULL = "near-full"
    ROOM_AGAIN = "room-again"
    FULL = "full"
    DAMAGE = "damage"
    HEALED = "healed"
    POISONED = "poisoned"
    GAVE_WAY = "gave-way"
    CLOCK_STEP = "clock-step"


class Level(StrEnum):
    """As in the log of the process."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LEVELS = {
    EventKind.NOTE: Level.INFO,
    EventKind.MIRROR_BACK: Level.INFO,
    EventKind.MIRROR_REQUIRED: Level.INFO,
    EventKind.ROOM_AGAIN: Level.INFO,
    EventKind.DIVERGED: Level.ERROR,
    EventKind.MIRROR_REFUSED: Level.ERROR,
    EventKind.FULL: Level.ERROR,
    EventKind.DAMAGE: Level.ERROR,
    EventKind.POISONED: Level.ERROR,
}
"""Everything else is a warning."""

KEPT_MAX = 64
KEPT_OF_A_KIND_MAX = 16


@dataclass(frozen=True, slots=True)
class Event:
    """``count`` times the same, the first and the last time in ns since 1970."""

    kind: EventKind
    level: Level
    message: str
    first_ns: int
    last_ns: int
    count: int = 1


class Events:
    """What has been told, what was told last at the end."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._kept: dict[tuple[EventKind, str], Event] = {}
        self._listener: Callable[[Event], None] | None = None

    def tell(self, message: str, kind: EventKind = EventKind.NOTE) -> None:
        """Append an operator-visible event; a repetition of a kept one raises its count. The newest are kept."""
        now, key = self._now_ns(), (kind, message)
        before = self._kept.pop(key, None)
        event = Event(kind, LEVELS.get(kind, Level.WARNING), message, now, now)
        if before is not None:
            event = replace(before, last_ns=now, count=before.count + 1)
        self._kept[key] = event
        self._forget(kind)
        if self._listener is not None:
            self._listener(event)

    def _forget(self, kind: EventKind) -> None:
        of_a_kind = [key for key in self._kept if key[0] == kind]
        if len(of_a_kind) > KEPT_OF_A_KIND_MAX:
            del self._kept[of_a_kind[0]]
        if len(self._kept) > KEPT_MAX:
            most = Counter(key[0] for key in self._kept).most_common(1)[0][0]
            del self._kept[next(key for key in self._kept if key[0] == most)]

    def follow(self, listener: Callable[[Event], None]) -> None:
        """``listener`` hears everything from now on, and first what has been told already."""
        self._listener = listener
        for event in list(self._kept.values()):
            listener(event)

    def all(self) -> tuple[Event, ...]:
        """What is kept, in the order in which it was last told."""
        return tuple(self._kept.values())

    def texts(self) -> tuple[str, ...]:
        """Their messages."""
        return tuple(event.message for event in self._kept.values())
