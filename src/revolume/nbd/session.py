"""One connection, from its greeting to its end.

    accepted -> options (``handshake.py``) -> [TLS -> options] -> transmission (``executor.py``) -> closed

The session is the wire's receiver and the executor's port; it owns no algorithm. In the option phase a
task drives the handshake, because opening an export may take time. In the transmission phase everything
happens in ``received``: what came is parsed, executed and answered before it returns.

The session stops reading (``_pause``) while the executor is held, while the client does not take its
answers, and while a large request waits for memory. ``go_on`` is called after anything that may end such
a state and looks anew at all of them.

Atomic between awaits: one wake-up; the answer to GO together with the fence before it (``settle`` of all
other sessions), so that nothing an older connection had sent takes effect after a newer one was let in.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from revolume.errors import NotFound, Refused, RevolumeError, UsageError
from revolume.host import Host
from revolume.host.network import Peer, Wire
from revolume.nbd.budget import Account, Budget
from revolume.nbd.constants import (
    BLOCK_SIZE_MIN,
    BLOCK_SIZE_PREFERRED,
    Errno,
    Reply,
    TransmissionFlag,
)
from revolume.nbd.errors import ExportError, ProtocolError, sentence
from revolume.nbd.executor import Executor
from revolume.nbd.handshake import (
    Dialect,
    Event,
    Handshake,
    Leave,
    StartTls,
    State,
    Tls,
    WantContexts,
    WantExport,
    WantList,
)
from revolume.nbd.inbox import Inbox
from revolume.nbd.limits import Limits
from revolume.nbd.options import ExportFacts
from revolume.nbd.replies import encoder
from revolume.nbd.transmission import BATCH_REQUESTS_MAX, CompactParser, ExtendedParser, Parser

if TYPE_CHECKING:
    from revolume.nbd.export import Export, Exports

_CLOGGED_BYTES_MIN: Final = 512 << 10  # above every wire's low-water mark, so that ``writable`` will come
_UNREAD_OPTIONS_MAX: Final = 128 << 10

_CLOSE_SECONDS: Final = 10.0  # how long a client may take to read its last answers
_ALL_NAMESPACES: Final = ("base:", "qemu:")

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
    context: ssl.SSLContext | None
    tls: Tls
    fence: Callable[[Session], None]  # settle all other sessions
    ended: Callable[[Session], None]


class Session:
    """One connection; the wire's receiver and the executor's port."""

    def __init__(self, wire: Wire, around: Surroundings) -> None:
        self._wire = wire
        self._around = around
        self._limits = around.limits
        self._account = Account(around.budget, around.limits.connection_bytes)
        self._inbox = Inbox(around.limits.buffer_bytes)
        self._handshake = Handshake(around.tls, around.limits.options)
        self._parser: Parser | None = None
        self._executor: Executor | None = None
        self._more = asyncio.Event()  # option bytes have come
        self._sendable = asyncio.Event()
        self._paused = False
        self._wants_memory = False
        self._closed = False
        self._leaving = False  # no more requests are looked at
        self._answering_ns = 0  # time that the client does not have to answer for
        self._tasks: set[asyncio.Task[None]] = set()
        self._received_bytes = 0
        self._sent_bytes = 0

    def start(self) -> None:
        """Greet and listen."""
        self._wire.start(self)
        self._spawn(self._negotiate())
        self._spawn(self._watch_handshake())

    def _spawn(self, job: Awaitable[None]) -> None:
        async def run() -> None:
            await job

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        return self._inbox.tail()

    def received(self, n: int) -> None:
        self._received_bytes += n
        if self._executor is None:
            self._receive_options(n)
        else:
            self._inbox.end += n
            self._work()

    def writable(self) -> None:
        self._count_backlog()
        self._sendable.set()
        self.go_on()

    def closed(self, error: Exception | None) -> None:
        """The end, however it came. What was received and not begun is not begun any more."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._executor is not None:
            self._executor.abandon()
            self._executor.export.close()
        self._account.close()
        self._around.ended(self)

    # --- the option phase --------------------------------------------------------------------------------

    def _receive_options(self, n: int) -> None:
        at = self._inbox.end
        self._handshake.receive(self._inbox.view[at : at + n])
        self._more.set()
        if self._handshake.unread_bytes > _UNREAD_OPTIONS_MAX:
            self._pause()

    async def _negotiate(self) -> None:
        """Answer options until an export is open or the connection is at its end."""
        try:
            while self._handshake.state is not State.TRANSMISSION:
                event = self._handshake.next_event()
                if isinstance(event, StartTls):
                    await self._secure()
                    continue
                self._send_options()
                if event is None:
                    await self._wait_for_options()
                elif isinstance(event, Leave) or not await self._answer_event(event):
                    return await self._close()
        except (ProtocolError, OSError) as error:
            _log.info("nbd connection refused", peer=self._wire.peer.address, cause=sentence(error))
            await self._close()
        except Exception:
            _log.exception("nbd handshake failed", peer=self._wire.peer.address)
            self._wire.abort()
        return None

    async def _wait_for_options(self) -> None:
        self._more.clear()
        if self._paused:
            self._resume()
        await self._more.wait()

    def _send_options(self) -> None:
        answers = self._handshake.take_answers()
        if answers:
            self.send([memoryview(answers)])

    async def _secure(self) -> None:
        """STARTTLS. Nothing is received from before the ACK goes out until the state is wiped."""
        assert self._around.context is not None
        self._pause()
        self._send_options()
        await self._wire.start_tls(self._around.context)
        self._handshake.tls_started()
        self._resume()

    async def _answer_event(self, event: Event) -> bool:
        """Answer what the handshake cannot answer by itself; False ends the connection."""
        clock = self._around.host.clock
        began = clock.monotonic_ns()
        try:
            if isinstance(event, WantList):
                self._handshake.answer_list(self._around.exports.names()[: self._limits.exports_listed_max])
            elif isinstance(event, WantContexts):
                await self._answer_contexts(event)
            elif isinstance(event, WantExport):
                await self._answer_export(event)
        except RevolumeError as error:
            return self._handshake.refuse(_refusal(error), sentence(error)) is None
        finally:
            self._answering_ns += clock.monotonic_ns() - began
        return True

    async def _answer_contexts(self, event: WantContexts) -> None:
        exports = self._around.exports
        export = await exports.open(event.name, self._wire.peer)
        try:
            queries = event.queries or (() if event.select else _ALL_NAMESPACES)
            names: list[str] = []
            for query in queries:
                if not (event.select and query.endswith(":")):
                    names += await exports.contexts(export, query)
        finally:
            export.close()
        self._handshake.answer_contexts(names)

    async def _answer_export(self, event: WantExport) -> None:
        export = await self._around.exports.open(event.name, self._wire.peer)
        try:
            facts = self._facts(export)
        except BaseException:
            export.close()
            raise
        if not event.keep:
            export.close()
            self._handshake.accept_export(facts)
            return
        self._around.fence(self)
        self._handshake.accept_export(facts)
        self._begin_transmission(export)

    def _facts(self, export: Export) -> ExportFacts:
        chunked = self._handshake.dialect is not Dialect.SIMPLE
        return ExportFacts(
            name=export.name,
            description=export.description,
            size=export.size,
            flags=transmission_flags(export, chunked),
            block_size_min=BLOCK_SIZE_MIN,
            block_size_preferred=BLOCK_SIZE_PREFERRED,
            payload_bytes_max=self._limits.payload_bytes_max,
        )

    def _begin_transmission(self, export: Export) -> None:
        handshake, limits = self._handshake, self._limits
        extended = handshake.dialect is Dialect.EXTENDED
        self._parser = (ExtendedParser if extended else CompactParser)(limits.payload_bytes_max)
        self._executor = Executor(
            export, encoder(handshake.dialect), handshake.contexts, limits, self._account, self
        )
        self._send_options()
        self._inbox.put(handshake.take_rest())
        self._work()
        if self._paused:
            self.go_on()

    async def _watch_handshake(self) -> None:
        """A client that does not come to the point is not kept; the time we needed ourselves is not its."""
        clock = self._around.host.clock
        began = clock.monotonic_ns()
        allowed = int(self._limits.handshake_seconds * 1e9)
        while self._executor is None:
            left = began + allowed + self._answering_ns - clock.monotonic_ns()
            if self._handshake.state is State.ANSWERING:
                left = max(left, 100_000_000)
            if left <= 0:
                _log.info("nbd handshake took too long", peer=self._wire.peer.address)
                self._wire.abort()
                return
            await clock.sleep(left / 1e9)

    # --- the transmission phase --------------------------------------------------------------------------

    def _work(self) -> None:
        """Parse, execute and answer what has been received."""
        executor, parser, inbox = self._executor, self._parser, self._inbox
        assert executor is not None
        assert parser is not None
        while True:
            requests = parser.parse(inbox.buffer, inbox.start, inbox.end)
            inbox.start += parser.consumed
            if requests:
                executor.execute(requests, inbox.view)
            if self._closed or executor.leaving or parser.broken:
                return self._leave()
            if executor.held or self.clogged:
                return self._pause()
            if len(requests) < BATCH_REQUESTS_MAX:
                break
        inbox.needed = parser.needed
        if parser.needed > inbox.size or inbox.oversize:
            self._fit_inbox(parser.needed)
        return None

    def _fit_inbox(self, needed: int) -> None:
        """A larger buffer for a larger request, and back."""
        inbox = self._inbox
        if needed > inbox.size:
            self._pause()
            self._wants_memory = True
            self._spawn(self._enlarge_inbox(needed))
        elif inbox.oversize and needed <= inbox.size - inbox.oversize:
            oversize = inbox.oversize
            inbox.shrink()
            self._account.give(oversize - inbox.oversize)

    async def _enlarge_inbox(self, needed: int) -> None:
        had = self._inbox.oversize
        await self._account.take(needed - self._inbox.size)
        self._inbox.grow(needed)
        assert self._inbox.oversize > had
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
        self._send_options()
        await self._end_wire(_CLOSE_SECONDS)

    async def _end_wire(self, seconds: float) -> None:
        """Close when the client has taken its answers, or when the time is over."""
        try:
            await _within(self._around.host, seconds, self._wire.drain_and_close())
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
    def clogged(self) -> bool:
        backlog = self._wire.backlog
        return backlog > _CLOGGED_BYTES_MIN and (
            backlog > self._limits.backlog_bytes_max or self._account.exhausted
        )

    async def drained(self) -> None:
        while self.clogged and not self._closed:
            self._sendable.clear()
            await self._sendable.wait()

    def go_on(self) -> None:
        """Look whether reading can go on, and what is already here."""
        executor = self._executor
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

    def _resume(self) -> None:
        self._paused = False
        self._wire.resume()

    # --- the server's requests ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Let what has arrived take effect now: data, and the end of a connection that is dead."""
        if not self._closed:
            self._wire.poll()

    async def stop(self, grace_seconds: float) -> None:
        """Finish what is in flight, or fail it when the time is over; then close."""
        executor = self._executor
        if executor is None:
            self._wire.abort()
            return
        executor.stopping = True
        try:
            await _within(self._around.host, grace_seconds, executor.finished())
        except TimeoutError:
            executor.give_up()
        self._leaving = True
        await self._end_wire(max(grace_seconds, 1.0))


