"""Asking a mirror what it has, without cutting its source off or becoming one: EXAMINE, and its WELCOME."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.clock import within
from revolume.mirror.decide import identity
from revolume.mirror.frames import CHECK_SIZE, Type, body_of
from revolume.mirror.link import PING_BODY, Link
from revolume.mirror.messages import (
    WELCOME,
    Fetch,
    Refusal,
    TargetState,
    Welcome,
    pack_fetch,
    unpack_refusal,
    unpack_welcome,
)
from revolume.mirror.target_session import REFUSED_BODY_MAX
from revolume.volume.end import End

EXAMINE_SECONDS: Final = 5.0
ASKING: Final[dict[int, int]] = {
    Type.WELCOME: WELCOME.size + CHECK_SIZE,
    Type.REFUSED: REFUSED_BODY_MAX,
    Type.PING: PING_BODY,
}


class _Examining:
    """One connection that asks."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.answer: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()

    def frame(self, kind: int, frame: memoryview) -> None:
        if kind == Type.REFUSED:
            self._link.refused(unpack_refusal(body_of(frame)))
        elif not self.answer.done():
            self.answer.set_result(unpack_welcome(body_of(frame)))

    def settled(self) -> None:
        """Nothing is kept back."""

    def writable(self) -> None:
        """We hardly send."""

    def ended(self, reason: str) -> None:
        if not self.answer.done():
            told = self._link.refusal or Refusal("mirror-lost", f"It did not answer: {reason}", "")
            self.answer.set_exception(RevolumeError(told.code, told.cause, told.hint))


async def examine(host: Host, address: str, context: ssl.SSLContext | None, asked: Fetch) -> Welcome:
    """What the mirror at this address has. RevolumeError: it refuses; OSError: it is not there, or silent."""
    wire = await within(host.clock, EXAMINE_SECONDS, host.network.connect(address, tls=context))
    link = Link(host, wire, ASKING)
    link.naming = Type.WELCOME
    examining = _Examining(link)
    link.start(examining)
    link.send_control(Type.EXAMINE, pack_fetch(asked))
    try:
        return await within(host.clock, EXAMINE_SECONDS, examining.answer)
    finally:
        link.break_off("Done.")
        await link.finished()


def has_more(welcome: Welcome, volume: bytes, end: End) -> str:
    """A sentence if that copy has something that a log which ends at ``end`` has not; "" otherwise."""
    if welcome.state != TargetState.WHOLE or welcome.volume != volume:
        return ""
    theirs = welcome.end
    if (theirs.epoch, theirs.position) > (end.epoch, end.position):
        return f"its log ends at position {theirs.position} (w{theirs.write}, opening {theirs.epoch})"
    if theirs.position <= end.position or welcome.at_source_end == identity(end):
        return ""
    return f"its log ends at position {theirs.position} (w{theirs.write}) and is another"
