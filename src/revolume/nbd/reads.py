"""Reads: the small ones of a wake-up together in one buffer, the others each for itself.

A run of small reads is laid out as it goes on the wire, header before data, and the export fills the gaps:

    | reply header | data | reply header | data | ...

One ``read_now``, one send, no copy. The buffer is used again at the next wake-up unless the socket did not
take all of it. Reads that would block (``Late``) are left out and read by a task each, answered whenever
they are ready; so are large ones: in pieces, where the client understands pieces, otherwise whole, so
that a read that fails is an error and never half a success.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from revolume.nbd.budget import Account
from revolume.nbd.replies import Encoder

if TYPE_CHECKING:
    from revolume.nbd.export import Export

INLINE_BYTES_MAX: Final = 1 << 20  # one read that is answered at once, if it can be
RUN_BYTES_MAX: Final = 1 << 20  # a run that is this long is read before more is added
RUN_READS_MAX: Final = 64
PIECE_BYTES: Final = 2 << 20
_SCRATCH_BYTES_MIN: Final = 64 << 10

Send = Callable[[list[memoryview]], None]


@dataclass(frozen=True, slots=True)
class Late:
    """A read that is answered later."""

    token: bytes
    offset: int
    length: int
    whole: bool  # in one piece


class ReadRun:
    """The small reads of a wake-up that were not executed yet."""

    __slots__ = ("_encoder", "_export", "_reads", "_scratch", "bytes")

    def __init__(self, export: Export, encoder: Encoder) -> None:
        self._export = export
        self._encoder = encoder
        self._reads: list[tuple[bytes, int, int]] = []
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES_MIN))
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

    def take(self) -> list[Late]:
        """All of them as late ones: nothing is executed."""
        late = [Late(token, offset, length, True) for token, offset, length in self._reads]
        self._clear()
        return late

    def execute(self, out: list[memoryview]) -> list[Late]:
        """Read what can be read at once and add the replies to ``out``; the rest is returned."""
        head = self._encoder.data_header_bytes
        put = self._encoder.put_data_header
        view = self._room(self.bytes + head * len(self._reads))
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
        out.append(view[:at])
        self._scratch = view[at:]
        self._clear()
        return []

    def _without(self, blocked: list[int], view: memoryview, out: list[memoryview]) -> list[Late]:
        """The replies around the blocked reads go out, the blocked ones are returned."""
        missing, late, at = set(blocked), [], 0
        for index, (token, offset, length) in enumerate(self._reads):
            end = at + self._encoder.data_header_bytes + length
            if index in missing:
                late.append(Late(token, offset, length, True))
            else:
                out.append(view[at:end])
            at = end
        self._scratch = view[at:]
        self._clear()
        return late

    def _clear(self) -> None:
        self._reads.clear()
        self.bytes = 0

    def _room(self, count: int) -> memoryview:
        if len(self._scratch) < count:
            self._scratch = memoryview(bytearray(max(count, _SCRATCH_BYTES_MIN)))
        return self._scratch

    def recycle(self, sent: bool) -> None:
        """After a send: the buffer may be used from its start again, unless part of it still waits."""
        if sent:
            self._scratch = memoryview(self._scratch.obj)
        else:
            self._scratch = memoryview(b"")


class LateReader:
    """Reads one by one, waiting as long as each needs."""

    def __init__(
        self,
        export: Export,
        encoder: Encoder,
        account: Account,
        send: Send,
        drained: Callable[[], Awaitable[None]],
    ) -> None:
        self._export = export
        self._encoder = encoder
        self._account = account
        self._send = send
        self._drained = drained

    async def answer(self, read: Late) -> None:
        """Read and send. An error leaves nothing of the last piece sent; the caller answers with it."""
        piece = read.length if read.whole or not self._encoder.chunked else PIECE_BYTES
        at, end = read.offset, read.offset + read.length
        while at < end:
            count = min(piece, end - at)
            await self._answer_piece(read.token, at, count, at + count == end)
            at += count

    async def _answer_piece(self, token: bytes, offset: int, length: int, last: bool) -> None:
        head = self._encoder.data_header_bytes
        await self._drained()
        await self._account.take(head + length)
        try:
            reply = memoryview(bytearray(head + length))
            self._encoder.put_data_header(reply, 0, token, offset, length, last)
            await self._fill(offset, reply[head:])
            self._send([reply])
        finally:
            self._account.give(head + length)

    async def _fill(self, offset: int, buffer: memoryview) -> None:
        if self._export.read_now([(offset, buffer)]):
            await self._export.read(offset, buffer)
