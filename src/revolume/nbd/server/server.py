"""All NBD connections of one process: listeners, limits, the fence, the end.

A server offers what its ``Exports`` offer on any number of addresses. Encryption is chosen per address:
``tls_required`` there means that nothing is said without it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from revolume.host import Host
from revolume.host.network import Listener, Wire
from revolume.nbd.budget import Budget
from revolume.nbd.handshake import Tls
from revolume.nbd.limits import Limits
from revolume.nbd.places import Places
from revolume.nbd.reads import Scratch
from revolume.nbd.refusals import Refusals
from revolume.nbd.reserved import Reserved
from revolume.nbd.session import Connection, Session, Surroundings
from revolume.nbd.stalls import Stalls
from revolume.nbd.unanswered import Unanswered
from revolume.nbd.uri import uri

if TYPE_CHECKING:
    from revolume.nbd.export import Exports


class Server:
    """Hands out exports to clients."""

    def __init__(
        self,
        host: Host,
        exports: Exports,
        limits: Limits,
        tls: ssl.SSLContext | None,
        tls_required: bool,
        left: Callable[[], None] = lambda: None,
    ) -> None:
        """``left`` is called after each connection's end."""
        assert tls is not None or not tls_required
        self._host = host
        self._exports = exports
        self._limits = limits
        self._context = tls
        self._tls_required = tls_required
        first_bytes = min(limits.payload_bytes_max + 4096, limits.inflight_bytes // 2)
        self._budget = Budget(limits.inflight_bytes, first_bytes)
        self._stalls = Stalls(host.clock, self._budget, limits.stall_seconds)
        self._unanswered = Unanswered(limits)
        self._scratch = Scratch()
        self._listeners: list[Listener] = []
        self._left = left
        self._places = Places(host.clock, limits)
        self._sessions = self._places.sessions
        self._lobby = memoryview(bytearray(limits.base_bytes))
        self.refusals = Refusals(host.clock)
        self._stopping = False

    async def listen(self, address: str, *, tls_required: bool | None = None) -> str:
        """Take connections at ``address``; the URI under which the default export is found there."""
        reserved = await self.reserve(address, tls_required=tls_required)
        reserved.open()
        return reserved.uri

    async def reserve(self, address: str, *, tls_required: bool | None = None) -> Reserved:
        """As ``listen``, but who connects has to wait until the address is opened."""
        required = self._tls_required if tls_required is None else tls_required
        assert self._context is not None or not required
        tls = Tls.NONE if self._context is None else Tls.REQUIRED if required else Tls.OFFERED
        reserved = Reserved(partial(self._accept, tls), self._limits.strangers_max)
        reserved.listener = await self._host.network.listen(address, reserved.accept)
        reserved.uri = uri(reserved.listener.addresses[0], "", tls=required)
        self._listeners.append(reserved.listener)
        return reserved

    def adopt(self, listener: Listener) -> None:
        """Also close this one at the end (its wires come through ``accept``)."""
        self._listeners.append(listener)

    def accept(self, wire: Wire) -> None:
        """A connection from a listener of somebody else's making (socket activation)."""
        required = self._tls_required
        self._accept(Tls.NONE if self._context is None else Tls.REQUIRED if required else Tls.OFFERED, wire)

    def _accept(self, tls: Tls, wire: Wire) -> None:
        if self._stopping:
            self.refusals.note("limit", wire.peer.address, "the server is stopping")
            wire.abort()
            return
        around = Surroundings(
            host=self._host,
            exports=self._exports,
            limits=self._limits,
            budget=self._budget,
            unanswered=self._unanswered,
            scratch=self._scratch,
            context=self._context,
            tls=tls,
            lobby=self._lobby,
            fence=self._settle_others,
            admit=self._places.admit,
            ended=self._forget,
            refusals=self.refusals,
        )
        session = Session(wire, around)
        goes = self._places.come(session)
        if goes is not None:
            goes.give_way()
        session.start()

    def _settle_others(self, newcomer: Session) -> None:
        for session in list(self._sessions):
            if session is not newcomer:
                session.settle()

    def _forget(self, session: Session) -> None:
        self._places.leave(session)
        self._left()

    def connections(self) -> list[Connection]:
        """A snapshot of all connections, oldest first."""
        return [session.connection for session in self._sessions]

    async def dismiss(self, grace: float, hopeless: Callable[[], bool] = lambda: False) -> None:
        """End every connection there is, as ``stop`` does; new ones are taken all the same."""
        await asyncio.gather(*[session.stop(grace, hopeless) for session in list(self._sessions)])

    async def stop(self, grace: float, hopeless: Callable[[], bool] = lambda: False) -> None:
        """Take no more; finish or fail what is in flight within ``grace`` seconds; close everything. ``hopeless``:
        what is in flight now waits for something that will not come; it is failed at once."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        await self.dismiss(grace, hopeless)
        self._stalls.stop()
        for listener in self._listeners:
            await listener.wait_closed()
