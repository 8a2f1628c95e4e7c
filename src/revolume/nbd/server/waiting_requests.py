"""The requests of one connection that were taken and wait for something: tasks, and the release of changes.

All of them are counted in the connection's tally from the beginning of their wait to its end.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial

from revolume.blocks.numbers import Position
from revolume.nbd.bounds.unanswered import Tally
from revolume.nbd.export import Export
from revolume.nbd.server.jobs import Job, Jobs


class WaitingRequests:
    """``fail`` answers tokens whose job failed, ``succeed`` tokens whose changes were released; ``go_on`` is
    called after each, once they are counted no more."""

    def __init__(
        self,
        tally: Tally,
        fail: Callable[[list[bytes], BaseException], None],
        succeed: Callable[[list[bytes]], None],
        go_on: Callable[[], None],
    ) -> None:
        self._tally = tally
        self._succeed: Callable[[list[bytes]], None] = succeed
        self._go_on: Callable[[], None] = go_on
        self.jobs = Jobs(fail, self._on_job_finished)
        self._unreleased: dict[int, tuple[list[bytes], int]] = {}  # tokens, and the bytes in which they came
        self._releases = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def tokens(self) -> list[bytes]:
        """Of all requests that wait."""
        return self.jobs.tokens + [token for group, _ in self._unreleased.values() for token in group]

    def start(self, tokens: list[bytes], job: Job) -> None:
        """Run ``job``, which answers ``tokens``."""
        self._idle.clear()
        self._tally.add(len(tokens))
        self.jobs.start(tokens, job)

    def until_released(self, export: Export, position: Position, tokens: list[bytes], count: int) -> None:
        """Answer changes up to ``position``, which came in ``count`` bytes, when the export releases them."""
        self._releases += 1
        self._unreleased[self._releases] = (tokens, count)
        self._tally.add(len(tokens), count)
        self._idle.clear()
        export.on_release(position, partial(_on_release, weakref.ref(self), self._releases))

    def on_release(self, number: int) -> None:
        """The changes of that number may be answered."""
        group = self._unreleased.pop(number, None)
        if group is not None:
            tokens, count = group
            self._tally.drop(len(tokens), count)
            self._succeed(tokens)
            self._note_idle()
            self._go_on()

    def _on_job_finished(self, requests: int) -> None:
        self._tally.drop(requests)
        self._succeed([])
        self._note_idle()
        self._go_on()

    def _note_idle(self) -> None:
        if not self.jobs and not self._unreleased:
            self._idle.set()

    async def finished(self) -> None:
        """Wait until everything taken has been answered."""
        await self._idle.wait()

    def abandon(self) -> None:
        """Nothing of what waits is answered any more."""
        self.jobs.abandon()
        self._unreleased.clear()
        self._tally.clear()
        self._succeed, self._go_on = _nothing, _nothing  # so that no circle of references is left
        self._idle.set()


def _nothing(*_: object) -> None: ...


def _on_release(waiting: weakref.ref[WaitingRequests], number: int) -> None:
    """A mirror may be away for long: its callbacks must not keep a closed connection's parts in memory."""
    there = waiting()
    if there is not None:
        there.on_release(number)
