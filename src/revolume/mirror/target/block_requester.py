"""Blocks that a target asks its source for, whole, as of a consistency point: REQUEST_BLOCKS and BLOCKS.

One request is under way at a time; an answer must hold exactly the blocks that were asked for. Their digests have
been checked when it is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point
from revolume.errors import NotFound
from revolume.mirror.link import Link
from revolume.mirror.wire.block_messages import GONE, ROWS_MAX, BlockRows, pack_block_request, unpack_blocks
from revolume.mirror.wire.frames import ProtocolError, Type

FLAGS_AT: Final = 5
"""Of a frame (``frames.py``)."""


class BlockRequester:
    """Asks over one link. Requests wait for their turn."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._turn = asyncio.Lock()
        self._asked: tuple[int, list[int]] | None = None
        self._answer: asyncio.Future[BlockRows] | None = None

    async def ask(self, point: Point, blocks: Sequence[int]) -> dict[int, bytes | None]:
        """Their content at the point; None reads as zeroes. NotFound: the source does not retain it any more;
        ConnectionError: it is gone, and may be asked again when it is back."""
        found: dict[int, bytes | None] = {}
        wanted = sorted(blocks)
        async with self._turn:
            for at in range(0, len(wanted), ROWS_MAX):
                rows = await self._ask(point.number, wanted[at : at + ROWS_MAX])
                found.update(_contents(rows))
        return found

    async def _ask(self, point: int, blocks: list[int]) -> BlockRows:
        if not self._link.open:
            raise _lost()
        self._asked = point, blocks
        self._answer = asyncio.get_running_loop().create_future()
        self._link.send_control(Type.REQUEST_BLOCKS, pack_block_request(point, blocks))
        try:
            return await self._answer
        finally:
            self._asked = self._answer = None

    def frame(self, frame: memoryview) -> None:
        """A BLOCKS frame."""
        point, rows = unpack_blocks(frame)
        if self._asked is None or self._answer is None or self._answer.done() or point != self._asked[0]:
            raise ProtocolError("Whole blocks that nobody asked for.")
        if frame[FLAGS_AT] & GONE:
            cause = f"The source does not retain point cp{point} any more."
            self._answer.set_exception(NotFound("point-not-retained", cause))
            return
        if rows.blocks.tolist() != self._asked[1]:
            raise ProtocolError("Other whole blocks than those asked for.")
        self._answer.set_result(BlockRows(rows.blocks, rows.digests, memoryview(bytes(rows.payload))))

    def end(self) -> None:
        """The link is gone: whoever waits hears of it."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_lost())


def _lost() -> ConnectionError:
    return ConnectionError("the link to the source was lost")


def _contents(rows: BlockRows) -> dict[int, bytes | None]:
    found: dict[int, bytes | None] = {}
    at = 0
    for block, digest in zip(rows.blocks.tolist(), rows.digests.tolist(), strict=True):
        found[block] = bytes(rows.payload[at : at + BLOCK]) if digest else None
        at += BLOCK if digest else 0
    return found
