"""What a service tells its operator: into the log of the process, and to ``--on-event``."""

from __future__ import annotations

from typing import Protocol

import structlog

from revolume.node.alarm import Alarm
from revolume.volume.state.events import Event, Level

log = structlog.get_logger("revolume")


class Observer(Protocol):
    """Whoever starts a service is told what happens to it."""

    def tell(self, sentence: str) -> None:
        """Report an action of the service itself: listening, promoting, stopping."""

    def event(self, volume: str, event: Event) -> None:
        """Report an event of the volume of this name. ``event.count`` is above 1 for a repetition."""


class EventLog:
    """The ``Observer`` of a service process: writes log lines at the event's level, and rings ``alarm``."""

    def __init__(self, alarm: Alarm | None) -> None:
        self._alarm = alarm

    def tell(self, sentence: str) -> None:
        """Write one line at level info."""
        log.info(sentence)

    def event(self, volume: str, event: Event) -> None:
        """A repetition is logged the second, the tenth, the hundredth time, so that it does not fill the log."""
        if event.count == 2 or str(event.count).rstrip("0") == "1":
            say = {Level.INFO: log.info, Level.WARNING: log.warning, Level.ERROR: log.error}[event.level]
            times = {"count": event.count} if event.count > 1 else {}
            say(event.message, volume=volume, kind=str(event.kind), **times)
        if self._alarm is not None:
            self._alarm.ring(volume, event)
