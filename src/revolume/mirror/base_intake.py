"""The base as it arrives at a target: stored beside the log, in order, without holding the log up.

A frame's blocks are copied out of the receive buffer and wait their turn; the source sends only so many ahead of
BASE_AT, and one that does not keep to that is broken off, so what waits here is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from revolume.mirror.frames import Broken, Type
from revolume.mirror.link import Link, unbroken
from revolume.mirror.messages import NUMBER
from revolume.mirror.parts import Secondary
from revolume.mirror.rows import Rows, unpack_base

FRAMES_AHEAD: Final = 16
"""BASE frames that may be under way without a BASE_AT."""


class BaseIntake:
    """See the module's text. ``finished`` is awaited once the copy is whole."""

    def __init__(
        self,
        link: Link,
        secondary: Secondary,
        point: int,
        next_block: int,
        finished: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._link = link
        self._secondary = secondary
        self._point = point
        self._next = next_block
        self._waiting: deque[tuple[Rows, int]] = deque()
        self._storing: asyncio.Task[None] | None = None
        self._ending = False
        self._finished = finished

    def frame(self, frame: memoryview) -> None:
        """BASE."""
        rows, next_block = unpack_base(frame)
        if self._ending or next_block <= self._next or (len(rows.blocks) and int(rows.blocks[0]) < self._next):
            raise Broken("Blocks of the base that were sent before.")
        if len(self._waiting) >= FRAMES_AHEAD:
            raise Broken("The base runs ahead of what is stored.")
        self._next = next_block
        copied = Rows(rows.blocks, rows.digests, memoryview(bytes(rows.payload)))
        self._waiting.append((copied, next_block))
        self._go_on()

    def end(self, point: int) -> None:
        """BASE_END."""
        if point != self._point or self._ending:
            raise Broken("The end of another base.")
        self._ending = True
        self._go_on()

    def _go_on(self) -> None:
        if self._storing is None:
            self._storing = self._link.spawn(self._store())

    async def _store(self) -> None:
        while self._waiting:
            rows, next_block = self._waiting[0]
            await unbroken(self._secondary.put_base(rows.blocks, rows.digests, rows.payload, next_block))
            self._waiting.popleft()
            self._link.send_control(Type.BASE_AT, NUMBER.pack(next_block))
        self._storing = None
        if self._ending:
            await unbroken(self._secondary.finish_base())
            await unbroken(self._finished())
            self._link.send_control(Type.BASE_DONE, NUMBER.pack(self._point))
