"""A real export whose bytes are in memory: every rule of the protocol holds, nothing is simulated.

The knobs are what tests turn: ``roomless`` makes ``append`` ask for room, ``withhold`` keeps answers from
being released, ``cold`` makes reads of those blocks wait, ``bad`` makes them fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from revolume.errors import NotFound
from revolume.host.network import Peer
from revolume.log.write.operations import OP_WRITE, Op, WouldBlock
from revolume.nbd.wire.constants import DIRTY, Errno, State
from revolume.nbd.wire.errors import ExportError

BLOCK = 4096


class Memory:
    """The bytes, shared by all connections."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.data = bytearray(size)
        self.view = memoryview(self.data)
        self.written = bytearray(-(-size // BLOCK))  # per block: holds data
        self.position = 0
        self.appends: list[int] = []  # operations in each append
        self.open = 0
        self.syncs = 0
        self.roomless = False
        self.room: asyncio.Event = asyncio.Event()
        self.room_error: ExportError | None = None
        self.withhold = False
        self.waiting: list[Callable[[], None]] = []
        self.cold: set[int] = set()
        self.bad: set[int] = set()
        self.warm = asyncio.Event()
        self.warm.set()
        self.sync_gate = asyncio.Event()
        self.sync_gate.set()
        self.append_error: Exception | None = None

    def release(self) -> None:
        """Let out the answers that were withheld."""
        self.withhold = False
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


class MemoryExport:
    """One connection's hold on it."""

    def __init__(self, memory: Memory, name: str, read_only: bool = False) -> None:
        self._memory = memory
        self.name = name
        self.description = f"{memory.size} bytes in memory"
        self.read_only = read_only
        self.multi_conn = True
        self._closed = False
        memory.open += 1

    @property
    def size(self) -> int:
        return self._memory.size

    @property
    def position(self) -> int:
        return self._memory.position

    def append(self, ops: list[Op]) -> int:
        memory = self._memory
        assert not self._closed
        if memory.append_error is not None:
            raise memory.append_error
        if memory.roomless:
            raise WouldBlock
        for kind, offset, length, payload in ops:
            first, last = offset // BLOCK, (offset + length - 1) // BLOCK
            if kind == OP_WRITE:
                memory.view[offset : offset + length] = payload
                if first == last:
                    memory.written[first] = 1
                else:
                    memory.written[first : last + 1] = b"\1" * (last + 1 - first)
            else:
                memory.view[offset : offset + length] = bytes(length)
                whole, end = -(-offset // BLOCK), (offset + length) // BLOCK
                if end > whole:
                    memory.written[whole:end] = bytes(end - whole)
        memory.appends.append(len(ops))
        memory.position += 1
        return memory.position

    async def room(self, ops: list[Op]) -> None:
        await self._memory.room.wait()
        if self._memory.room_error is not None:
            raise self._memory.room_error

    def released(self, position: int) -> bool:
        return not self._memory.withhold

    def on_release(self, position: int, callback: Callable[[], None]) -> None:
        self._memory.waiting.append(callback)

    async def durable(self, position: int) -> None:
        await self._memory.sync_gate.wait()
        self._memory.syncs += 1

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        view = self._memory.view
        if self._memory.cold or self._memory.bad:
            return self._read_warm(reads)
        for offset, buffer in reads:
            buffer[:] = view[offset : offset + len(buffer)]
        return []

    def _read_warm(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        late = []
        for index, (offset, buffer) in enumerate(reads):
            if self._blocks(offset, len(buffer)) & (self._memory.cold | self._memory.bad):
                late.append(index)
            else:
                buffer[:] = self._memory.view[offset : offset + len(buffer)]
        return late

    @staticmethod
    def _blocks(offset: int, length: int) -> set[int]:
        return set(range(offset // BLOCK, (offset + length - 1) // BLOCK + 1))

    async def read(self, offset: int, buffer: memoryview) -> None:
        await self._memory.warm.wait()
        if self._blocks(offset, len(buffer)) & self._memory.bad:
            raise ExportError("bad-block", "the block is damaged", errno=Errno.EIO)
        buffer[:] = self._memory.view[offset : offset + len(buffer)]

    async def extents(self, context: str, offset: int, length: int) -> list[tuple[int, int]]:
        end = offset + length
        found = []
        while offset < end:
            block = offset // BLOCK
            upto = min(end, (block + 1) * BLOCK)
            written = self._memory.written[block]
            if context == "base:allocation":
                flags = 0 if written else int(State.HOLE | State.ZERO)
            else:
                flags = DIRTY if written else 0
            found.append((upto - offset, flags))
            offset = upto
        return found

    async def cache(self, offset: int, length: int) -> None:
        pass

    def close(self, said_goodbye: bool = False) -> None:
        assert not self._closed
        self._closed = True
        self._memory.open -= 1


class MemoryExports:
    """``vol`` (also the default), read-only as ``vol@then``."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.opening: asyncio.Event | None = None  # set it to let ``open`` wait

    async def open(self, name: str, peer: Peer) -> MemoryExport:
        if self.opening is not None:
            await self.opening.wait()
        if name in ("", "vol"):
            return MemoryExport(self.memory, "vol")
        if name == "vol@then":
            return MemoryExport(self.memory, name, read_only=True)
        raise NotFound("no-export", f"there is no export {name!r}")

    async def look(self, name: str, peer: Peer) -> MemoryExport:
        return await self.open(name, peer)

    def names(self) -> list[tuple[str, str]]:
        return [("vol", "bytes in memory"), ("vol@then", "the same, read-only")]

    async def contexts(self, export: object, query: str) -> list[str]:
        known = ["base:allocation", "qemu:dirty-bitmap:b0"]
        return [name for name in known if name == query or (query.endswith(":") and name.startswith(query))]
