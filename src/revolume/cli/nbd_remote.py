"""An export over NBD, as copying wants it: data told from holes, by base:allocation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from revolume.errors import NotFound
from revolume.host import Host
from revolume.nbd.client import Client

_ALLOCATION: Final = "base:allocation"
_READS_AS_ZERO: Final = 2
_CHANGED: Final = 1


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

    async def changed_extents(self, context: str, offset: int, length: int) -> AsyncIterator[tuple[int, int]]:
        """(offset, length) of what a bitmap says changed, neighbours joined. NotFound: the server has no
        such bitmap, because the moment is not retained any more."""
        if context not in self._client.contexts.values():
            cause = f"The export {self.name} has no bitmap {context}."
            raise NotFound("moment-not-retained", cause, "See 'revolume points' for what is retained.")
        async for at, count, flags in self._client.extents(context, offset, length):
            if flags & _CHANGED:
                yield at, count


@asynccontextmanager
async def connected(host: Host, uri: str, contexts: Sequence[str] = ()) -> AsyncIterator[NbdRemote]:
    """The export at ``uri``, with these metadata contexts besides, for the time of the context; ended in order if
    the work did."""
    client = await Client.connect(host, uri, contexts=[_ALLOCATION, *contexts])
    try:
        yield NbdRemote(client)
        await client.close()
    finally:
        client.abort()
