"""The target's side of a comparison: a point held open, questions about its blocks answered in order, and blocks
that put the copy right.

One point is open at a time. Of the blocks that come, two batches are kept in memory at most: the one that is being
sent, and the one that waits for its point.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.geometry import BLOCK
from revolume.blocks.ordering import among
from revolume.errors import RevolumeError
from revolume.host.error_text import error_text
from revolume.mirror.copy_protocols import ComparedPoint, TargetVolume
from revolume.mirror.link import Link
from revolume.mirror.wire.block_messages import BlockRows
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.comparison_messages import (
    BATCH_BLOCKS_MAX,
    REGION_BLOCKS,
    CompareAsk,
    Compared,
    CompareOpen,
    CompareOpened,
    Fixed,
    FixupAt,
    pack_compare_opened,
    pack_compared,
    pack_fixed,
    unpack_compare_ask,
    unpack_compare_end,
    unpack_compare_open,
    unpack_fixup,
    unpack_fixup_at,
)
from revolume.mirror.wire.frames import ProtocolError, Type, body_of
from revolume.mirror.wire.version import COMPARISON
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.points.staged_fixups import Fixups

U64 = npt.NDArray[np.uint64]
QUESTIONS_MAX: Final = 16
Question = CompareOpen | CompareAsk | int
"""An int: nothing more is asked of the point of this number."""
OpenPoint = Callable[[Pin, bool], Awaitable[ComparedPoint]]


class ComparisonResponder:
    """Of one session in this ``version`` of the protocol. ``opened`` holds a point of the copy open."""

    def __init__(self, link: Link, volume: TargetVolume, opened: OpenPoint, version: int) -> None:
        self._link = link
        self._version = version
        self._opened = opened
        self._point: ComparedPoint | None = None
        self._number = 0
        self._questions: deque[Question] = deque()
        self._answering: asyncio.Task[None] | None = None
        self._batch = FixupBatch(link, volume)

    def frame(self, kind: Type, frame: memoryview) -> None:
        """One of the frames that a source sends to compare its copy, or to put it right."""
        if self._version < COMPARISON:
            raise ProtocolError(f"A frame {kind.name} in version {self._version} of the protocol.")
        match kind:
            case Type.COMPARE_OPEN:
                self._question(unpack_compare_open(body_of(frame)))
            case Type.COMPARE_ASK:
                self._question(unpack_compare_ask(body_of(frame)))
            case Type.COMPARE_END:
                self._question(unpack_compare_end(body_of(frame)))
            case Type.FIXUP:
                self._batch.rows(*unpack_fixup(frame))
            case _:
                self._batch.at(unpack_fixup_at(body_of(frame)))

    def _question(self, question: Question) -> None:
        if len(self._questions) >= QUESTIONS_MAX:
            raise ProtocolError("It asks before it takes the answers to what it asked.")
        self._questions.append(question)
        if self._answering is None:
            self._answering = self._link.spawn(self._answer_all())

    def _close(self) -> None:
        point, self._point = self._point, None
        if point is not None:
            point.close()

    async def _answer_all(self) -> None:
        try:
            while self._questions:
                await self._take(self._questions.popleft())
        finally:
            self._answering = None

    async def _take(self, question: Question) -> None:
        if isinstance(question, CompareOpen):
            await self._open(question)
        elif question != self._number if isinstance(question, int) else self._point is None:
            raise ProtocolError("It asks about a point that is not open.")
        elif isinstance(question, CompareAsk):
            assert self._point is not None
            await self._answer(self._point, question)
        else:
            self._close()

    async def _open(self, question: CompareOpen) -> None:
        self._close()
        self._number = question.point.number
        try:
            self._point = await self._opened(question.point, question.quick)
        except (RevolumeError, OSError) as error:
            self._not_open(_why_not(error))
        else:
            self._not_open("")

    def _not_open(self, why: str) -> None:
        """Say why the point is not open; "": it is."""
        self._link.send_control(Type.COMPARE_OPENED, pack_compare_opened(CompareOpened(self._number, why)))

    async def _answer(self, point: ComparedPoint, asked: CompareAsk) -> None:
        """Or why the point can't be held open any more: the session goes on."""
        try:
            digests, damaged, read = await point.scan(asked.first, asked.blocks, not asked.digests)
        except (RevolumeError, OSError) as error:
            self._close()
            self._not_open(_why_not(error))
            return
        sums = () if asked.digests else region_sums(asked.first, digests)
        answer = Compared(asked.question, read, sums, digests if asked.digests else digests[:0], damaged)
        self._link.send_control(Type.COMPARED, pack_compared(answer))

    def ended(self) -> None:
        """The session is over."""
        self._close()
        self._batch.drop()


