"""All NBD connections of one process: listeners, limits, and how they are ended.

A server offers what its ``Exports`` offer on any number of addresses. Encryption is chosen per address:
``tls_required`` there means that options are refused until the connection is encrypted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from revolume.host import Host
from revolume.host.network import Listener, Wire
from revolume.nbd.bounds.budget import Budget
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.bounds.places import Places
from revolume.nbd.bounds.refusals import Refusals
from revolume.nbd.bounds.stalls import Stalls
from revolume.nbd.bounds.unanswered import Unanswered
from revolume.nbd.server.bound_listener import BoundListener
from revolume.nbd.server.option_handlers import Tls
from revolume.nbd.server.reads import Scratch
from revolume.nbd.server.session import Connection, ServerContext, Session
from revolume.nbd.wire.uri import uri

if TYPE_CHECKING:
    from revolume.nbd.export import Exports


class Server:
    """Serves exports to clients. ``stop`` it at the end."""

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
        self._places: Places[Session] = Places(host.clock, limits)
        self._sessions = self._places.sessions
        self._receive = memoryview(bytearray(limits.base_bytes))
        self.refusals = Refusals(host.clock)
        self._stopping = False

    async def listen(self, address: str, *, tls_required: bool | None = None) -> str:
        """Take connections at ``address``; the URI under which the default export is found there."""
        bound = await self.bind(address, tls_required=tls_required)
        bound.open()
        return bound.uri

    async def bind(self, address: str, *, tls_required: bool | None = None) -> BoundListener:
        """Bind ``address``; clients wait until the listener is opened. RevolumeError if it can't be had."""
        required = self._tls_required if tls_required is None else tls_required
        assert self._context is not None or not required
        tls = Tls.NONE if self._context is None else Tls.REQUIRED if required else Tls.OFFERED
        bound = BoundListener(partial(self._accept, tls), self._limits.strangers_max)
        bound.listener = await self._host.network.listen(address, bound.accept)
        bound.uri = uri(bound.listener.addresses[0], "", tls=required)
        self._listeners.append(bound.listener)
        return bound

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
        context = ServerContext(
            host=self._host,
            exports=self._exports,
            limits=self._limits,
            budget=self._budget,
            unanswered=self._unanswered,
            scratch=self._scratch,
            tls_context=self._context,
            tls=tls,
            receive=self._receive,
            settle_others=self._settle_others,
            admit=self._places.admit,
            ended=self._forget,
            refusals=self.refusals,
        )
        session = Session(wire, context)
        evicted = self._places.add(session)
        if evicted is not None:
            evicted.evict_stranger()
        session.start()

    def _settle_others(self, newcomer: Session) -> None:
        for session in list(self._sessions):
            if session is not newcomer:
                session.settle()

    def _forget(self, session: Session) -> None:
        self._places.remove(session)
        self._left()

    def connections(self) -> list[Connection]:
        """A snapshot of all connections, oldest first."""
        return [session.connection for session in self._sessions]

    async def dismiss(self, grace: float, hopeless: Callable[[], bool] = lambda: False) -> None:
        """End every connection there is, as ``stop`` does; new ones are taken all the same."""
        await asyncio.gather(*[session.stop(grace, hopeless) for session in list(self._sessions)])

    async def hang_up(self, grace: float) -> None:
        """End every connection there is, each once its client has taken the answers that are there, and answer
        nothing more: what is unanswered its client asks again, maybe elsewhere."""
        await asyncio.gather(*[session.hang_up(grace) for session in list(self._sessions)])

    async def hang_up_from(self, export: str, grace: float) -> None:
        """``hang_up``, of those connections alone that have this export open."""
        sessions = [session for session in self._sessions if session.connection.export == export]
        await asyncio.gather(*[session.hang_up(grace) for session in sessions])

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
