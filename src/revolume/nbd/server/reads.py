"""Reads: the small ones of a wake-up together in one buffer, the others each for itself.

A run of small reads is laid out as it goes on the wire, header before data, and the export fills the gaps:

    | reply header | data | reply header | data | ...

One ``read_now``, one send, no copy. The buffer is every connection's, and is used again at the next wake-up unless
the socket did not take all of it. Reads that would block (``DeferredRead``) are left out; each is read by a task
of its own and answered when it is ready. So are large ones: in pieces, where the client understands pieces,
otherwise whole, so that a read that fails is an error and never half a success. They are read only so far ahead of
what the client takes as keeps it busy: what waits for a slow client is memory that others cannot have.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from revolume.nbd.bounds.budget import Account
from revolume.nbd.server.outlet import Outlet
from revolume.nbd.wire.replies import Encoder

if TYPE_CHECKING:
    from revolume.nbd.export import Export

INLINE_BYTES_MAX: Final = 1 << 20  # one read that is answered at once, if it can be
RUN_BYTES_MAX: Final = 1 << 20  # a run that is this long is read before more is added
RUN_READS_MAX: Final = 64
PIECE_BYTES: Final = 2 << 20
_SCRATCH_BYTES_MIN: Final = 64 << 10


class Scratch:
    """Memory for answers that leave at once, for all connections of a server: between a batch's reads and their
    send nothing else runs."""

    __slots__ = ("_free", "used")

    def __init__(self) -> None:
        self._free = memoryview(b"")
        self.used = False  # since the last send

    def take(self, count: int) -> memoryview:
        """``count`` bytes."""
        if len(self._free) < count:
            self._free = memoryview(bytearray(max(count, _SCRATCH_BYTES_MIN)))
        taken, self._free = self._free[:count], self._free[count:]
        self.used = True
        return taken

    def recycle(self, sent: bool) -> None:
        """After a send: all of it may be used again, unless part of it still waits."""
        self._free = memoryview(self._free.obj if sent else b"")
        self.used = False


@dataclass(frozen=True, slots=True)
class DeferredRead:
    """A read that is answered later."""

    token: bytes
    offset: int
    length: int
    whole: bool  # in one piece


class ReadRun:
    """The small reads of a wake-up that were not executed yet."""

    __slots__ = ("_encoder", "_export", "_reads", "_scratch", "bytes")

    def __init__(self, export: Export, encoder: Encoder, scratch: Scratch) -> None:
        self._export = export
        self._encoder = encoder
        self._reads: list[tuple[bytes, int, int]] = []
        self._scratch = scratch
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._reads)

    def add(self, token: bytes, offset: int, length: int) -> bool:
        """One more; whether the run is now long enough to be executed."""
        self._reads.append((token, offset, length))
        self.bytes += length
        return self.bytes >= RUN_BYTES_MAX or len(self._reads) >= RUN_READS_MAX

    def meets(self, offset: int, length: int) -> bool:
        """Whether a change of this range must wait until these reads are done."""
        end = offset + length
        return any(start < end and offset < start + count for _, start, count in self._reads)

    def take(self) -> list[DeferredRead]:
        """Take all of them out without executing them."""
        deferred = [DeferredRead(token, offset, length, True) for token, offset, length in self._reads]
        self._clear()
        return deferred

    def retry(self, deferred: list[DeferredRead], out: list[memoryview]) -> list[DeferredRead]:
        """``execute`` for reads that it returned before: the first try had the kernel begin to fetch them."""
        self._reads += [(read.token, read.offset, read.length) for read in deferred]
        self.bytes = sum(read.length for read in deferred)
        return self.execute(out)

    def execute(self, out: list[memoryview]) -> list[DeferredRead]:
        """Read what can be read at once and add the replies to ``out``; the rest is returned."""
        head = self._encoder.data_header_bytes
        put = self._encoder.put_data_header
        view = self._scratch.take(self.bytes + head * len(self._reads))
        wanted: list[tuple[int, memoryview]] = []
        at = 0
        for token, offset, length in self._reads:
            put(view, at, token, offset, length, True)
            at += head
            wanted.append((offset, view[at : at + length]))
            at += length
        blocked = self._export.read_now(wanted)
        if blocked:
            return self._without(blocked, view, out)
        out.append(view)
        self._clear()
        return []

    def _without(self, blocked: list[int], view: memoryview, out: list[memoryview]) -> list[DeferredRead]:
        """The replies around the blocked reads go out, the blocked ones are returned."""
        missing, deferred, at = set(blocked), [], 0
        for index, (token, offset, length) in enumerate(self._reads):
            end = at + self._encoder.data_header_bytes + length
            if index in missing:
                deferred.append(DeferredRead(token, offset, length, True))
            else:
                out.append(view[at:end])
            at = end
        self._clear()
        return deferred

    def _clear(self) -> None:
        self._reads.clear()
        self.bytes = 0


class DeferredReader:
    """Reads one by one, waiting as long as each needs."""

    def __init__(
        self,
        export: Export,
        encoder: Encoder,
        account: Account,
        outlet: Outlet,
        ahead_bytes_max: int,
    ) -> None:
        self._export = export
        self._encoder = encoder
        self._account = account
        self._outlet = outlet
        self._ahead_bytes_max = ahead_bytes_max
        self._ahead = 0  # bytes of pieces that are being read
        self._turn = asyncio.Lock()
        self._moved = asyncio.Event()

    def note_moved(self) -> None:
        """The client has taken answers, or a piece has been sent."""
        self._moved.set()

    async def unblocked(self) -> None:
        """Wait until the client takes its answers."""
        while self._outlet.clogged:
            self._moved.clear()
            await self._moved.wait()

    async def answer(self, read: DeferredRead) -> None:
        """Read and send. An error leaves nothing of the last piece sent; the caller answers with it."""
        piece = read.length if read.whole or not self._encoder.chunked else PIECE_BYTES
        at, end = read.offset, read.offset + read.length
        while at < end:
            count = min(piece, end - at)
            await self._answer_piece(read.token, at, count, at + count == end)
            at += count

    async def _answer_piece(self, token: bytes, offset: int, length: int, last: bool) -> None:
        head = self._encoder.data_header_bytes
        count = head + length
        await self._begin(count)
        try:
            reply = memoryview(bytearray(count))
            self._encoder.put_data_header(reply, 0, token, offset, length, last)
            await self._fill(offset, reply[head:])
            self._outlet.send([reply])
        finally:
            self._account.give(count)
            self._ahead -= count
            self._moved.set()

    async def _begin(self, count: int) -> None:
        """Wait, in turn, until the client takes its answers, and for memory."""
        async with self._turn:
            while (ahead := self._ahead + self._outlet.blocked_bytes) and (
                ahead + count > self._ahead_bytes_max or self._outlet.clogged
            ):
                self._moved.clear()
                await self._moved.wait()
            await self._account.take(count)
            self._ahead += count

    async def _fill(self, offset: int, buffer: memoryview) -> None:
        if self._export.read_now([(offset, buffer)]):
            await self._export.read(offset, buffer)
