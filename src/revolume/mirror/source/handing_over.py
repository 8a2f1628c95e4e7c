"""The source's side of HANDOVER: said once, as the last thing in a session, and what came of it."""

from __future__ import annotations

import asyncio
from enum import Enum

from revolume.mirror.link import Link
from revolume.mirror.wire.frames import ProtocolError, Type
from revolume.mirror.wire.handover_messages import Handover, pack_handover


class Handed(Enum):
    """What came of handing over to a mirror."""

    TAKEN = "it says that it is becoming the primary"
    REFUSED = "it has said why not"
    NOT_ASKED = "there was no session any more, so it knows of nothing"
    SILENT = "it has not answered: it may know"


class HandingOver:
    """Of one session."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._outcome: asyncio.Future[Handed] | None = None

    @property
    def is_taken(self) -> bool:
        """The mirror takes over: that the session ends is no loss."""
        return self._outcome is not None and self._outcome.done() and self._outcome.result() is Handed.TAKEN

    async def hand_over(self, handover: Handover) -> Handed:
        """The mirror, which has everything, is to be the primary; returns once it has answered, or the session is
        over."""
        if not self._link.open:
            return Handed.NOT_ASKED
        self._outcome = asyncio.get_running_loop().create_future()
        self._link.send_control(Type.HANDOVER, pack_handover(handover))
        return await self._outcome

    def taken(self) -> None:
        """HANDED_OVER has come. ProtocolError: nobody handed over."""
        if self._outcome is None:
            raise ProtocolError("It takes over what nobody has handed over.")
        self.ended(Handed.TAKEN)

    def ended(self, outcome: Handed) -> None:
        """The session is over, or was refused; nothing happens if the mirror has answered before."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)
