"""Marks that a source sends its target, which makes them durable before anything is repaired there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.mirror.link import Link
from revolume.mirror.wire.frames import ProtocolError, Type
from revolume.mirror.wire.suspect_messages import MARKS_ROWS_MAX, pack_equal, pack_suspect_parts
from revolume.mirror.wire.version import COMPARISON
from revolume.volume.members.mirror import Mirror
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.periods import SuspectPeriods

BACKLOG: Final = 1 << 20
"""Bytes that may wait to be sent before another frame is made."""


class SuspectSender:
    """Of one link. One set of marks is under way at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._turn = asyncio.Lock()
        self._number = 0
        self._stored: asyncio.Future[None] | None = None
        self.version = 0
        """Of the link, once it is known."""

    async def send(self, marks: Marks) -> None:
        """The target holds these marks durably when it returns; nothing is sent where there are none. Refused
        "suspect-unknown": it runs a release that knows none. ConnectionError: the link is gone."""
        if not len(marks.rows):
            return
        self._check(marks)
        await self._send(lambda number: pack_suspect_parts(number, marks))

    async def send_all(self, periods: SuspectPeriods, mirror: Mirror) -> None:
        """As ``send``, before a mirror joins: if its copy was made from this one, what is suspect here is so there
        too. Nothing to one whose release would not know."""
        if mirror.state.since is None or self.version < COMPARISON:
            return
        for marks in periods.marks:
            if not marks.branch:
                await self.send(marks)

    async def equal(self, point: Point) -> None:
        """The whole target was found to be what it should be at this point, and knows so durably when this
        returns. Nothing where it runs a release that would not know. ConnectionError: the link is gone."""
        if self.version >= COMPARISON:
            await self._send(lambda number: [pack_equal(number, point.number)])

    async def _send(self, pack: Callable[[int], Iterable[bytes]]) -> None:
        """Whoever stops waiting leaves them under way: what has begun is sent whole, and answered."""
        exchange = asyncio.ensure_future(self._exchange(pack))
        exchange.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(exchange)

    async def _exchange(self, pack: Callable[[int], Iterable[bytes]]) -> None:
        async with self._turn:
            if not self._link.open:
                raise _lost()
            self._number += 1
            self._stored = asyncio.get_running_loop().create_future()
            try:
                for body in pack(self._number):
                    while self._link.open and self._link.backlog > BACKLOG:
                        await self._link.host.clock.sleep(0.01)
                    self._link.send_control(Type.SUSPECT, body)
                await self._stored
            finally:
                self._stored = None

    def _check(self, marks: Marks) -> None:
        if self.version < COMPARISON:
            raise RevolumeError(
                "suspect-unknown",
                "The mirror's release of Revolume does not keep which of its history is suspect.",
                "Install this release there too.",
            )
        if len(marks.rows) > MARKS_ROWS_MAX:
            raise RevolumeError(
                "suspect-too-many",
                f"{len(marks.rows)} stretches of the mirror's history are suspect; {MARKS_ROWS_MAX} can be kept.",
                "Make the mirror anew: 'revolume mirror replace'.",
            )

    def stored(self, number: int) -> None:
        """A SUSPECT_AT frame."""
        if self._stored is None or self._stored.done() or number != self._number:
            raise ProtocolError("It has stored marks that it was not sent.")
        self._stored.set_result(None)

    def end(self) -> None:
        """The link is gone: whoever waits hears of it."""
        if self._stored is not None and not self._stored.done():
            self._stored.set_exception(_lost())


def _lost() -> ConnectionError:
    return ConnectionError("the link to the mirror was lost")
