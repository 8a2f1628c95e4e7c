"""A process on a simulated machine: who an event belongs to, and whether he still lives.

A process ends as ``kill -9`` ends one: between two instructions, with nothing said and nothing finished. Each
callback of the loop carries its process in its context; those of a dead one are dropped. A task of a dead process
is kept, unfinished, until the world ends: collected earlier, its ``finally`` blocks would run.

A process that is *paused*, as SIGSTOP pauses one, runs none of them; they wait until it goes on.

Within a call a process may die too (the power goes while it writes): then every seam that it touches raises
``Gone``, which is nobody's to catch.
"""

from __future__ import annotations

import contextvars
from asyncio import Handle
from collections.abc import Callable


class Gone(BaseException):
    """This process does not exist any more."""


class Process:
    """One life of a program on a machine."""

    def __init__(self, machine: str, name: str) -> None:
        self.machine = machine
        self.name = name
        self.alive = True
        self.held: list[Handle] | None = None
        """While it is paused: what it has to do when it goes on; None: it is not paused."""
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)
        self._ends: list[Callable[[], None]] = []

    def at_end(self, told: Callable[[], None]) -> None:
        """Call back, outside of it, when it dies."""
        self._ends.append(told)

    def die(self) -> None:
        """Now, for good."""
        self.alive = False
        ends, self._ends = self._ends, []
        for told in ends:
            told()

    def require_alive(self) -> None:
        """Gone, if it is."""
        if not self.alive:
            raise Gone(self.name)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("PROCESS", default=None)
