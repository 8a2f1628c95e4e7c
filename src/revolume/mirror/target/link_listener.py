"""Where other nodes connect: connections are taken, secured, and bounded until they have said who they are."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from typing import Final

from revolume.host import Host
from revolume.host.error_text import error_text
from revolume.host.network import Listener, Wire
from revolume.mirror.target.target_session import TargetSession

STRANGERS_MAX: Final = 16
"""Connections that have not said who they are. One more, and the oldest has to go: a source says it at once."""


class LinkListener:
    """``context`` for TLS; ``tell`` takes sentences for the event log; ``begin`` makes the session of a connection
    that is secured."""

    def __init__(
        self,
        host: Host,
        context: ssl.SSLContext | None,
        tell: Callable[[str], None],
        begin: Callable[[Wire], TargetSession],
    ) -> None:
        self._host = host
        self._context = context
        self._tell = tell
        self._begin = begin
        self._listeners: list[Listener] = []
        self._sessions: dict[TargetSession, None] = {}
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[TargetSession]:
        return iter(list(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)

    async def listen(self, address: str) -> list[str]:
        """Take connections at an address; the addresses as bound."""
        listener = await self._host.network.listen(address, self.accept)
        self._listeners.append(listener)
        return listener.addresses

    def accept(self, wire: Wire) -> None:
        """A connection. Encrypted from its first byte, if that is asked for at all."""
        strangers = [session for session in self._sessions if _is_stranger(session)]
        if len(self._handshakes) + len(strangers) >= STRANGERS_MAX:
            self._evict(strangers)
        if self._context is None:
            self._welcome(wire)
        else:
            task = asyncio.get_running_loop().create_task(self._secure(wire, self._context))
            self._handshakes[task] = None
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    def _evict(self, strangers: list[TargetSession]) -> None:
        """Evict the oldest connection that is not secured yet, else the oldest stranger."""
        if self._handshakes:
            oldest = next(iter(self._handshakes))
            self._handshakes.pop(oldest)
            oldest.cancel()
        else:
            strangers[0].link.break_off("It said nothing, and others came.")

    async def _secure(self, wire: Wire, context: ssl.SSLContext) -> None:
        try:
            await wire.start_tls(context)
        except asyncio.CancelledError:
            wire.abort()
            raise
        except OSError as error:
            self._tell(f"A connection from {wire.peer.address} could not be secured: {error_text(error)}")
            return
        self._welcome(wire)

    def _welcome(self, wire: Wire) -> None:
        session = self._begin(wire)
        self._sessions[session] = None
        session.start()

    def ended(self, session: TargetSession) -> None:
        """The session is over. What it has begun to store may not be."""
        self._sessions.pop(session, None)
        task = asyncio.get_running_loop().create_task(session.link.finished())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        """Take no more, close what is there; nothing is stored any more then."""
        for listener in self._listeners:
            listener.close()
        for task in list(self._handshakes):
            task.cancel()
        for session in self:
            await session.link.close()
            await session.link.finished()
        if self._ending:
            await asyncio.wait(self._ending)
        for listener in self._listeners:
            await listener.wait_closed()


def _is_stranger(session: TargetSession) -> bool:
    """It has not said who it is; who has, with HELLO or FETCH, is given a session id."""
    return session.link.open and session.hello is None and not session.link.session
