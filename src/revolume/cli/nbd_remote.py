"""An export over NBD, as copying wants it: data told from holes, by base:allocation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from revolume.host import Host
from revolume.nbd.client import Client

_ALLOCATION: Final = "base:allocation"
_READS_AS_ZERO: Final = 2


class NbdRemote:
    """One connection to one export. Reads, writes, zeroes and flushes are the client's own."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.read = client.read
        self.write = client.write
        self.zero = client.zero
        self.flush = client.flush

    @property
    def name(self) -> str:
        """The export's fixed full name."""
        return self._client.info.name

    @property
    def size(self) -> int:
        return self._client.size

    async def data_extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """(length, is data) from ``offset`` on. A server that does not say has data everywhere."""
        if _ALLOCATION not in self._client.contexts.values():
            return [(length, True)]
        extents = (await self._client.block_status(offset, length))[_ALLOCATION]
        told, end = [], offset + length
        for count, flags in extents:
            count = min(count, end - offset)
            if count:
                told.append((count, not flags & _READS_AS_ZERO))
            offset += count
        return told


@asynccontextmanager
async def connected(host: Host, uri: str) -> AsyncIterator[NbdRemote]:
    """The export at ``uri``, for the time of the context; ended in order if the work did."""
    client = await Client.connect(host, uri, contexts=[_ALLOCATION])
    try:
        yield NbdRemote(client)
        await client.close()
    finally:
        client.abort()
