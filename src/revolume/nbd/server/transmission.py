"""The transmission phase of one connection: what was received is parsed, executed and answered.

All of that happens in ``work``, before it returns. Reading pauses while the executor is blocked, while the client
does not take its replies, and while a large request waits for memory. ``go_on`` is called after anything that may
end such a state and looks anew at all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from revolume.host.network import Wire
from revolume.nbd.bounds.budget import Account
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.bounds.unanswered import Tally
from revolume.nbd.server.executor import Executor
from revolume.nbd.server.outlet import Outlet
from revolume.nbd.server.reads import Scratch
from revolume.nbd.server.receive_buffer import Receiving
from revolume.nbd.wire.constants import Dialect
from revolume.nbd.wire.replies import encoder
from revolume.nbd.wire.requests import BATCH_REQUESTS_MAX, CompactParser, ExtendedParser, Parser

if TYPE_CHECKING:
    from revolume.nbd.server.negotiation import OpenedExport


class Transmission:
    """``spawn`` runs a task of the connection; ``leave`` is called once, when no more requests will be looked at:
    the connection is to be closed once those that were taken are answered."""

    def __init__(
        self,
        wire: Wire,
        opened: OpenedExport,
        limits: Limits,
        *,
        account: Account,
        tally: Tally,
        scratch: Scratch,
        outlet: Outlet,
        spawn: Callable[[Awaitable[None]], None],
        leave: Callable[[], None],
    ) -> None:
        self._wire = wire
        self._outlet = outlet
        self._spawn = spawn
        self._leave_connection = leave
        extended = opened.dialect is Dialect.EXTENDED
        self._parser: Parser = (ExtendedParser if extended else CompactParser)(limits.payload_bytes_max)
        self.executor = Executor(
            opened.export,
            encoder(opened.dialect),
            opened.contexts,
            limits=limits,
            account=account,
            tally=tally,
            scratch=scratch,
            outlet=outlet,
            still_there=wire.poll,
            go_on=self.go_on,
        )
        self.receiving = Receiving(limits.base_bytes, limits.buffer_bytes, account)
        self.paused = False
        self._wants_memory = False
        self._leaving = False  # no more requests are looked at

    def begin(self, first_requests: bytes) -> None:
        """Execute what came behind the option phase."""
        self.receiving.inbox.put(first_requests)
        self.work()

    def work(self) -> None:
        """Parse, execute and answer what lies in ``receiving.inbox``."""
        executor, parser, receiving, outlet = self.executor, self._parser, self.receiving, self._outlet
        inbox = receiving.inbox
        while True:
            requests = parser.parse(inbox.buffer, inbox.start, inbox.end)
            inbox.start += parser.consumed
            if requests:
                executor.execute(requests, inbox.view, parser.consumed)
            if executor.leaving or parser.broken or outlet.closed:
                return self._leave()
            if executor.blocked or outlet.clogged:
                return self._pause()
            if len(requests) < BATCH_REQUESTS_MAX:
                break
        if not receiving.prepare(parser.needed):
            self._pause()
            self._wants_memory = True
            self._spawn(self._enlarge(parser.needed))
        return None

    async def _enlarge(self, needed: int) -> None:
        await self.receiving.enlarge(needed)
        self._wants_memory = False
        self.go_on()

    def go_on(self) -> None:
        """Look whether reading can go on, and at what is already here."""
        if self._outlet.closed:
            return
        executor = self.executor
        if executor.leaving:
            self._leave()
        if self._leaving or not self.paused:
            return
        if self._wants_memory or self._outlet.clogged:
            return
        executor.take_deferred()
        if executor.blocked or self._outlet.clogged:
            return
        self.paused = False
        self.work()
        if not self.paused:
            self._wire.resume()

    def writable(self) -> None:
        """The client has taken replies."""
        self.executor.note_writable()
        self.go_on()

    def _pause(self) -> None:
        if not self.paused:
            self.paused = True
            self._wire.pause()

    def _leave(self) -> None:
        self._pause()
        if not self._outlet.closed and not self._leaving:
            self._leaving = True
            self._leave_connection()

    # --- memory ------------------------------------------------------------------------------------------

    def reclaim(self) -> None:
        """Give back memory that is only kept for speed. What a blocked batch still needs stays."""
        if not self.executor.blocked:
            self.receiving.reclaim()

    @property
    def partial_bytes(self) -> int:
        """Memory that half a request occupies; 0 while reading is paused, since that is not the client's doing."""
        return 0 if self.paused else self.receiving.partial_bytes

    # --- the end -----------------------------------------------------------------------------------------

    def stop_taking(self) -> None:
        """Answer requests from here on with ESHUTDOWN."""
        self.executor.stopping = True

    def give_up(self) -> None:
        """Answer all that still waits with ESHUTDOWN and look at no more requests."""
        self.executor.give_up()
        self._leaving = True

    def close(self) -> None:
        """The connection has ended: what was received and not begun is not begun any more."""
        self.executor.abandon()
        self.executor.export.close(self.executor.leaving)
        self.receiving.close()
