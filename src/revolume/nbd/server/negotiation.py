"""The option phase of one connection: answers the events of the handshake machine.

The machine (``handshake.py``) knows the protocol; here are the exports, the clock and the encryption. A
task drives it, because opening an export may take time; it ends with an export that was opened for
transmission, or with none.

The answer that opens an export, and settling all other sessions before it (so that nothing that an older
connection had sent takes effect later), happen without an await between them, and so does all that
the session does until the first request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from revolume.errors import GaveWay, NotFound, Refused, RevolumeError, UsageError
from revolume.host.clock import Clock
from revolume.host.network import Wire
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.bounds.refusals import Refusals
from revolume.nbd.server.handshake import Handshake, State
from revolume.nbd.server.handshake_events import Event, Leave, StartTls, WantContexts, WantExport, WantList
from revolume.nbd.server.option_handlers import Tls
from revolume.nbd.wire.constants import (
    BLOCK_SIZE_MIN,
    BLOCK_SIZE_PREFERRED,
    Dialect,
    Errno,
    Reply,
    TransmissionFlag,
)
from revolume.nbd.wire.errors import ExportError, ProtocolError, sentence
from revolume.nbd.wire.options import ExportFacts

if TYPE_CHECKING:
    from revolume.nbd.export import Export, Exports, Seen

_UNREAD_BYTES_MAX: Final = 128 << 10
_BACKLOG_BYTES_MAX: Final = 512 << 10  # above every wire's low-water mark, so that we are told when it is gone
_ALL_NAMESPACES: Final = ("base:", "qemu:")
_PATIENCE_NS: Final = 100_000_000  # how often to look whether an answer of ours is ready


@dataclass(frozen=True, slots=True)
class OpenedExport:
    """What the option phase ends with. ``first_requests``: the bytes that came behind it already."""

    export: Export
    dialect: Dialect
    contexts: tuple[str, ...]
    first_requests: bytes


class _ServerFull(Exception):
    """There is no place for another client."""


class Negotiation:
    """Drives one handshake.

    ``settle_others`` is called right before an export is handed over; ``admit`` says then whether there is a place
    for one more client; ``secure`` encrypts the wire.
    """

    def __init__(
        self,
        wire: Wire,
        clock: Clock,
        exports: Exports,
        limits: Limits,
        tls: Tls,
        secure: Callable[[], Awaitable[None]],
        settle_others: Callable[[], None],
        admit: Callable[[], bool],
        refusals: Refusals,
    ) -> None:
        self._wire = wire
        self._clock = clock
        self._exports = exports
        self._limits = limits
        self._secure_wire = secure
        self._settle_others = settle_others
        self._admit = admit
        self._refusals = refusals
        self._handshake = Handshake(tls, limits.options)
        self._more = asyncio.Event()
        self._taken = asyncio.Event()
        self._paused = False
        self._answering_ns = 0  # time that the client does not have to answer for
        self._opened: Export | None = None

    def receive(self, data: memoryview) -> None:
        """Bytes from the client."""
        self._handshake.receive(data)
        self._more.set()
        if self._handshake.unread_bytes > _UNREAD_BYTES_MAX:
            self._pause()

    def note_writable(self) -> None:
        """The client has taken answers."""
        self._taken.set()

    async def run(self) -> OpenedExport | None:
        """Answer options until an export is open (the wire is listening then), or until the end."""
        handshake = self._handshake
        try:
            while self._opened is None:
                event = handshake.next_event()
                if isinstance(event, StartTls):
                    await self._secure()
                    continue
                await self._send_and_wait()
                if event is None:
                    await self._wait_for_more()
                elif isinstance(event, Leave) or not await self._answer(event):
                    return None
        except _ServerFull:  # without an answer, which a client could take for a final one
            self._refusals.note("limit", self._wire.peer.address, "there are as many clients as may be")
            return None
        except (ProtocolError, OSError) as error:
            kind = "protocol" if isinstance(error, ProtocolError) else "connection"
            self._refusals.note(kind, self._wire.peer.address, sentence(error))
            return None
        finally:
            self._send_answers()
        self._resume()
        agreed = handshake.agreed
        return OpenedExport(self._opened, agreed.dialect, agreed.contexts, handshake.take_first_requests())

    async def watch(self) -> None:
        """End a client whose option phase takes too long. The time in which this server answers does not count."""
        began = self._clock.monotonic_ns()
        allowed = int(self._limits.handshake_seconds * 1e9)
        while self._opened is None:
            earned = int(self._handshake.count * self._limits.option_seconds * 1e9)
            left = began + allowed + earned + self._answering_ns - self._clock.monotonic_ns()
            if self._handshake.state is State.ANSWERING:
                left = max(left, _PATIENCE_NS)
            if left <= 0:
                self._refusals.note("too-slow", self._wire.peer.address, "its handshake took too long")
                self._wire.abort()
                return
            await self._clock.sleep(left / 1e9)

    # --- the wire ----------------------------------------------------------------------------------------

    async def _wait_for_more(self) -> None:
        self._more.clear()
        self._resume()
        await self._more.wait()

    def _send_answers(self) -> None:
        answers = self._handshake.take_answers()
        if answers:
            self._wire.send([answers])

    async def _send_and_wait(self) -> None:
        """No more options are looked at while their answers are not taken."""
        self._send_answers()
        while self._wire.backlog > _BACKLOG_BYTES_MAX:
            self._taken.clear()
            await self._taken.wait()

    async def _secure(self) -> None:
        """STARTTLS. Nothing is received from before the ACK goes out until the state is wiped."""
        self._pause()
        self._send_answers()
        await self._secure_wire()
        self._handshake.tls_started()
        self._resume()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._wire.pause()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._wire.resume()

    # --- answers -----------------------------------------------------------------------------------------

    async def _answer(self, event: Event) -> bool:
        """Answer what the handshake cannot answer by itself; False ends the connection."""
        began = self._clock.monotonic_ns()
        try:
            if isinstance(event, WantList):
                self._handshake.answer_list(self._exports.names(), self._limits.exports_listed_max)
            elif isinstance(event, WantContexts):
                await self._answer_contexts(event)
            elif isinstance(event, WantExport):
                await self._answer_export(event)
        except RevolumeError as error:
            self._refusals.note("export", self._wire.peer.address, f"{_name(event)[:80]!a}: {error.cause}")
            return self._handshake.refuse(_refusal(error), sentence(error)) is None
        finally:
            self._answering_ns += self._clock.monotonic_ns() - began
        return True

    async def _answer_contexts(self, event: WantContexts) -> None:
        export = await self._exports.look(event.name, self._wire.peer)
        try:
            queries = event.queries or (() if event.select else _ALL_NAMESPACES)
            names: list[str] = []
            for query in queries:
                if not (event.select and query.endswith(":")):
                    names += await self._exports.contexts(export, query)
        finally:
            export.close()
        self._handshake.answer_contexts(names)

    async def _answer_export(self, event: WantExport) -> None:
        self._settle_others()  # a DISC that has arrived elsewhere ends what it ends before this opens it again
        if not event.keep:
            seen = await self._exports.look(event.name, self._wire.peer)
            self._handshake.accept_export(self._facts(seen))
            return
        export = await self._exports.open(event.name, self._wire.peer)
        facts = self._facts(export, keep=True)
        self._settle_others()
        if not self._admit():
            export.close()
            raise _ServerFull
        self._opened = export
        self._handshake.accept_export(facts)

    def _facts(self, export: Seen, *, keep: bool = False) -> ExportFacts:
        try:
            return export_facts(export, self._handshake.agreed.dialect, self._limits.payload_bytes_max)
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                export.close()


def _name(event: Event) -> str:
    return event.name if isinstance(event, WantContexts | WantExport) else ""


def export_facts(export: Seen, dialect: Dialect, payload_bytes_max: int) -> ExportFacts:
    """What a client is told of an export."""
    return ExportFacts(
        name=export.name,
        description=export.description,
        size=export.size,
        flags=transmission_flags(export, dialect is not Dialect.SIMPLE),
        block_size_min=BLOCK_SIZE_MIN,
        block_size_preferred=BLOCK_SIZE_PREFERRED,
        payload_bytes_max=payload_bytes_max,
    )


def transmission_flags(export: Seen, chunked: bool) -> int:
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
    if isinstance(error, GaveWay):
        return Reply.ERR_SHUTDOWN
    if isinstance(error, Refused):
        return Reply.ERR_POLICY
    if isinstance(error, UsageError | NotFound):
        return Reply.ERR_UNKNOWN
    return Reply.ERR_PLATFORM
