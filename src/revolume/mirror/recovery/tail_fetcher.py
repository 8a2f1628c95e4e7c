"""A primary that opens after an unclean stop asks a mirror for a longer tail of its log, and takes it.

Writes that were answered may lie only there: in ``sync`` mode an answer rests on the mirror's log file as well,
and what a power cut took from this node's page cache it did not take from the mirror's. The tail is stored like
any mirror stores a log: verified along the chain from where our own log ends.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final

from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.clock import within
from revolume.mirror.frames import CHECK_SIZE, Broken, Type, body_of
from revolume.mirror.intake import Intake, log_frames
from revolume.mirror.link import PING_BODY, Link
from revolume.mirror.messages import (
    TAIL,
    TAIL_END,
    Fetch,
    Refusal,
    TailBegin,
    pack_fetch,
    unpack_refusal,
    unpack_tail,
    unpack_tail_end,
)
from revolume.mirror.parts import Keeper
from revolume.mirror.target_session import REFUSED_BODY_MAX
from revolume.volume.end import End

ASKING: Final[dict[int, int]] = {
    Type.TAIL: TAIL.size + CHECK_SIZE,
    Type.REFUSED: REFUSED_BODY_MAX,
    Type.PING: PING_BODY,
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where the mirror's log ends, and where ours does now. ``short``: the mirror holds less than it had
    acknowledged as durable, by its own word, so that its end proves nothing."""

    mirror: End
    position: int
    short: bool = False


class Fetching:
    """One connection that asks."""

    def __init__(self, link: Link, fetch: Fetch, keeper: Keeper, largest_blocks: int) -> None:
        self._link = link
        self._fetch = fetch
        self._keeper = keeper
        self._largest = largest_blocks
        self._intake: Intake | None = None
        self._mirror: End | None = None
        self._short = False
        self._complete = False
        self.answered = asyncio.Event()
        self.outcome: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Ask."""
        self._link.naming = Type.TAIL
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
                assert self._intake is not None
                self._intake.frame(kind, frame)

    def _begin(self, begin: TailBegin) -> None:
        end = self._fetch.end
        if end_of_another(self._fetch, begin):
            raise RevolumeError(
                "member-replaced", "The node that answers holds another copy of the volume than the one that has "
                "joined as this mirror.", "Bring that copy back.",
            )  # fmt: skip
        self._mirror, self._short = begin.end, begin.short
        self._intake = Intake(self._link, self._keeper, self._fetch.volume, end, self._look)
        self._link.welcome()
        ending = {Type.TAIL_END: TAIL_END.size + CHECK_SIZE, Type.REFUSED: REFUSED_BODY_MAX, Type.PING: PING_BODY}
        self._link.expected = ending | log_frames(self._largest)

    def _finish(self, position: int, chain: bytes) -> None:
        intake, mirror = self._intake, self._mirror
        assert intake is not None
        assert mirror is not None
        if position > intake.position or (position == intake.position and chain != intake.chain):
            raise Broken("The tail ends elsewhere than it says.")
        self._complete = True

    def settled(self) -> None:
        if self._intake is not None:
            self._intake.settle()
            self._look()

    def _look(self) -> None:
        intake, mirror = self._intake, self._mirror
        if not self._complete or intake is None or mirror is None or intake.stored < intake.position:
            return
        if not self.outcome.done():
            self.outcome.set_result(Fetched(mirror, self._keeper.received, self._short))
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
    keeper: Keeper,
    largest_blocks: int,
    seconds: float | None = None,
    peer: str | None = None,
) -> Fetched:
    """What the mirror has behind ``fetch.end``, stored with ``keeper``. With ``seconds``, TimeoutError when the
    mirror has not answered by then. RevolumeError: it refuses, or was lost; OSError: it is not there. What was
    stored until then is right, and stays."""
    connecting = host.network.connect(address, tls=context, server_hostname=peer)
    wire = await (connecting if seconds is None else within(host.clock, seconds, connecting))
    link = Link(host, wire, ASKING)
    fetching = Fetching(link, fetch, keeper, largest_blocks)
    fetching.start()
    try:
        if seconds is not None:
            await within(host.clock, seconds, fetching.answered.wait())
        return await fetching.outcome
    finally:
        fetching.outcome.cancel()  # nobody asks for it any more, if it is still to come
        link.break_off("Done.")
        await link.finished()
