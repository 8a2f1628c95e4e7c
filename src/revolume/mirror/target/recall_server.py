"""A moment of this node, held open for one that lacks it: its questions are answered in their order."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.mirror.copy_protocols import RecalledMoment
from revolume.mirror.link import Link
from revolume.mirror.target.comparison import region_sums
from revolume.mirror.wire.block_messages import pack_blocks, unpack_block_request
from revolume.mirror.wire.comparison_messages import CompareAsk, Compared, pack_compared, unpack_compare_ask
from revolume.mirror.wire.frames import ProtocolError, Type
from revolume.mirror.wire.recall_messages import pack_recalled

QUESTIONS_MAX: Final = 4
Question = CompareAsk | list[int]


class RecallServer:
    """Of one session. The moment is closed with it (``ended``)."""

    def __init__(self, link: Link, moment: RecalledMoment) -> None:
        self._link = link
        self._moment = moment
        self._questions: deque[Question] = deque()
        self._answering = False

    def begin(self) -> None:
        """Say that the moment is open."""
        self._link.send_control(Type.RECALLED, pack_recalled(self._moment.recalled))

    def frame(self, kind: Type, body: memoryview) -> None:
        """The body of COMPARE_ASK or RECALL_BLOCKS."""
        if len(self._questions) >= QUESTIONS_MAX:
            raise ProtocolError("It asks before it takes the answers to what it asked.")
        if kind == Type.COMPARE_ASK:
            self._questions.append(unpack_compare_ask(body))
        else:
            self._questions.append(unpack_block_request(body)[1])
        if not self._answering:
            self._answering = True
            self._link.spawn(self._answer_all())

    async def _answer_all(self) -> None:
        try:
            while self._questions:
                question = self._questions[0]
                if isinstance(question, CompareAsk):
                    await self._compared(question)
                else:
                    await self._blocks(question)
                self._questions.popleft()
        finally:
            self._answering = False

    async def _compared(self, asked: CompareAsk) -> None:
        digests, damaged, read = await self._moment.scan(asked.first, asked.blocks, False)
        sums = () if asked.digests else region_sums(asked.first, digests)
        answer = Compared(asked.question, read, sums, digests if asked.digests else digests[:0], damaged)
        self._link.send_control(Type.COMPARED, pack_compared(answer))

    async def _blocks(self, wanted: list[int]) -> None:
        blocks = np.array(wanted, np.uint64)
        digests, content = await self._moment.read(blocks)
        blocks = blocks[: len(digests)]  # none lies behind the moment's end
        assert len(content) == int((digests != 0).sum()) * BLOCK
        number = self._moment.recalled.start.number
        self._link.send_with_payload(Type.RECALLED_BLOCKS, pack_blocks(number, blocks, digests), [content])

    def ended(self) -> None:
        """The session is over."""
        self._moment.close()
