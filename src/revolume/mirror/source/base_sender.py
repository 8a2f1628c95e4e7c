"""The base of a new mirror: blocks of a pinned point, as fast as the target stores them.

The log waits until the base is complete (``Pump.held``). A copy without its base protects nothing, however much
log it has, and can't fold any: log that was sent first would fill the target's room, and the base would wait
behind it. So many pieces are under way at most as ``BasePace`` says, and as the target is ready to hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from revolume.chain.point import Point
from revolume.errors import GaveWay, Refused
from revolume.log.transfer import BLOCK
from revolume.mirror.base_intake import FRAMES_AHEAD
from revolume.mirror.base_pace import BasePace
from revolume.mirror.counters import Counters
from revolume.mirror.frames import Broken, Type
from revolume.mirror.link import Link
from revolume.mirror.messages import BASE_END
from revolume.mirror.parts import Origin, PointReader
from revolume.mirror.rows import ROWS_MAX, pack_base

GAVE_WAY = "base-gave-way"


class BaseSender:
    """See the module's text. ``done`` is called when the target says that it is right."""

    def __init__(
        self,
        link: Link,
        origin: Origin,
        point: Point,
        next_block: int,
        counters: Counters,
        done: Callable[[], None],
    ) -> None:
        self._link = link
        self._origin = origin
        self._point = point
        self._counters = counters
        self._done = done
        self._blocks = max(1, -(-origin.size_at(point.write) // BLOCK))
        self._sent_to: list[int] = []
        self._acknowledged = asyncio.Event()
        self._next = next_block
        self.stored_to = next_block
        self.sent_blocks = 0
        self._ended = False
        self.pace = BasePace()

    @property
    def fraction(self) -> float:
        """Of the volume, that the target has."""
        return min(1.0, self.stored_to / self._blocks)

    async def run(self) -> None:
        """Send all of it. Refused: the volume needs the room that is kept for it."""
        try:
            await self._send_all()
        except GaveWay as error:
            raise gave_way() from error

    async def _send_all(self) -> None:
        reader = await self._origin.open_point(self._point)
        try:
            while self._next < self._blocks:
                await self._wait_for_turn()
                await self._send_piece(reader)
        finally:
            reader.close()
        self._ended = True
        self._link.send_control(Type.BASE_END, BASE_END.pack(self._point.number, self.sent_blocks))

    async def _send_piece(self, reader: PointReader) -> None:
        rows = min(ROWS_MAX, max(1, self.pace.piece_bytes() // BLOCK))
        blocks, digests, behind = await reader.next_rows(self._next, rows)
        payload = await reader.read(blocks)
        size = self._link.send_rows(Type.BASE, pack_base(blocks, digests, behind), [payload])
        self._counters.base_bytes += size
        self.sent_blocks += len(blocks)
        self._sent_to.append(behind)
        self.pace.sent(size, self._link.host.clock.monotonic_ns())
        self._next = behind

    async def _wait_for_turn(self) -> None:
        while len(self._sent_to) >= FRAMES_AHEAD or not self.pace.open:
            self._acknowledged.clear()
            await self._acknowledged.wait()

    def stored(self, next_block: int) -> None:
        """BASE_AT."""
        if not self._sent_to or self._sent_to[0] != next_block:
            raise Broken("It acknowledges blocks of the base that were not sent.")
        self._sent_to.pop(0)
        self.pace.stored(self._link.host.clock.monotonic_ns())
        self.stored_to = next_block
        self._acknowledged.set()

    def finished(self, point: int) -> None:
        """BASE_DONE."""
        if not self._ended or self._sent_to or point != self._point.number:
            raise Broken("It says that the base is complete, which it cannot be.")
        self._done()


def gave_way() -> Refused:
    """What a base's session ends with when the volume needs the room that is kept for it."""
    return Refused(
        GAVE_WAY,
        "The base of the mirror was given up: the volume's log needed the room that was kept for it.",
        "It begins anew by itself; raise --budget at the primary, or mirror when less is written.",
    )