def transmission_flags(export: Export, chunked: bool) -> int:
    """What the client may do with this export."""
    flags = (
        TransmissionFlag.HAS_FLAGS
        | TransmissionFlag.SEND_FLUSH
        | TransmissionFlag.SEND_FUA
        | TransmissionFlag.SEND_CACHE
    )
    if export.read_only:
        flags |= TransmissionFlag.READ_ONLY
    else:
        flags |= TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES | TransmissionFlag.SEND_FAST_ZERO
    if chunked:
        flags |= TransmissionFlag.SEND_DF
    if export.multi_conn:
        flags |= TransmissionFlag.CAN_MULTI_CONN
    return int(flags)


def _refusal(error: RevolumeError) -> Reply:
    """How an export that cannot be had is refused."""
    if isinstance(error, ExportError):
        known = {
            Errno.ESHUTDOWN: Reply.ERR_SHUTDOWN,
            Errno.EPERM: Reply.ERR_POLICY,
            Errno.EINVAL: Reply.ERR_INVALID,
        }
        return known.get(error.errno, Reply.ERR_UNKNOWN)
    if isinstance(error, Refused):
        return Reply.ERR_POLICY
    if isinstance(error, UsageError | NotFound):
        return Reply.ERR_UNKNOWN
    return Reply.ERR_PLATFORM


async def _within(host: Host, seconds: float, job: Awaitable[None]) -> None:
    """``job``, or TimeoutError; by the host's clock."""
    work = asyncio.ensure_future(job)
    bell = asyncio.ensure_future(host.clock.sleep(seconds))
    try:
        await asyncio.wait({work, bell}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise TimeoutError
        work.result()
    finally:
        bell.cancel()
        work.cancel()
