"""Requests that may take long, each as a job that answers it: FLUSH, block status, CACHE."""

from __future__ import annotations

import asyncio
from functools import partial

from revolume.blocks.numbers import Position
from revolume.nbd.export import Export
from revolume.nbd.server.jobs import Job
from revolume.nbd.server.outlet import Outlet
from revolume.nbd.server.reads import DeferredRead, DeferredReader
from revolume.nbd.server.reply_queue import ReplyQueue
from revolume.nbd.wire.constants import Command
from revolume.nbd.wire.replies import Encoder, clip
from revolume.nbd.wire.requests import DF_BIT, REQ_ONE_BIT, Request


class SlowRequests:
    """Makes jobs. ``contexts``: the selected metadata contexts, by context id."""

    def __init__(
        self,
        export: Export,
        encoder: Encoder,
        contexts: tuple[str, ...],
        reader: DeferredReader,
        replies: ReplyQueue,
        outlet: Outlet,
    ) -> None:
        self._export = export
        self._encoder = encoder
        self.contexts = contexts if encoder.chunked else ()
        self._reader = reader
        self._replies = replies
        self._outlet = outlet
        self._turn = asyncio.Lock()  # block status and CACHE take memory, so they take turns

    def job(self, command: Command, request: Request) -> Job:
        """The job of a READ, BLOCK_STATUS or CACHE."""
        kind, token, offset, length, _ = request
        if command is Command.READ:
            return partial(self._reader.answer, DeferredRead(token, offset, length, whole=bool(kind & DF_BIT)))
        if command is Command.BLOCK_STATUS:
            return partial(self._answer_status, token, offset, length, bool(kind & REQ_ONE_BIT))
        return partial(self._answer_cache, token, offset, length)

    async def answer_durable(self, position: Position, tokens: list[bytes]) -> None:
        """Answer ``tokens`` when everything up to ``position`` is durable."""
        await self._export.durable(position)
        self._replies.succeeded += tokens

    async def _answer_cache(self, token: bytes, offset: int, length: int) -> None:
        if length:
            async with self._turn:
                await self._export.cache(offset, length)
        self._replies.succeeded.append(token)

    async def _answer_status(self, token: bytes, offset: int, length: int, one: bool) -> None:
        async with self._turn:
            await self._reader.unblocked()
            chunks = []
            for number, context in enumerate(self.contexts):
                extents = clip(await self._export.extents(context, offset, length), length, one)
                last = number == len(self.contexts) - 1
                chunks.append(memoryview(self._encoder.status(token, number, extents, last)))
            self._outlet.send(chunks)
