"""Progress of long work: a bar on a terminal, JSON lines with ``--json``, silence in a pipe.

The work calls ``report(stage, done, total)`` as often as it likes, from any thread; the bar is drawn a
few times a second, and rich (which draws it) is imported only when there is something to draw on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_LINE_SECONDS = 0.5


class Report(Protocol):
    """``report(stage, done, total)``: what is being done, and how many bytes of it."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@contextmanager
def progress(*, as_json: bool) -> Iterator[Report]:
    """A reporter for the time of the work."""
    if as_json:
        yield _JsonLines()
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield _Bars(bars)
    else:
        yield _silent


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody looks."""


class _JsonLines:
    """A line at the start of a stage, then two a second."""

    def __init__(self) -> None:
        self._stage = ""
        self._due = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self._stage and now < self._due and done < total:
            return
        self._stage, self._due = stage, now + _LINE_SECONDS
        line = {"progress": {"stage": stage, "done": done, "total": total}}
        print(json.dumps(line), file=sys.stderr, flush=True)


class _Bars:
    """A bar a stage."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total or None)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
