"""The source's side of a comparison, on one session: questions about the mirror's copy, and blocks that put it
right. What is asked, and what is made of the answers, is ``resync/``'s business.

One question is under way at a time; another waits. Whoever waits when the session ends gets a ConnectionError.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from revolume.errors import Refused
from revolume.host.disk import Buffer
from revolume.mirror.link import Link
from revolume.mirror.source.suspect_sender import SuspectSender
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.comparison_messages import (
    CompareAsk,
    Compared,
    CompareOpen,
    CompareOpened,
    Fixed,
    FixupAt,
    pack_compare_ask,
    pack_compare_end,
    pack_compare_open,
    pack_fixup,
    pack_fixup_at,
    unpack_compare_opened,
    unpack_compared,
    unpack_fixed,
)
from revolume.mirror.wire.frames import ProtocolError, Type

U64 = npt.NDArray[np.uint64]
Answer = TypeVar("Answer")


class Comparison:
    """Of one session with a mirror that has joined."""

    def __init__(self, link: Link, suspect: SuspectSender) -> None:
        self.mark = suspect.send
        self.equal_at = suspect.equal
        self._link = link
        self._turn = asyncio.Lock()
        self._asked: CompareOpen | CompareAsk | None = None
        self._point: int | None = None
        """Of the last COMPARE_OPEN."""
        self._answer: asyncio.Future[Any] | None = None
        self._fixing: dict[int, tuple[int, asyncio.Future[int]]] = {}
        self.version = 0
        """Of the protocol, as the mirror chose it."""
        self._questions = 0
        self._batches = 0

    @property
    def link_bytes(self) -> int:
        """That have gone over the session's connection so far, both ways, the log's included."""
        return self._link.bytes_in + self._link.bytes_out

    # Asking

    async def open(self, point: Pin, quick: bool) -> None:
        """Have the mirror hold a point open, on which it has agreed. Refused: it can't. ConnectionError. Whoever
        stops waiting has not opened it: it is closed as soon as it is open."""
        question = CompareOpen(point, quick)
        exchange = self._begun(question, Type.COMPARE_OPEN, pack_compare_open(question))
        try:
            await asyncio.shield(exchange)
        except asyncio.CancelledError:
            exchange.add_done_callback(lambda _: self._end_if_last(point))
            raise

    def _end_if_last(self, point: Pin) -> None:
        if self._point == point.number:
            self.end(point)

    async def sums(self, first: int, blocks: int) -> Compared:
        """The sums of the regions in these blocks; see ``comparison_messages``. Refused: the mirror can't hold the
        point open any more. ConnectionError."""
        return await self._about(first, blocks, digests=False)

    async def digests(self, first: int, blocks: int) -> Compared:
        """The digests of these blocks; no content is read for them. Refused, ConnectionError: as for sums."""
        return await self._about(first, blocks, digests=True)

    def end(self, point: Pin) -> None:
        """Nothing more is asked of the point."""
        if self._link.open:
            self._link.send_control(Type.COMPARE_END, pack_compare_end(point.number))

    async def _about(self, first: int, blocks: int, digests: bool) -> Compared:
        assert self._point is not None
        self._questions += 1
        question = CompareAsk(self._questions, first, blocks, digests)
        answer: Compared = await self._ask(question, Type.COMPARE_ASK, pack_compare_ask(question))
        return answer

    async def _ask(self, question: CompareOpen | CompareAsk, kind: Type, body: bytes) -> Any:
        """The answer. Whoever stops waiting leaves the question under way: the next one waits for its answer."""
        return await asyncio.shield(self._begun(question, kind, body))

    def _begun(self, question: CompareOpen | CompareAsk, kind: Type, body: bytes) -> asyncio.Future[Any]:
        exchange = asyncio.ensure_future(self._exchange(question, kind, body))
        exchange.add_done_callback(lambda done: done.cancelled() or done.exception())
        return exchange

    async def _exchange(self, question: CompareOpen | CompareAsk, kind: Type, body: bytes) -> Any:
        async with self._turn:
            self.check_open()
            self._asked = question
            if isinstance(question, CompareOpen):
                self._point = question.point.number
            self._answer = asyncio.get_running_loop().create_future()
            self._link.send_control(kind, body)
            try:
                return await self._answer
            finally:
                self._asked = self._answer = None

    def check_open(self) -> None:
        """ConnectionError: the session is over."""
        if not self._link.open:
            raise _lost()

    # Putting right

    def begin_batch(self) -> int:
        """The number of the next batch. One is sent at a time, and the next once its point is named."""
        self._batches += 1
        return self._batches

    async def send(self, batch: int, blocks: U64, digests: U64, content: Buffer) -> int:
        """Some blocks of a batch, ascending, with the content of those whose digest is not 0; the bytes sent.
        Waits while much is on its way already. ConnectionError."""
        self.check_open()
        size = self._link.send_with_payload(Type.FIXUP, pack_fixup(batch, blocks, digests), [content])
        while self._link.open and self._link.backlog > (4 << 20):
            await self._link.host.clock.sleep(0.005)
        return size

    def name_point(self, named: FixupAt) -> asyncio.Future[int]:
        """A batch belongs to this point, whose record has not been sent: how many of its blocks were stored, once
        the mirror has agreed on it, durably; or ConnectionError."""
        self.check_open()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._fixing[named.batch] = named.point.number, future
        self._link.send_control(Type.FIXUP_AT, pack_fixup_at(named))
        return future

    # What arrives

    def frame(self, kind: Type, body: memoryview) -> None:
        """COMPARE_OPENED, COMPARED or FIXED. ProtocolError: nobody asked."""
        if kind == Type.FIXED:
            self._fixed(unpack_fixed(body))
        elif kind == Type.COMPARE_OPENED:
            self._opened(unpack_compare_opened(body))
        else:
            if not isinstance(self._asked, CompareAsk):
                raise ProtocolError("It compares what nobody asked for.")
            self._answered(unpack_compared(body, self._asked))

    def _opened(self, opened: CompareOpened) -> None:
        asks_to_open = isinstance(self._asked, CompareOpen)
        if self._asked is None or opened.point != self._point or not (asks_to_open or opened.why_not):
            raise ProtocolError("It opens a point that nobody asked for.")
        if not opened.why_not:
            self._answered(opened)
        elif self._answer is not None and not self._answer.done():
            cause = f"The mirror can't be compared now: {opened.why_not}"
            self._answer.set_exception(Refused("not-compared", cause, "Verify it again later."))

    def _answered(self, answer: CompareOpened | Compared) -> None:
        if self._answer is None or self._answer.done():
            raise ProtocolError("It answers twice.")
        self._answer.set_result(answer)

    def _fixed(self, fixed: Fixed) -> None:
        point, future = self._fixing.pop(fixed.batch, (0, None))
        if future is None or point != fixed.point:
            raise ProtocolError("It was put right by blocks that were not sent.")
        if not future.done():
            future.set_result(fixed.stored)

    def ended(self) -> None:
        """The session is over."""
        waiting = [future for _, future in self._fixing.values()]
        self._fixing = {}
        if self._answer is not None:
            waiting.append(self._answer)
        for future in waiting:
            if not future.done():
                future.set_exception(_lost())
                future.exception()  # whoever waited may have gone


def _lost() -> ConnectionError:
    return ConnectionError("the link to the mirror was lost")
