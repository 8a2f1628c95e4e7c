"""A base or a difference as it arrives at a target: stored beside the log, in order, without holding the log up.

A frame's blocks are copied out of the receive buffer and wait their turn; the source sends only so many ahead of
BASE_AT, and one that does not keep to that is broken off, so what waits here is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from revolume.mirror.link import Link, finish_uncancelled
from revolume.mirror.target.block_stores import BlockStore
from revolume.mirror.wire.block_messages import BASE_FRAMES_AHEAD, BlockRows, unpack_base
from revolume.mirror.wire.frames import ProtocolError, Type
from revolume.mirror.wire.moment_messages import MOMENT_FRAMES_AHEAD, PinnedMoment, unpack_moment
from revolume.mirror.wire.session_messages import pack_number
from revolume.volume.metadata.manifest_state import Horizon


class BaseReceiver:
    """Takes the blocks of ``point`` from ``next_block`` on; ``finished`` is awaited once all are proved."""

    def __init__(
        self,
        link: Link,
        store: BlockStore,
        point: int,
        next_block: int,
        finished: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._link = link
        self._to = store
        self._point = point
        self._next = next_block
        self._waiting: deque[tuple[BlockRows, int]] = deque()
        self._moments: deque[tuple[PinnedMoment, BlockRows, bool]] = deque()
        self._moments_stored = 0
        self._storing: asyncio.Task[None] | None = None
        self._ending = False
        self._finished = finished

    def frame(self, frame: memoryview) -> None:
        """A BASE frame."""
        rows, next_block = unpack_base(frame, self._to.zeroes)
        if self._ending or next_block <= self._next or (len(rows.blocks) and int(rows.blocks[0]) < self._next):
            raise ProtocolError("Blocks of the base that were sent before.")
        if len(self._waiting) >= BASE_FRAMES_AHEAD:
            raise ProtocolError("The base runs ahead of what is stored.")
        self._next = next_block
        copied = BlockRows(rows.blocks, rows.digests, memoryview(bytes(rows.payload)))
        self._waiting.append((copied, next_block))
        self._start_storing()

    def moment(self, frame: memoryview) -> None:
        """A MOMENT frame: earlier pinned moments come before the first block of the base."""
        moment, rows, last = unpack_moment(frame)
        if self._next or self._waiting or self._ending:
            raise ProtocolError("An earlier moment behind the begin of the base.")
        if len(self._moments) >= MOMENT_FRAMES_AHEAD:
            raise ProtocolError("Earlier moments run ahead of what is stored.")
        copied = BlockRows(rows.blocks, rows.digests, memoryview(bytes(rows.payload)))
        self._moments.append((moment, copied, last))
        self._start_storing()

    def end(self, point: int) -> None:
        """BASE_END."""
        if point != self._point or self._ending:
            raise ProtocolError("The end of another base.")
        self._ending = True
        self._start_storing()

    def _start_storing(self) -> None:
        if self._storing is None:
            self._storing = self._link.spawn(self._store())

    async def _store(self) -> None:
        while self._moments:
            moment, rows, last = self._moments[0]
            await finish_uncancelled(self._to.put_moment(_as_stored(moment), rows, last))
            self._moments.popleft()
            self._moments_stored += 1
            self._link.send_control(Type.MOMENT_AT, pack_number(self._moments_stored))
        while self._waiting:
            rows, next_block = self._waiting[0]
            await finish_uncancelled(self._to.put(rows, next_block))
            self._waiting.popleft()
            self._link.send_control(Type.BASE_AT, pack_number(next_block))
        self._storing = None
        if self._ending:
            await finish_uncancelled(self._to.finish())
            await finish_uncancelled(self._finished())
            self._link.send_control(Type.BASE_DONE, pack_number(self._point))


def _as_stored(moment: PinnedMoment) -> Horizon:
    """The moment as the storage takes it. It lies nowhere in this copy's log."""
    return Horizon(
        point=moment.point,
        write=moment.write,
        position=moment.position,
        time_ns=moment.time_ns,
        size=moment.size,
        root_low=moment.root[0],
        root_high=moment.root[1],
        chain=moment.chain,
    )
