"""Hints to the kernel: one at a time, over what was written lately."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from revolume.blocks.geometry import BLOCK
from revolume.log.write.writeback import WRITEBACK_BYTES, Writeback


class Work:
    """Calls that end when ``go`` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)
        await self.go.wait()


def test_one_hint_at_a_time() -> None:
    hints: list[tuple[int, int]] = []
    file = SimpleNamespace(writeback=lambda offset, length: hints.append((offset, length)))
    appender = SimpleNamespace(segment=SimpleNamespace(file=file), next_block=WRITEBACK_BYTES // BLOCK)

    async def hinted() -> None:
        work = Work()
        writeback = Writeback(cast(Any, appender), cast(Any, work))
        writeback.begin(WRITEBACK_BYTES)
        await asyncio.sleep(0)
        assert (writeback.reached, writeback.due_above) == (WRITEBACK_BYTES, 2 * WRITEBACK_BYTES)
        appender.next_block = 4 * WRITEBACK_BYTES // BLOCK
        writeback.begin(2 * WRITEBACK_BYTES)
        await asyncio.sleep(0)
        assert hints == [(0, WRITEBACK_BYTES)]
        work.go.set()
        await writeback.settled()
        writeback.begin(3 * WRITEBACK_BYTES)
        await writeback.settled()

    asyncio.run(hinted())
    assert hints == [(0, WRITEBACK_BYTES), (2 * WRITEBACK_BYTES, 2 * WRITEBACK_BYTES)]


def test_without_an_open_segment_nothing_is_hinted() -> None:
    async def hinted() -> None:
        writeback = Writeback(cast(Any, SimpleNamespace(segment=None)), cast(Any, None))
        writeback.begin(5)
        await writeback.settled()
        assert writeback.due_above == 5 + WRITEBACK_BYTES

    asyncio.run(hinted())
