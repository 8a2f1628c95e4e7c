"""What a source asks its target to make durable, as SYNC, once the log has been sent so far."""

from __future__ import annotations

from revolume.blocks.numbers import Position
from revolume.mirror.link import Link
from revolume.mirror.log_sender import LogSender
from revolume.mirror.wire.frames import Type
from revolume.mirror.wire.session_messages import pack_number


class DurableRequests:
    """Of one session. Nothing is asked twice, nor before ``follow``."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._log: LogSender | None = None
        self._wanted = Position(0)
        self._asked = Position(0)

    def follow(self, log: LogSender) -> None:
        """The log that goes out in this session."""
        self._log = log

    def want(self, position: Position) -> None:
        """A client waits for this: the target is to make it durable, once it has been sent."""
        if position > self._wanted:
            self._wanted = position
            self._ask()

    def log_advanced(self) -> None:
        """More of the log has been sent."""
        if self._wanted > self._asked:
            self._ask()

    def _ask(self) -> None:
        assert self._log is not None
        wanted = min(self._wanted, self._log.sent)
        if wanted > self._asked and self._link.open:
            self._asked = wanted
            self._link.send_control(Type.SYNC, pack_number(wanted))
