"""Jobs: the requests of one connection that wait for something, each group a task.

A job answers its tokens itself. If it fails, ``failed`` answers them all; if it is abandoned, nobody does.
``finished`` is told after each that ended by itself, and how many tokens it had, so that what waited for its
place can go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

Job = Callable[[], Coroutine[None, None, None]]


class Jobs:
    """The running jobs of one connection."""

    def __init__(
        self, failed: Callable[[list[bytes], BaseException], None], finished: Callable[[int], None]
    ) -> None:
        self._failed = failed
        self._finished = finished
        self._running: dict[asyncio.Task[None], list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._running)

    @property
    def tokens(self) -> list[bytes]:
        """What the running jobs are going to answer."""
        return [token for tokens in self._running.values() for token in tokens]

    def start(self, tokens: list[bytes], job: Job) -> None:
        """Run ``job``, which answers ``tokens``."""
        task = asyncio.get_running_loop().create_task(self._guard(tokens, job))
        self._running[task] = tokens

    async def _guard(self, tokens: list[bytes], job: Job) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await job()
        except Exception as error:
            if task in self._running:
                self._failed(tokens, error)
        finally:
            done = self._running.pop(task, None)
            if done is not None:
                self._finished(len(done))

    def abandon(self) -> None:
        """Cancel all of them, without an answer, and start no more."""
        running, self._running = self._running, {}
        for task in running:
            task.cancel()
        self._failed, self._finished = _nothing, _nothing


def _nothing(*_: object) -> None: ...
