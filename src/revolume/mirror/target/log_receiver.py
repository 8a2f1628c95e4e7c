"""The receiving end of a shipped log: what arrived in one wake-up is stored with one call.

If the log has no room now, the link is held and the batch waits, its payloads where the network put them; nothing
is received meanwhile, so they stay. Everything is taken over before the link receives again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from revolume.log.carried import Carried
from revolume.log.ops import NoRoomNow
from revolume.log.transfer import BLOCK
from revolume.mirror.compact import Unpacker
from revolume.mirror.frames import CHECK_SIZE, Type, body_of
from revolume.mirror.link import Link
from revolume.mirror.messages import EPOCH, unpack_epoch
from revolume.mirror.parts import Keeper
from revolume.volume.end import End

EPOCH_BODY = EPOCH.size + CHECK_SIZE

_LOG, _LOG_WIDE = int(Type.LOG), int(Type.LOG_WIDE)


def log_frames(largest_blocks: int) -> dict[int, int]:
    """What a shipped log consists of, for ``Link.expected``."""
    longest = largest_blocks * BLOCK
    return {Type.LOG: longest, Type.LOG_WIDE: longest, Type.EPOCH: EPOCH_BODY}


class Intake:
    """See the module's text. ``kept`` is called when something was stored."""

    def __init__(self, link: Link, keeper: Keeper, volume: bytes, end: End, kept: Callable[[], None]) -> None:
        self._link = link
        self._keeper = keeper
        self._unpacker = Unpacker(volume, end)
        self._kept = kept
        self._batch: list[Carried] = []
        self.stored = end.position
        self._waiting: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """The last position that has arrived, stored or not."""
        return self._unpacker.position

    @property
    def chain(self) -> bytes:
        """Its chain checksum."""
        return self._unpacker.chain

    def frame(self, kind: int, frame: memoryview) -> None:
        """LOG, LOG_WIDE or EPOCH."""
        if kind == _LOG:
            self._batch.append(self._unpacker.unpack(frame, False))
        elif kind == _LOG_WIDE:
            self._batch.append(self._unpacker.unpack(frame, True))
        else:
            self._unpacker.turn(*unpack_epoch(body_of(frame)))

    def settle(self) -> None:
        """Store what has arrived."""
        if not self._batch or self._waiting is not None:
            return
        try:
            self._keeper.keep(self._batch)
        except NoRoomNow:
            self._link.hold()
            self._waiting = self._link.spawn(self._wait())
            return
        self.stored = self._unpacker.position
        self._batch = []
        self._kept()

    async def _wait(self) -> None:
        """Store one after the other, as room comes; then receive again."""
        for carried in self._batch:
            await self._keep_one(carried)
            self.stored = carried.transfer.position
            self._kept()
        self._batch = []
        self._waiting = None
        self._link.go_on()

    async def _keep_one(self, carried: Carried) -> None:
        while True:
            try:
                self._keeper.keep([carried])
                return
            except NoRoomNow:
                await self._keeper.room(self._keeper.need([carried]))
