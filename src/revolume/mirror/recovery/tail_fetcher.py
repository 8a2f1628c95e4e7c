"""A primary that opens after an unclean stop asks a mirror for a longer tail of its log, and takes it.

Writes that were answered may lie only there: in ``sync`` mode an answer rests on the mirror's log file as well,
and what a power cut took from this node's page cache it did not take from the mirror's. The tail is stored like
any mirror stores a log: verified along the chain from where our own log ends.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from revolume.blocks.numbers import Position
from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.clock import within
from revolume.mirror.copy_protocols import TailStore
from revolume.mirror.link import Link
from revolume.mirror.target.log_receiver import LogReceiver
from revolume.mirror.wire.frames import ProtocolError, Type, body_of
from revolume.mirror.wire.limits import LOG_TYPES, expecting
from revolume.mirror.wire.session_messages import Refusal, unpack_refusal
from revolume.mirror.wire.tail_messages import (
    Fetch,
    TailBegin,
    pack_fetch,
    unpack_tail,
    unpack_tail_end,
)
from revolume.volume.open.log_identity import End


class State(Enum):
    """Where the conversation stands; each says what comes next."""

    ASKING = "TAIL: FETCH is out"
    RECEIVING = "the log, and TAIL_END behind it"


_ALWAYS: Final = frozenset({Type.PING, Type.REFUSED})
FRAMES: Final[Mapping[State, frozenset[Type]]] = {
    State.ASKING: _ALWAYS | {Type.TAIL},
    State.RECEIVING: _ALWAYS | LOG_TYPES | {Type.TAIL_END},
}


@dataclass(frozen=True, slots=True)
class FetchedTail:
    """Where the mirror's log ends, and where ours does now. ``short``: the mirror holds less than it had
    acknowledged as durable, by its own word, so that its end proves nothing."""

    mirror: End
    position: Position
    short: bool = False


class TailFetcher:
    """One connection that asks."""

    def __init__(self, link: Link, fetch: Fetch, store: TailStore, largest_blocks: int) -> None:
        self._link = link
        self._fetch = fetch
        self._store = store
        self._largest = largest_blocks
        self._log: LogReceiver | None = None
        self._mirror: End | None = None
        self._short = False
        self._complete = False
        self.answered = asyncio.Event()
        self.outcome: asyncio.Future[FetchedTail] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Ask."""
        self._link.session_frame = Type.TAIL
        self._link.start(self)
        self._link.send_control(Type.FETCH, pack_fetch(self._fetch))

    def frame(self, kind: int, frame: memoryview) -> None:
        self.answered.set()
        match Type(kind):
            case Type.TAIL:
                self._begin(unpack_tail(body_of(frame)))
            case Type.TAIL_END:
                self._finish(*unpack_tail_end(body_of(frame)))
            case Type.REFUSED:
                self._link.refused(unpack_refusal(body_of(frame)))
            case _:
                assert self._log is not None
                self._log.frame(kind, frame)

    def _begin(self, begin: TailBegin) -> None:
        end = self._fetch.end
        if end_of_another(self._fetch, begin):
            raise RevolumeError(
                "member-replaced", "The node that answers holds another copy of the volume than the one that has "
                "joined as this mirror.", "Bring that copy back.",
            )  # fmt: skip
        self._store.check_end(begin.end)
        self._mirror, self._short = begin.end, begin.short
        self._log = LogReceiver(self._link, self._store, self._fetch.volume, end, self._look)
        self._link.welcome()
        self._link.expected = expecting(FRAMES[State.RECEIVING], self._largest)

    def _finish(self, position: Position, chain: bytes) -> None:
        log, mirror = self._log, self._mirror
        assert log is not None
        assert mirror is not None
        if position > log.position or (position == log.position and chain != log.chain):
            raise ProtocolError("The tail ends elsewhere than it says.")
        self._complete = True

    def settled(self) -> None:
        if self._log is not None:
            self._log.settle()
            self._look()

    def _look(self) -> None:
        log, mirror = self._log, self._mirror
        if not self._complete or log is None or mirror is None or log.stored < log.position:
            return
        if not self.outcome.done():
            self.outcome.set_result(FetchedTail(mirror, self._store.received, self._short))
        self._link.break_off("The tail is complete.")

    def writable(self) -> None:
        """We hardly send."""

    def ended(self, reason: str) -> None:
        self.answered.set()
        if not self.outcome.done():
            refusal = self._link.refusal or Refusal("mirror-lost", f"The mirror was lost: {reason}", "Try again.")
            self.outcome.set_exception(RevolumeError(refusal.code, refusal.cause, refusal.hint))


def end_of_another(fetch: Fetch, begin: TailBegin) -> bool:
    """Whether another copy answers than the one that was asked."""
    return fetch.expected not in (bytes(16), begin.node)


async def fetch_tail(
    host: Host,
    address: str,
    context: ssl.SSLContext | None,
    fetch: Fetch,
    store: TailStore,
    largest_blocks: int,
    seconds: float | None = None,
    peer: str | None = None,
) -> FetchedTail:
    """What the mirror has behind ``fetch.end``, stored with ``store``. With ``seconds``, TimeoutError when the
    mirror has not answered by then. RevolumeError: it refuses, or was lost; OSError: it is not there. What was
    stored until then is right, and stays."""
    connecting = host.network.connect(address, tls=context, server_hostname=peer)
    wire = await (connecting if seconds is None else within(host.clock, seconds, connecting))
    link = Link(host, wire, expecting(FRAMES[State.ASKING]))
    fetching = TailFetcher(link, fetch, store, largest_blocks)
    fetching.start()
    try:
        if seconds is not None:
            await within(host.clock, seconds, fetching.answered.wait())
        return await fetching.outcome
    finally:
        fetching.outcome.cancel()  # nobody asks for it any more, if it is still to come
        link.break_off("Done.")
        await link.finished()
