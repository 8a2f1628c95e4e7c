"""Work that is done to its end, even if whoever waits for it is cancelled.

A client whose wait for room had a point made, or a fold, may disconnect; the point and the fold go on. Files are
closed only when nothing of this is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class UncancelledTasks:
    """What must be finished before a volume's files are closed."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await ``work``; cancelling this does not cancel it."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start ``work``, for which nobody waits; it deals with its own errors."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def settled(self) -> None:
        """Wait until nothing of it is under way."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))
