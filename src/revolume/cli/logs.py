"""The log of a service, on stderr: for people on a terminal, JSON lines for a journal otherwise."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure() -> None:
    """Once, before anything logs."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _renderer() -> list[structlog.typing.Processor]:
    if not sys.stderr.isatty():
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=not os.environ.get("NO_COLOR"))]
