"""What the volumes of a service tell: into the log of the process, at its level, and to ``--on-event``."""

from __future__ import annotations

import structlog

from revolume.cli.alarm import Alarm
from revolume.volume.events import Event, Level

log = structlog.get_logger("revolume")


class Heard:
    """Who listens to a volume's events."""

    def __init__(self, alarm: Alarm | None) -> None:
        self._alarm = alarm

    def event(self, volume: str, event: Event) -> None:
        """A repetition is logged the second, the tenth, the hundredth time: the log is not filled by it."""
        if event.count == 2 or str(event.count).rstrip("0") == "1":
            say = {Level.INFO: log.info, Level.WARNING: log.warning, Level.ERROR: log.error}[event.level]
            times = {"count": event.count} if event.count > 1 else {}
            say(event.message, volume=volume, kind=str(event.kind), **times)
        if self._alarm is not None:
            self._alarm.ring(volume, event)
