"""Asking a node what it is and has, without cutting its source off or becoming one: EXAMINE, and its EXAMINED."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.clock import within
from revolume.mirror.catch_up_plan import identity
from revolume.mirror.link import Link
from revolume.mirror.wire.examine_messages import Examined, of_welcome, unpack_examined
from revolume.mirror.wire.frames import Type, body_of
from revolume.mirror.wire.greeting_messages import unpack_welcome
from revolume.mirror.wire.limits import expecting
from revolume.mirror.wire.session_messages import Refusal, unpack_refusal
from revolume.mirror.wire.tail_messages import Fetch, pack_fetch
from revolume.volume.open.log_identity import End

EXAMINE_SECONDS: Final = 5.0
FRAMES: Final = frozenset({Type.EXAMINED, Type.WELCOME, Type.REFUSED, Type.PING})
"""The only state: EXAMINE is out, and these may come."""


class _Examination:
    """One connection that asks."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.answer: asyncio.Future[Examined] = asyncio.get_running_loop().create_future()

    def frame(self, kind: int, frame: memoryview) -> None:
        if kind == Type.REFUSED:
            self._link.refused(unpack_refusal(body_of(frame)))
        elif not self.answer.done():
            body = body_of(frame)
            old = kind == Type.WELCOME
            self.answer.set_result(of_welcome(unpack_welcome(body)) if old else unpack_examined(body))

    def settled(self) -> None:
        """Nothing is kept back."""

    def writable(self) -> None:
        """We hardly send."""

    def ended(self, reason: str) -> None:
        if not self.answer.done():
            told = self._link.refusal or Refusal("mirror-lost", f"It did not answer: {reason}", "")
            self.answer.set_exception(RevolumeError(told.code, told.cause, told.hint))


async def examine(
    host: Host, address: str, context: ssl.SSLContext | None, asked: Fetch, peer: str | None = None
) -> Examined:
    """What the node at this address is and has. ``context``: for TLS, which unix sockets don't use; ``peer``: the
    name that its certificate must have. RevolumeError: it refuses; OSError: it is not there, or silent."""
    encrypted = None if address.startswith("unix:") else context
    connecting = host.network.connect(address, tls=encrypted, server_hostname=peer)
    wire = await within(host.clock, EXAMINE_SECONDS, connecting)
    link = Link(host, wire, expecting(FRAMES))
    link.session_frame = Type.WELCOME
    examining = _Examination(link)
    link.start(examining)
    link.send_control(Type.EXAMINE, pack_fetch(asked))
    try:
        return await within(host.clock, EXAMINE_SECONDS, examining.answer)
    finally:
        link.break_off("Done.")
        await link.finished()


def has_more(there: Examined, volume: bytes, end: End) -> str:
    """A sentence if that copy has something that a log which ends at ``end`` has not; "" otherwise."""
    if not there.whole or there.volume != volume:
        return ""
    theirs = there.end
    if (theirs.epoch, theirs.position) > (end.epoch, end.position):
        return f"its log ends at position {theirs.position} (w{theirs.write}, opening {theirs.epoch})"
    if theirs.position <= end.position or there.at_asked_end == identity(end):
        return ""
    return f"its log ends at position {theirs.position} (w{theirs.write}) and is another"
