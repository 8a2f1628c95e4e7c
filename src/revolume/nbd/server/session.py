"""One connection, from its greeting to its end.

    accepted -> options (``negotiation.py``) -> transmission (``executor.py``) -> closed

The session is the wire's receiver and the executor's port; it owns no algorithm. In the transmission phase
everything happens in ``received``: what came is parsed, executed and answered before it returns.

The session stops reading (``_pause``) while the executor is held, while the client does not take its
answers, and while a large request waits for memory. ``go_on`` is called after anything that may end such
a state and looks anew at all of them.

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
from revolume.nbd.budget import Account, Budget
from revolume.nbd.executor import Executor
from revolume.nbd.handshake import Dialect, Tls
from revolume.nbd.limits import Limits
from revolume.nbd.negotiation import Negotiation, Opened
from revolume.nbd.reads import Scratch
from revolume.nbd.receiving import Receiving
from revolume.nbd.refusals import Refusals
from revolume.nbd.replies import encoder
from revolume.nbd.transmission import BATCH_REQUESTS_MAX, CompactParser, ExtendedParser, Parser
from revolume.nbd.unanswered import Tally, Unanswered

if TYPE_CHECKING:
    from revolume.nbd.export import Exports

_CLOGGED_BYTES_MIN: Final = 512 << 10  # above every wire's low-water mark, so that ``writable`` will come
_HOPELESS_SECONDS: Final = 0.5  # what waits for a node that is away has this time when the server stops
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
class Surroundings:
    """What a session is given by its server."""

    host: Host
    exports: Exports
    limits: Limits
    budget: Budget
    unanswered: Unanswered
    scratch: Scratch
    context: ssl.SSLContext | None
    tls: Tls
    lobby: memoryview  # where all that have no export yet receive: what comes is copied at once
    fence: Callable[[Session], None]  # settle all other sessions
    admit: Callable[[Session], bool]  # it wants to be a client
    ended: Callable[[Session], None]
    refusals: Refusals


class Session:
    """One connection; the wire's receiver and the executor's port."""

    def __init__(self, wire: Wire, around: Surroundings) -> None:
        self._wire = wire
        self.heard_ns = around.host.clock.monotonic_ns()  # when it last said something before it had an export
        self._around = around
        self._limits = around.limits
        self._account = Account(around.budget, around.limits.connection_bytes, self)
        self._receiving: Receiving | None = None  # from the export's opening on
        self._negotiation = Negotiation(
            wire,
            around.host.clock,
            around.exports,
            around.limits,
            around.tls,
            self._secure,
            lambda: around.fence(self),
            lambda: around.admit(self),
            around.refusals,
        )
        self._tally = Tally(around.unanswered)
        self._parser: Parser | None = None
        self._executor: Executor | None = None
        self._paused = False
        self._wants_memory = False
        self._closed = False
        self._leaving = False  # no more requests are looked at
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order: they are ended in it
        self._received_bytes = 0
        self._sent_bytes = 0

    def start(self) -> None:
        """Greet and listen."""
        self._wire.start(self)
        self._spawn(self._negotiate())
        self._spawn(self._negotiation.watch())

    def _spawn(self, job: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await job
            except Exception as error:  # nobody else would hear of it, and the client would wait for ever
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
        """As it is now."""
        executor = self._executor
        return Connection(
            peer=self._wire.peer,
            export=executor.export.name if executor else None,
            requests=executor.requests if executor else 0,
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
            in_flight=executor.in_flight if executor else 0,
        )

    # --- the wire's receiver -----------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        return self._around.lobby if self._receiving is None else self._receiving.buffer()

    def received(self, n: int) -> None:
        self._received_bytes += n
        if self._receiving is None:
            self.heard_ns = self._around.host.clock.monotonic_ns()
            self._negotiation.receive(self._around.lobby[:n])
        else:
            self._receiving.inbox.end += n
            self._work()

    def writable(self) -> None:
        self._count_backlog()
        if self._executor is None:
            self._negotiation.note_writable()
            return
        self._executor.note_writable()
        self.go_on()

    def closed(self, error: Exception | None) -> None:
        """The end, however it came. What was received and not begun is not begun any more."""
        if self._closed:
            return
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._executor is not None:
            self._executor.abandon()
            self._executor.export.close(self._executor.leaving)
            self._executor = None
        if self._receiving is not None:
            self._receiving.close()
        self._account.close()
        self._around.ended(self)
        del self._negotiation

    # --- the option phase --------------------------------------------------------------------------------

    async def _negotiate(self) -> None:
        opened = await self._negotiation.run()
        if opened is None:
            await self._close()
        else:
            self._begin(opened)

    async def _secure(self) -> None:
        context = self._around.context
        assert context is not None, "STARTTLS is answered only where there is a context"
        await self._wire.start_tls(context)

    def _begin(self, opened: Opened) -> None:
        """From here on ``received`` does everything."""
        limits = self._limits
        extended = opened.dialect is Dialect.EXTENDED
        self._parser = (ExtendedParser if extended else CompactParser)(limits.payload_bytes_max)
        self._executor = Executor(
            opened.export, encoder(opened.dialect), opened.contexts, limits, self._account, self._tally,
            self._around.scratch, self,
        )  # fmt: skip
        self._receiving = Receiving(limits.base_bytes, limits.buffer_bytes, self._account)
        self._receiving.inbox.put(opened.rest)
        self._work()

    # --- the transmission phase --------------------------------------------------------------------------

    def _work(self) -> None:
        """Parse, execute and answer what has been received."""
        executor, parser, receiving = self._executor, self._parser, self._receiving
        assert executor is not None
        assert parser is not None
        assert receiving is not None
        inbox = receiving.inbox
        while True:
            requests = parser.parse(inbox.buffer, inbox.start, inbox.end)
            inbox.start += parser.consumed
            if requests:
                executor.execute(requests, inbox.view, parser.consumed)
            if self._closed or executor.leaving or parser.broken:
                return self._leave()
            if executor.held or self.clogged:
                return self._pause()
            if len(requests) < BATCH_REQUESTS_MAX:
                break
        if not receiving.prepare(parser.needed):
            self._pause()
            self._wants_memory = True
            self._spawn(self._enlarge(receiving, parser.needed))
        return None

    async def _enlarge(self, receiving: Receiving, needed: int) -> None:
        await receiving.enlarge(needed)
        self._wants_memory = False
        self.go_on()

    def _leave(self) -> None:
        """No more requests: answer those that there are, then close."""
        self._pause()
        if not self._closed and not self._leaving:
            self._leaving = True
            self._spawn(self._close())

    async def _close(self) -> None:
        if self._executor is not None:
            await self._executor.finished()
        await self._end_wire(_CLOSE_SECONDS)

    async def _end_wire(self, seconds: float) -> None:
        """Close when the client has taken its answers, or when the time is over."""
        try:
            await within(self._around.host.clock, seconds, self._wire.drain_and_close())
        except (TimeoutError, OSError):
            self._wire.abort()

    # --- the executor's port -----------------------------------------------------------------------------

    def send(self, buffers: list[memoryview]) -> None:
        if self._closed:
            return
        for buffer in buffers:
            self._sent_bytes += len(buffer)
        self._wire.send(buffers)
        if self._wire.backlog or self._account.held_bytes:
            self._count_backlog()

    def _count_backlog(self) -> None:
        """Charge what the client does not take; a little, below any wire's low-water mark, is free."""
        backlog = self._wire.backlog
        self._account.note_backlog(backlog if backlog > _CLOGGED_BYTES_MIN else 0)

    @property
    def backlog(self) -> int:
        return self._wire.backlog

    @property
    def blocked_bytes(self) -> int:
        backlog = self._wire.backlog
        return backlog if backlog > _CLOGGED_BYTES_MIN else 0

    @property
    def clogged(self) -> bool:
        backlog = self._wire.backlog
        return backlog > _CLOGGED_BYTES_MIN and (
            backlog > self._limits.backlog_bytes_max or self._account.exhausted
        )

    def go_on(self) -> None:
        """Look whether reading can go on, and what is already here."""
        executor = self._executor
        if executor is not None and executor.leaving:
            self._leave()
        if self._closed or self._leaving or not self._paused or executor is None:
            return
        if self._wants_memory or self.clogged:
            return
        executor.take_rest()
        if executor.held or self.clogged:
            return
        self._paused = False
        self._work()
        if not self._paused:
            self._wire.resume()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._wire.pause()

    # --- what it holds of the budget -----------------------------------------------------------------------

    def reclaim(self) -> None:
        """See ``budget.Holder``. What a held batch still needs stays."""
        if self._receiving is not None and self._executor is not None and not self._executor.held:
            self._receiving.reclaim()

    @property
    def stalled_bytes(self) -> int:
        """See ``budget.Holder``: while we do not read, half a request is not the client's fault."""
        partial = 0 if self._paused or self._receiving is None else self._receiving.partial_bytes
        return self._account.backlog_bytes + partial

    @property
    def moved_bytes(self) -> int:
        """See ``budget.Holder``."""
        return self._received_bytes + self._sent_bytes - self._wire.backlog

    def evict(self, held_bytes: int) -> None:
        """See ``budget.Holder``."""
        cause = f"it sends or reads too slowly, and others wait for the {held_bytes >> 20} MiB that it holds"
        self._around.refusals.note("stalled", self._wire.peer.address, cause)
        self._wire.abort()
        self.closed(None)

    @property
    def peak_bytes(self) -> int:
        """The largest receive buffer that it has had."""
        return 0 if self._receiving is None else self._receiving.peak_bytes

    def give_way(self) -> None:
        """End a connection that has no export, for another one."""
        self._around.refusals.note("stranger", self._wire.peer.address, "it said nothing, and others came")
        self._wire.abort()
        self.closed(None)

    # --- the server's requests ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Let what has arrived take effect now: data, and the end of a connection that is dead."""
        if not self._closed:
            self._wire.poll()

    async def stop(self, grace_seconds: float, hopeless: Callable[[], bool] = lambda: False) -> None:
        """Finish what is in flight, or fail it when the time is over, or soon if it is ``hopeless``: what it waits
        for will not come. Then close."""
        executor = self._executor
        if executor is None:
            self._wire.abort()
            return
        executor.stopping = True
        clock, began = self._around.host.clock, self._around.host.clock.monotonic_ns()
        while True:
            try:
                await within(clock, min(_HOPELESS_SECONDS, grace_seconds), executor.finished())
                break
            except TimeoutError:
                over = (clock.monotonic_ns() - began) / 1e9 >= grace_seconds
                if over or hopeless():
                    _log.warning("nbd requests did not finish in time", in_flight=executor.in_flight)
                    break
        executor.give_up()
        self._leaving = True
        await self._end_wire(max(grace_seconds, 1.0))
