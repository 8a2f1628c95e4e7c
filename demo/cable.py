"""A cable between the volume and its mirror that can be cut: two unix sockets and the bytes between them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

STEP = 1 << 18


class Cable:
    """Whoever connects to ``near`` reaches ``far``, unless the cable is cut. Runs in a thread of its own."""

    def __init__(self, near: Path, far: Path) -> None:
        self._near, self._far = near, far
        self._loop = asyncio.new_event_loop()
        self._whole = True
        self._ends: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def cut(self) -> None:
        """Nothing gets through any more, and what was connected is not."""
        self._loop.call_soon_threadsafe(self._cut)

    def mend(self) -> None:
        """Connections are taken again."""
        self._whole = True

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _cut(self) -> None:
        self._whole = False
        for end in self._ends:
            end.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_unix_server(self._taken, self._near))
        self._ready.set()
        self._loop.run_forever()

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        with contextlib.suppress(OSError):
            if self._whole:
                there, back = await asyncio.open_unix_connection(self._far)
                self._ends.add(back)
                await asyncio.gather(_carry(reader, back), _carry(there, writer), return_exceptions=True)
                self._ends.discard(back)
        writer.close()
        self._ends.discard(writer)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(STEP):
            target.write(data)
            await target.drain()
    finally:
        target.close()
