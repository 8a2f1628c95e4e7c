"""Clients that do not do their part: half a write and then nothing, requests whose answers they never read, a
connection on which they say nothing, requests without end while answers wait.

They speak in bytes, since no client of ours would do it. What they change lies where only the model looks.
"""

from __future__ import annotations

import struct
from typing import Final

from revolume.host import Host
from revolume.host.network import Wire
from revolume.nbd.wire import options
from revolume.nbd.wire.constants import REQUEST_MAGIC, Command, Option
from revolume.nbd.wire.requests import COMPACT_HEADER, kind_of

HELLO: Final = struct.pack(">I", 3) + options.export_request(Option.GO, "vm", [])


def request(command: Command, offset: int, length: int) -> bytes:
    """A request's header."""
    return COMPACT_HEADER.pack(REQUEST_MAGIC, kind_of(command), bytes(8), offset, length)


class Guest:
    """One connection of such a client. ``reads``: whether it takes what it is answered."""

    def __init__(self, wire: Wire, reads: bool) -> None:
        self._wire = wire
        self._waste = memoryview(bytearray(64 << 10))
        self.gone = False
        if not reads:
            wire.pause()
        wire.start(self)

    @classmethod
    async def come(cls, host: Host, address: str, *said: bytes, reads: bool = True) -> Guest:
        """Connect, and say this at once. OSError."""
        guest = cls(await host.network.connect(address), reads)
        guest.say(*said)
        return guest

    def say(self, *said: bytes) -> None:
        """Send; nothing is waited for."""
        self._wire.send([data for data in said if data])

    def leave(self) -> None:
        """Without a word."""
        self._wire.abort()

    def buffer(self) -> memoryview:
        """Whatever comes goes to waste."""
        return self._waste

    def received(self, n: int) -> None:
        """It was taken, and nobody looks at it."""

    def writable(self) -> None:
        """Nothing waits to be sent."""

    def closed(self, error: Exception | None) -> None:
        """The server has ended the connection."""
        self.gone = True
