"""The base of a new mirror, or a difference: blocks of a pinned point, as fast as the target stores them.

The log waits until the base is complete (``LogSender.held``). A copy without its base protects nothing, however
much log it has, and can't fold any: log that was sent first would fill the target's room, and the base would wait
behind it. ``BasePace`` and the target's receiver limit how many pieces are under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point
from revolume.errors import GaveWay, Refused
from revolume.mirror.link import Link
from revolume.mirror.readable_content import content_of
from revolume.mirror.source.base_pace import BasePace
from revolume.mirror.source.moment_sender import MomentSender
from revolume.mirror.storage_protocols import PointReader
from revolume.mirror.wire.block_messages import BASE_FRAMES_AHEAD, ROWS_MAX, pack_base
from revolume.mirror.wire.frames import ProtocolError, Type
from revolume.mirror.wire.session_messages import pack_base_end
from revolume.pace.pacer import Pacer

GAVE_WAY = "base-gave-way"


class BaseSender:
    """Sends the blocks of ``point`` that ``opened`` reads, from ``next_block`` on, of a volume of ``size`` bytes;
    ``done`` is called when the target has proved them. ``sent`` is told the bytes of each frame."""

    def __init__(
        self,
        link: Link,
        point: Point,
        opened: Callable[[Point], Awaitable[PointReader]],
        *,
        size: int,
        next_block: int,
        sent: Callable[[int], None],
        done: Callable[[], None],
        moments: MomentSender | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        """``moments``: earlier ones, which go first; ``pacer``: the node's."""
        self._link = link
        self._opened = opened
        self._point = point
        self._sent = sent
        self._done = done
        self._blocks = max(1, -(-size // BLOCK))
        self._sent_to: list[int] = []
        self._acknowledged = asyncio.Event()
        self._next = next_block
        self.stored_to = next_block
        self.sent_blocks = 0
        self._ended = False
        self.pace = BasePace()
        self._pacer = pacer or Pacer(link.host.clock)
        self._moments = moments

    @property
    def fraction(self) -> float:
        """Of the volume, that the target has."""
        return min(1.0, self.stored_to / self._blocks)

    async def run(self) -> None:
        """Send all of it. Refused: the volume needs the room that is kept for it."""
        try:
            with self._pacer.sending():
                await self._send_all()
        except GaveWay as error:
            raise gave_way() from error

    async def _send_all(self) -> None:
        if self._moments is not None:
            await self._moments.run()
        reader = await self._opened(self._point)
        try:
            while self._next < self._blocks:
                await self._wait_for_acknowledgements()
                await self._send_piece(reader, await self._pacer.turn())
        finally:
            reader.close()
        self._ended = True
        self._link.send_control(Type.BASE_END, pack_base_end(self._point.number, self.sent_blocks))

    async def _send_piece(self, reader: PointReader, began_ns: int) -> None:
        size = min(self.pace.piece_bytes(), self._pacer.piece_bytes)
        rows = min(ROWS_MAX, max(1, size // BLOCK))
        blocks, digests, behind = await reader.next_rows(self._next, rows)
        payload = await content_of(reader, blocks[digests != 0], self._link.version)
        size = self._link.send_with_payload(Type.BASE, pack_base(blocks, digests, behind), [payload])
        self._sent(size)
        self.sent_blocks += len(blocks)
        self._sent_to.append(behind)
        self.pace.sent(size, self._link.host.clock.monotonic_ns())
        self._pacer.sent(size, began_ns)
        self._next = behind

    async def _wait_for_acknowledgements(self) -> None:
        while len(self._sent_to) >= BASE_FRAMES_AHEAD or not self.pace.open:
            self._acknowledged.clear()
            await self._acknowledged.wait()

    def moments_stored(self, frames: int) -> None:
        """MOMENT_AT."""
        if self._moments is None:
            raise ProtocolError("It acknowledges moments that were not sent.")
        self._moments.stored(frames)

    def stored(self, next_block: int) -> None:
        """BASE_AT."""
        if not self._sent_to or self._sent_to[0] != next_block:
            raise ProtocolError("It acknowledges blocks of the base that were not sent.")
        self._sent_to.pop(0)
        self.pace.stored(self._link.host.clock.monotonic_ns())
        self.stored_to = next_block
        self._acknowledged.set()

    def finished(self, point: int) -> None:
        """BASE_DONE."""
        if not self._ended or self._sent_to or point != self._point.number:
            raise ProtocolError("It says that the base is complete, which it cannot be.")
        self._done()


def gave_way() -> Refused:
    """What a session ends with when the volume needs the room that is kept for what it sends."""
    return Refused(
        GAVE_WAY,
        "What was sent to the mirror was given up: the volume's log needed the room that was kept for it.",
        "It begins anew by itself; raise --budget at the primary, or mirror when less is written.",
    )
