"""Earlier pinned moments of a volume, sent to a new mirror before its base."""

from __future__ import annotations

import asyncio

from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point
from revolume.mirror.counters import Counters
from revolume.mirror.link import Link
from revolume.mirror.storage_protocols import SourceVolume
from revolume.mirror.wire.block_messages import ROWS_MAX
from revolume.mirror.wire.frames import ProtocolError, Type
from revolume.mirror.wire.moment_messages import MOMENT_FRAMES_AHEAD, PinnedMoment, pack_moment
from revolume.pace.pacer import Pacer


class MomentSender:
    """Sends every pinned moment before ``base``, oldest first; ``run`` returns when the target has all of them."""

    def __init__(
        self, link: Link, volume: SourceVolume, base: Point, counters: Counters, pacer: Pacer | None = None
    ) -> None:
        self._link = link
        self._volume = volume
        self._base = base
        self._counters = counters
        self._pacer = pacer or Pacer(link.host.clock)
        self._sent = 0
        self._stored = 0
        self._acknowledged = asyncio.Event()

    async def run(self) -> None:
        """Send them. Damaged, GaveWay: one can't be read."""
        for moment in self._volume.moments.before(self._base):
            await self._send(moment)
        await self._until_ahead_by(0)

    async def _send(self, point: Point) -> None:
        moment = PinnedMoment(
            point=point.number,
            write=point.write,
            position=point.position,
            time_ns=point.time_ns,
            size=self._volume.size_at(point.write),
            root=point.root,
            chain=point.chain,
        )
        reader = await self._volume.moments.open(point, self._base)
        try:
            last = False
            while not last:
                await self._until_ahead_by(MOMENT_FRAMES_AHEAD - 1)
                began_ns = await self._pacer.turn()
                count = min(ROWS_MAX, max(1, self._pacer.piece_bytes // BLOCK))
                rows = await reader.next_rows(count, self._link.version)
                last = not len(rows.blocks)
                head = pack_moment(moment, rows, last)
                size = self._link.send_with_payload(Type.MOMENT, head, [rows.payload])
                self._pacer.sent(size, began_ns)
                self._counters.base_bytes += size
                self._sent += 1
        finally:
            reader.close()

    async def _until_ahead_by(self, frames: int) -> None:
        while self._sent - self._stored > frames:
            self._acknowledged.clear()
            await self._acknowledged.wait()

    def stored(self, frames: int) -> None:
        """MOMENT_AT."""
        if not self._stored < frames <= self._sent:
            raise ProtocolError("It acknowledges moments that were not sent.")
        self._stored = frames
        self._acknowledged.set()
