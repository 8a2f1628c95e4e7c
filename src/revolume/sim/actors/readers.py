"""Readers of the past: views and throw-away overlays that somebody keeps while the log's room runs out.

Each reads all of its moment again and again, an overlay writes into it too. What it gets is right, or it has
given way, or the disk fails. How long it is kept is its own affair: it must never cost a client of the live volume
a write (``checks/gave_way.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable

from revolume.blocks.geometry import BLOCK
from revolume.errors import GaveWay, NoSpace, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.history.view_export import ViewExport
from revolume.host.network import Peer
from revolume.log.write.operations import OP_WRITE, Op, WouldBlock
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.machine import Ended, Machine
from revolume.sim.oracle.model import Blocks, Model, blocks_of

LOOKS = 60
WRITTEN_BLOCKS = 12


class Readers:
    """All of a world's. ``say`` takes what is wrong; ``quota_bytes``: what one overlay may hold."""

    def __init__(self, model: Model, chance: Chance, say: Callable[[str], None], quota_bytes: int) -> None:
        self._model = model
        self._chance = chance
        self._say = say
        self._quota = quota_bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False
        self._opened = 0
        self.gave_way = 0

    def begin(self, machine: Machine, exports: VolumeExports, name: str) -> None:
        """One more, which looks for a while, or until it must leave."""
        self._opened += 1
        task = asyncio.get_running_loop().create_task(self._alive(machine, exports, name, self._opened))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def leave(self) -> None:
        """All of them are gone when it returns: what they look at is about to be closed."""
        self._over = True
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        self._over = False

    async def _alive(self, machine: Machine, exports: VolumeExports, name: str, number: int) -> None:
        with contextlib.suppress(Ended):
            await machine.run(self._look(exports, name, number))

    async def _look(self, exports: VolumeExports, name: str, number: int) -> None:
        try:
            export = await exports.open(name, Peer("unix", f"reader {number}", number))
        except (RevolumeError, OSError):
            return
        assert isinstance(export, ViewExport)
        try:
            await self._looks(export, name)
        except GaveWay:
            self.gave_way += 1
        finally:
            export.close(True)

    async def _looks(self, export: ViewExport, name: str) -> None:
        found = re.search(r"@w(\d+)", export.name)
        assert found is not None
        want = self._model.at(int(found.group(1)))
        for _ in range(LOOKS):
            await asyncio.sleep(self._chance.delay(0.3))
            if self._over:
                return
            with contextlib.suppress(OSError):
                await self._once(export, name, want)

    async def _once(self, export: ViewExport, name: str, want: Blocks) -> None:
        try:
            if not export.read_only:
                await self._write(export, want)
            buffer = bytearray(export.size)
            if export.read_now([(0, memoryview(buffer))]):
                await export.read(0, memoryview(buffer))
        except GaveWay:
            raise
        except RevolumeError:  # the disk fails, or is full
            return
        if blocks_of(buffer) != want:
            self._say(f"{name} as {export.name} is not what it was when it was opened")

    async def _write(self, export: ViewExport, want: Blocks) -> None:
        block, data = self._chance.randrange(export.size // BLOCK), self._chance.randbytes(BLOCK)
        count = self._chance.choice((1, 1, WRITTEN_BLOCKS))
        data *= min(count, export.size // BLOCK - block)
        ops: list[Op] = [(OP_WRITE, block * BLOCK, len(data), memoryview(data))]
        try:
            export.append(ops)
        except WouldBlock:
            return
        except NoSpace:
            return
        want.update({block + at: data[:BLOCK] for at in range(len(data) // BLOCK)})
        if export.held_bytes > self._quota:
            self._say(f"{export.name} holds {export.held_bytes} bytes, and may hold {self._quota}")
