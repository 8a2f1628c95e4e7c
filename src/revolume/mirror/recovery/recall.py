"""Asking a node for a moment that it holds: which there are, and one of them, held open while its blocks are asked
for. It cuts nobody off.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from revolume.blocks.root import Root
from revolume.errors import NotFound, Refused, RevolumeError, TimedOut
from revolume.host import Host
from revolume.host.clock import within
from revolume.host.error_text import error_text
from revolume.mirror.link import Link
from revolume.mirror.wire.block_messages import ROWS_MAX, BlockRows, pack_block_request
from revolume.mirror.wire.comparison_messages import CompareAsk, Compared, pack_compare_ask, unpack_compared
from revolume.mirror.wire.frames import ProtocolError, Type, body_of
from revolume.mirror.wire.limits import expecting
from revolume.mirror.wire.recall_messages import (
    Moments,
    Recall,
    Recalled,
    pack_moments_ask,
    pack_recall,
    unpack_moments,
    unpack_recalled,
    unpack_recalled_blocks,
)
from revolume.mirror.wire.session_messages import unpack_refusal
from revolume.mirror.wire.tail_messages import Fetch

U64 = npt.NDArray[np.uint64]
CONNECT_SECONDS: Final = 5.0
OPEN_SECONDS: Final = 120.0
"""A moment's map may have to be made of a long log."""
FRAMES: Final = frozenset(
    {Type.MOMENTS, Type.RECALLED, Type.COMPARED, Type.RECALLED_BLOCKS, Type.REFUSED, Type.PING}
)
"""What may come; of answers, only the one that is waited for."""
_MISSING: Final = frozenset({"moment-not-held", "moment-not-retained", "no-snapshot", "moment-in-future"})
_FAILURES: Final = frozenset({"link-version", "view-ended", "view-failed"})
Answer = TypeVar("Answer")


class RecallLink:
    """One connection that asks, one question at a time. What it is waiting for raises RevolumeError when the link
    is lost, or the node refuses."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._number = 0
        self._kind = Type.PING
        self._frame: asyncio.Future[memoryview] | None = None

    async def moments(self, asker: Fetch) -> Moments:
        """Which moments the node holds."""
        frame = await self._asked(Type.MOMENTS_ASK, pack_moments_ask(asker), Type.MOMENTS)
        return unpack_moments(body_of(frame))

    async def open(self, recall: Recall) -> Recalled:
        """Have a moment held open. NotFound: the node does not hold it; Refused: it may not be given."""
        frame = await self._asked(Type.RECALL, pack_recall(recall), Type.RECALLED)
        self._link.welcome()
        return unpack_recalled(body_of(frame))

    async def sums(self, first: int, count: int) -> tuple[Root, ...]:
        """The volume root's sums over the regions of these blocks, which begin with one."""
        return (await self._compared(first, count, False)).sums

    async def digests(self, first: int, count: int) -> U64:
        """Of these blocks; 0 for zeroes."""
        return (await self._compared(first, count, True)).digests

    async def _compared(self, first: int, count: int, digests: bool) -> Compared:
        self._number += 1
        asked = CompareAsk(self._number, first, count, digests)
        frame = await self._asked(Type.COMPARE_ASK, pack_compare_ask(asked), Type.COMPARED)
        return unpack_compared(body_of(frame), asked)

    async def blocks(self, point: int, wanted: U64) -> BlockRows:
        """Those of these blocks (ascending, 256 at most) that the moment, which is this point, has, and what they
        hold."""
        assert 0 < len(wanted) <= ROWS_MAX
        request = pack_block_request(point, wanted.tolist())
        rows = unpack_recalled_blocks(await self._asked(Type.RECALL_BLOCKS, request, Type.RECALLED_BLOCKS))
        if not np.isin(rows.blocks, wanted).all():
            raise ProtocolError("Blocks of a moment that nobody asked for.")
        return rows

    async def _asked(self, kind: Type, body: bytes, answer: Type) -> memoryview:
        """The frame that answers, copied."""
        self._kind, self._frame = answer, asyncio.get_running_loop().create_future()
        if not self._link.open:
            self.ended(self._link.reason or "")
        self._link.send_control(kind, body)
        return await within(self._link.host.clock, OPEN_SECONDS, self._frame)

    # What the link tells

    def frame(self, kind: int, frame: memoryview) -> None:
        if kind == Type.REFUSED:
            self._link.refused(unpack_refusal(body_of(frame)))
        elif self._frame is None or self._frame.done() or kind != self._kind:
            raise ProtocolError("It answers what nobody asked.")
        else:
            self._frame.set_result(memoryview(bytes(frame)))

    def settled(self) -> None:
        """Nothing is kept back."""

    def writable(self) -> None:
        """We hardly send."""

    def ended(self, reason: str) -> None:
        if self._frame is not None and not self._frame.done():
            self._frame.set_exception(self._error(reason))

    def _error(self, reason: str) -> RevolumeError:
        told = self._link.refusal
        if told is None:
            older = "If that node runs an older release of Revolume, install the newer one there; else try again."
            return TimedOut("link-lost", f"The node that was asked was lost: {reason}", older)
        known: Callable[[str, str, str], RevolumeError] = Refused
        if told.code in _MISSING:
            known = NotFound
        elif told.code in _FAILURES:
            known = RevolumeError
        return known(told.code, told.cause, told.hint)


@asynccontextmanager
async def recall_link(
    host: Host, address: str, context: ssl.SSLContext | None, peer: str | None = None
) -> AsyncIterator[RecallLink]:
    """A connection to the node at this address, for the time of the context. ``context``: for TLS, which unix
    sockets don't use; ``peer``: the name that its certificate must have. TimedOut: nobody is there."""
    encrypted = None if address.startswith("unix:") else context
    try:
        connecting = host.network.connect(address, tls=encrypted, server_hostname=peer)
        wire = await within(host.clock, CONNECT_SECONDS, connecting)
    except OSError as error:
        raise TimedOut(
            "mirror-unreachable", f"No node answers at {address}: {error_text(error).rstrip('.')}.",
            "Look whether it is served there; 'revolume mirror list' says where mirrors are.",
        ) from error  # fmt: skip
    link = Link(host, wire, expecting(FRAMES))
    link.session_frame = Type.RECALLED
    asking = RecallLink(link)
    link.start(asking)
    try:
        yield asking
    except TimeoutError as error:
        raise TimedOut("mirror-silent", f"The node at {address} does not answer.", "Try again.") from error
    finally:
        link.break_off("Done.")
        await link.finished()
