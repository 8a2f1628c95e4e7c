"""One connection, from its greeting to its end.

    accepted -> options (``negotiation.py``) -> transmission (``transmission.py``) -> closed

The session is the wire's receiver and hands what comes to the phase that the connection is in.

When it has closed it drops what it is made of: its parts refer to one another in circles, and the buffers would
stay until the collector finds them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from revolume.host import Host
from revolume.host.clock import within
from revolume.host.network import Peer, Wire
from revolume.nbd.bounds.budget import Account, Budget
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.bounds.refusals import Refusals
from revolume.nbd.bounds.unanswered import Tally, Unanswered
from revolume.nbd.server.negotiation import Negotiation, OpenedExport
from revolume.nbd.server.option_handlers import Tls
from revolume.nbd.server.outlet import Outlet
from revolume.nbd.server.reads import Scratch
from revolume.nbd.server.receive_buffer import Receiving
from revolume.nbd.server.transmission import Transmission

if TYPE_CHECKING:
    from revolume.nbd.export import Exports

_HOPELESS_SECONDS: Final = 0.5  # for requests that wait for a node that is away, when the server stops
_CLOSE_SECONDS: Final = 10.0  # how long a client may take to read its last answers

_log = structlog.get_logger("revolume.nbd")


@dataclass(frozen=True, slots=True)
class Connection:
    """What ``status`` shows of a connection: a snapshot of plain values."""

    peer: Peer
    export: str | None
    requests: int
    received_bytes: int
    sent_bytes: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What a session is given by its server. ``receive``: the memory into which all connections without an export
    receive; what comes is copied at once. ``settle_others`` lets what has arrived on all other connections take
    effect. ``admit``: whether there is a place for the session as a client. ``ended`` is called at its end."""

    host: Host
    exports: Exports
    limits: Limits
    budget: Budget
    unanswered: Unanswered
    scratch: Scratch
    tls_context: ssl.SSLContext | None
    tls: Tls
    receive: memoryview
    settle_others: Callable[[Session], None]
    admit: Callable[[Session], bool]
    ended: Callable[[Session], None]
    refusals: Refusals


