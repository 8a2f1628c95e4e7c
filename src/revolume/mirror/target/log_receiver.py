"""The receiving end of a shipped log: what arrived in one wake-up is stored with one call.

If the log has no room now, the link is held and the batch waits, its payloads where the network put them; nothing
is received meanwhile, so they stay. Everything is taken over before the link receives again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from revolume.blocks.numbers import Position
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.write.operations import WouldBlock
from revolume.mirror.copy_protocols import TransferStore
from revolume.mirror.link import Link
from revolume.mirror.wire.frames import Type, body_of
from revolume.mirror.wire.log_frame import LogUnpacker
from revolume.mirror.wire.session_messages import unpack_epoch
from revolume.volume.open.log_identity import End

_LOG, _LOG_WIDE = int(Type.LOG), int(Type.LOG_WIDE)


class LogReceiver:
    """Takes the log behind ``end`` from a link to a store; ``stored_some`` is called after something was
    stored."""

    def __init__(
        self, link: Link, store: TransferStore, volume: bytes, end: End, stored_some: Callable[[], None]
    ) -> None:
        self._link = link
        self._store = store
        self._unpacker = LogUnpacker(volume, end)
        self._stored_some = stored_some
        self._batch: list[ReceivedTransfer] = []
        self.stored = end.position
        self._waiting: asyncio.Task[None] | None = None

    @property
    def position(self) -> Position:
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
            self._unpacker.begin_epoch(*unpack_epoch(body_of(frame)))

    def settle(self) -> None:
        """Store what has arrived."""
        if not self._batch or self._waiting is not None:
            return
        try:
            self._store.keep(self._batch)
        except WouldBlock:
            self._link.hold()
            self._waiting = self._link.spawn(self._wait_for_room())
            return
        self.stored = self._unpacker.position
        self._batch = []
        self._stored_some()

    async def _wait_for_room(self) -> None:
        """Store one after the other, as room comes; then receive again."""
        for carried in self._batch:
            await self._store_one(carried)
            self.stored = carried.transfer.position
            self._stored_some()
        self._batch = []
        self._waiting = None
        self._link.go_on()

    async def _store_one(self, carried: ReceivedTransfer) -> None:
        while True:
            try:
                self._store.keep([carried])
                return
            except WouldBlock:
                await self._store.room(self._store.need([carried]))