def _why_not(error: RevolumeError | OSError) -> str:
    return error.cause if isinstance(error, RevolumeError) else error_text(error)


def region_sums(first: int, digests: U64) -> tuple[roots.Root, ...]:
    """The sum of the volume root's terms over each region of these blocks, which begin with one."""
    terms = roots.root_terms(block_numbers(first, len(digests)), digests)
    begins = np.arange(0, len(digests), REGION_BLOCKS)
    low, high = (np.add.reduceat(each, begins).tolist() for each in terms)
    return tuple(zip(low, high, strict=True))


class FixupBatch:
    """Blocks that come, until their point is named, and then until that is agreed."""

    def __init__(self, link: Link, volume: TargetVolume) -> None:
        self._link = link
        self._volume = volume
        self._number = 0
        self._pieces: list[BlockRows] = []
        self._waiting: asyncio.Future[int] | None = None

    def rows(self, number: int, rows: BlockRows) -> None:
        """FIXUP. Of a batch that is followed by another before its point is named, the source has let go."""
        if number < self._number:
            raise ProtocolError("It goes back to a batch before the last.")
        if number > self._number:
            self._number, self._pieces = number, []
        last = int(self._pieces[-1].blocks[-1]) if self._pieces else -1
        if int(rows.blocks[0]) <= last or sum(len(p.blocks) for p in (*self._pieces, rows)) > BATCH_BLOCKS_MAX:
            raise ProtocolError("Blocks of a batch are out of order, or too many.")
        self._pieces.append(BlockRows(rows.blocks, rows.digests, memoryview(bytes(rows.payload))))

    def at(self, named: FixupAt) -> None:
        """FIXUP_AT."""
        pieces = self._pieces if named.batch == self._number else []
        if named.batch < self._number or self._waiting is not None:
            raise ProtocolError("It names a point for a batch that is not here.")
        self._number, self._pieces = named.batch, []
        blocks = np.concatenate([np.zeros(0, np.uint64), *(piece.blocks for piece in pieces)])
        kept = ~among(blocks, named.losers)
        contents = np.frombuffer(b"".join(map(_contents, pieces)), np.uint8).reshape(-1, BLOCK)[kept]
        pin = named.point
        fixups = Fixups(
            point=pin.number,
            position=pin.position,
            chain=pin.chain,
            blocks=blocks[kept],
            contents=memoryview(contents.tobytes()),
            overwritten=named.losers,
        )
        self._waiting = self._volume.stage_fixups(fixups)
        self._link.spawn(self._fixed(self._waiting, named))

    async def _fixed(self, stored: asyncio.Future[int], named: FixupAt) -> None:
        try:
            count = await stored
        except ConnectionError as error:
            raise ProtocolError(f"It names a point too late: {error}.") from None
        self._waiting = None
        self._link.send_control(Type.FIXED, pack_fixed(Fixed(named.batch, named.point.number, count)))

    def drop(self) -> None:
        """The session is over: what its point has not taken is gone."""
        self._pieces = []
        if self._waiting is not None:
            self._waiting.cancel()


def _contents(rows: BlockRows) -> bytes:
    """4096 bytes for each block, zeroes where none came."""
    whole = np.zeros((len(rows.blocks), BLOCK), np.uint8)
    whole[rows.digests != 0] = np.frombuffer(rows.payload, np.uint8).reshape(-1, BLOCK)
    return whole.tobytes()