class Session:
    """One connection; the wire's receiver, and the holder of the connection's memory account."""

    def __init__(self, wire: Wire, context: ServerContext) -> None:
        self._wire = wire
        self.heard_ns = context.host.clock.monotonic_ns()  # when it last said something before it had an export
        self._context = context
        self._limits = context.limits
        self._account = Account(context.budget, context.limits.connection_bytes, self)
        self._negotiation = Negotiation(
            wire,
            context.host.clock,
            context.exports,
            context.limits,
            context.tls,
            self._secure,
            lambda: context.settle_others(self),
            lambda: context.admit(self),
            context.refusals,
        )
        self._tally = Tally(context.unanswered)
        self._outlet = Outlet(wire, self._account, context.limits)
        self._transmission: Transmission | None = None  # from the export's opening on
        self._receiving: Receiving | None = None  # the transmission's
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order: they are ended in it
        self._received_bytes = 0

    def start(self) -> None:
        """Greet and listen."""
        self._wire.start(self)
        self._spawn(self._negotiate())
        self._spawn(self._negotiation.watch())

    def _spawn(self, job: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await job
            except Exception as error:  # otherwise unnoticed, and the client would wait for ever
                self._fail(error)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def _fail(self, error: Exception) -> None:
        cause = "no memory for a request" if isinstance(error, MemoryError) else "a fault of this program"
        trace = None if isinstance(error, MemoryError) else error
        _log.error("nbd connection ended", peer=self._wire.peer.address, cause=cause, exc_info=trace)
        self._wire.abort()

    @property
    def local(self) -> bool:
        """Whether the client is on this machine, as far as its socket tells."""
        return self._wire.peer.transport == "unix"

    @property
    def connection(self) -> Connection:
        """What is shown of this connection, as plain values."""
        executor = self._transmission.executor if self._transmission is not None else None
        return Connection(
            peer=self._wire.peer,
            export=executor.export.name if executor else None,
            requests=executor.requests if executor else 0,
            received_bytes=self._received_bytes,
            sent_bytes=self._outlet.sent_bytes,
            in_flight=executor.in_flight if executor else 0,
        )

    # --- the wire's receiver -----------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        return self._context.receive if self._receiving is None else self._receiving.buffer()

    def received(self, n: int) -> None:
        self._received_bytes += n
        transmission = self._transmission
        if transmission is None:
            self.heard_ns = self._context.host.clock.monotonic_ns()
            self._negotiation.receive(self._context.receive[:n])
        else:
            transmission.receiving.inbox.end += n
            transmission.work()

    def writable(self) -> None:
        self._outlet.count_backlog()
        if self._transmission is None:
            self._negotiation.note_writable()
        else:
            self._transmission.writable()

    def closed(self, error: Exception | None) -> None:
        """The end, however it came. What was received and not begun is not begun any more."""
        if self._outlet.closed:
            return
        self._outlet.closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._transmission is not None:
            self._transmission.close()
            self._transmission = None
        self._account.close()
        self._context.ended(self)
        del self._negotiation

    # --- the option phase --------------------------------------------------------------------------------

    async def _negotiate(self) -> None:
        opened = await self._negotiation.run()
        if opened is None:
            await self._close()
        else:
            self._begin(opened)

    async def _secure(self) -> None:
        tls_context = self._context.tls_context
        assert tls_context is not None, "STARTTLS is answered only where there is a context"
        await self._wire.start_tls(tls_context)

    def _begin(self, opened: OpenedExport) -> None:
        """The option phase is over."""
        self._transmission = Transmission(
            self._wire,
            opened,
            self._context.limits,
            account=self._account,
            tally=self._tally,
            scratch=self._context.scratch,
            outlet=self._outlet,
            spawn=self._spawn,
            leave=self._leave,
        )
        self._receiving = self._transmission.receiving
        self._transmission.begin(opened.first_requests)

    # --- the end -----------------------------------------------------------------------------------------

    def _leave(self) -> None:
        self._spawn(self._close())

    async def _close(self) -> None:
        """Answer the requests that were taken, then close."""
        if self._transmission is not None:
            await self._transmission.executor.finished()
        await self._end_wire(_CLOSE_SECONDS)

    async def _end_wire(self, seconds: float) -> None:
        """Close when the client has taken its answers, or when the time is over."""
        try:
            await within(self._context.host.clock, seconds, self._wire.drain_and_close())
        except (TimeoutError, OSError):
            self._wire.abort()

    # --- what it holds of the budget -----------------------------------------------------------------------

    def reclaim(self) -> None:
        """Give back memory that is only kept for speed, if that can be done now."""
        if self._transmission is not None:
            self._transmission.reclaim()

    @property
    def stalled_bytes(self) -> int:
        """Bytes held that are given back when the client sends the rest of its request, or reads its replies."""
        partial = 0 if self._transmission is None else self._transmission.partial_bytes
        return self._account.backlog_bytes + partial

    @property
    def moved_bytes(self) -> int:
        """Bytes that came from the client or were taken by it, so far."""
        return self._received_bytes + self._outlet.taken_bytes

    def evict(self, held_bytes: int) -> None:
        """End the connection, because others wait for the memory that it holds."""
        cause = f"it sends or reads too slowly, and others wait for the {held_bytes >> 20} MiB that it holds"
        self._context.refusals.note("stalled", self._wire.peer.address, cause)
        self._wire.abort()
        self.closed(None)

    @property
    def peak_bytes(self) -> int:
        """The largest receive buffer that it has had."""
        return 0 if self._receiving is None else self._receiving.peak_bytes

    def evict_stranger(self) -> None:
        """End a connection that has no export, because another one came."""
        self._context.refusals.note("stranger", self._wire.peer.address, "it said nothing, and others came")
        self._wire.abort()
        self.closed(None)

    # --- the server's requests ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Let what has arrived take effect now: data, and the end of a connection that is dead."""
        if not self._outlet.closed:
            self._wire.poll()

    async def hang_up(self, grace_seconds: float) -> None:
        """Close once the answers that are there are taken; nothing more is answered."""
        if self._transmission is None:
            self._wire.abort()
        else:
            await self._end_wire(grace_seconds)

    async def stop(self, grace_seconds: float, hopeless: Callable[[], bool] = lambda: False) -> None:
        """Finish what is in flight, or fail it when the time is over, or soon if it is ``hopeless``: what it waits
        for will not come. Then close."""
        transmission = self._transmission
        if transmission is None:
            self._wire.abort()
            return
        executor = transmission.executor
        transmission.stop_taking()
        clock, began = self._context.host.clock, self._context.host.clock.monotonic_ns()
        while True:
            try:
                await within(clock, min(_HOPELESS_SECONDS, grace_seconds), executor.finished())
                break
            except TimeoutError:
                over = (clock.monotonic_ns() - began) / 1e9 >= grace_seconds
                if over or hopeless():
                    _log.warning("nbd requests did not finish in time", in_flight=executor.in_flight)
                    break
        transmission.give_up()
        await self._end_wire(max(grace_seconds, 1.0))
