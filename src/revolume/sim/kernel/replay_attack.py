"""A connection that says what was heard on another one, to the same address: a replay, as somebody in the middle
does it. Whoever listens there must know that it is not for him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from revolume.host import Host


class _Ear:
    """Takes what comes and does nothing with it."""

    def __init__(self) -> None:
        self._room = memoryview(bytearray(1 << 16))

    def buffer(self) -> memoryview:
        return self._room

    def received(self, n: int) -> None:
        """Thrown away."""

    def writable(self) -> None:
        """There is not much to say."""

    def closed(self, error: Exception | None) -> None:
        """So it is over."""


async def replayed(host: Host, address: str, pieces: Sequence[bytes]) -> None:
    """Connect, say it all, wait for a while, and go."""
    if not address or not pieces:
        return
    wire = await host.network.connect(address)
    wire.start(_Ear())
    for piece in pieces:
        wire.send([piece])
    await asyncio.sleep(1.0)
    wire.abort()
