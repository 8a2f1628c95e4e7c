"""The log of a service, on stderr: for people on a terminal, JSON lines for a journal otherwise.

Neither the log nor the ready lines can stop the service: both go through a ``LogSink``, and lines that repeat
without end are counted instead of being written.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import math
import os
import sys
import time
from typing import Any, Final, TextIO, cast

import structlog

from revolume.host.log_sink import LogSink
from revolume.host.text import one_line

_FLUSH_S: Final = 1.0
_REPEATS_MAX: Final = 20
_REPEATS_S: Final = 10.0
_KINDS_MAX: Final = 256


def configure() -> None:
    """Once, before anything logs. From now on stdout and stderr belong to sinks, which are flushed at exit."""
    sinks = [LogSink(number, _lines_lost) for number in (1, 2)]
    sys.stdout, sys.stderr = (cast(TextIO, sink) for sink in sinks)
    atexit.register(_flush, sinks)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            Repeats(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _harmless,
            *_renderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _flush(sinks: list[LogSink]) -> None:
    deadline = time.monotonic() + _FLUSH_S
    for sink in sinks:
        sink.drain(deadline)


def _lines_lost(count: int) -> str:
    if not sys.stderr.isatty():
        return json.dumps({"event": "lines of the log were lost", "level": "warning", "count": count})
    return f"{count} lines of the log were lost"


def _renderer() -> list[structlog.typing.Processor]:
    if not sys.stderr.isatty():
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=not os.environ.get("NO_COLOR"))]


def _harmless(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take control characters out: peers and clients choose some of the text."""
    return {name: one_line(value) if isinstance(value, str) else value for name, value in event.items()}


class Repeats:
    """Lets an event through so many times in a while; the first one after that says how many were left out."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}  # event → begin of its while, how many since

    def __call__(self, logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        name, now = str(event.get("event")), time.monotonic()
        begin, count = self._seen.get(name, (-math.inf, 0))
        if now - begin < _REPEATS_S:
            self._seen[name] = (begin, count + 1)
            if count >= _REPEATS_MAX:
                raise structlog.DropEvent
            return event
        if len(self._seen) >= _KINDS_MAX:
            self._seen.clear()
        self._seen[name] = (now, 1)
        if count > _REPEATS_MAX:
            event["left_out"] = count - _REPEATS_MAX
        return event


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An error in the event loop that nobody waits for, as one log line like every other."""
    error = context.get("exception")
    structlog.get_logger("revolume").error(
        str(context.get("message", "error in the event loop")),
        error=None if error is None else repr(error),
        exc_info=error if error is not None and not isinstance(error, OSError) else None,
    )
