"""``--on-event CMD``: a command is run when something has happened that a person should see to.

It runs beside the service: one at a time, for a bounded time; while it runs, more of the same kind are one run
with the last of them. Whatever it does, the service goes on; that it fails is logged once, until it succeeds.

    REVOLUME_EVENT     the kind: mirror-lost, mirror-back, mirror-refused, diverged, near-full, room-again, full,
                       damage, poisoned, gave-way, clock-step
    REVOLUME_VOLUME    the volume's name
    REVOLUME_MESSAGE   the sentence that ``status`` and the log have
    standard input     the same as one JSON object, with level, times and count
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from revolume.volume.state.events import Event, EventKind

SECONDS_MAX: Final = 30.0
QUIET: Final = frozenset({EventKind.NOTE, EventKind.TROUBLE})
"""What no command is run for."""

Run = Callable[[Sequence[str], Mapping[str, str], bytes, float], Awaitable[str]]
log = structlog.get_logger("revolume")


class Alarm:
    """Runs ``argv`` for events that a person should see to; ``run`` starts a program (``host/command.py``)."""

    def __init__(self, argv: Sequence[str], run: Run) -> None:
        self._argv = argv
        self._run = run
        self._waiting: dict[EventKind, tuple[str, Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def ring(self, volume: str, event: Event) -> None:
        """Run the command for an event, or soon, if it is running: of each kind the newest event waits."""
        if event.kind in QUIET:
            return
        self._waiting[event.kind] = (volume, event)  # bounded: there are few kinds
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """What waits is not run any more; what runs is ended."""
        self._waiting.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        while self._waiting:
            kind = next(iter(self._waiting))
            await self._once(*self._waiting.pop(kind))
        self._task = None

    async def _once(self, volume: str, event: Event) -> None:
        extra = {"REVOLUME_EVENT": event.kind, "REVOLUME_VOLUME": volume, "REVOLUME_MESSAGE": event.message}
        given = json.dumps({"volume": volume, **dataclasses.asdict(event)}, ensure_ascii=False)
        try:
            wrong = await self._run(self._argv, extra, given.encode() + b"\n", SECONDS_MAX)
        except Exception as error:  # whatever it was: the service goes on
            wrong = repr(error)
        if wrong and not self._failing:
            log.warning("the command of --on-event failed", command=self._argv[0], cause=wrong, kind=event.kind)
        self._failing = bool(wrong)
