"""One connection's receive buffer, within the budget.

    base      ``base_bytes``, as every connection has it
    grown     ``grown_bytes``: after a receive that filled the buffer, for as long as nobody needs the memory
    enlarged  for one larger request; what it has beyond the base is taken from the budget, and waited for

After its request an enlarged buffer is only *kept*: a stream of large writes uses the same memory again and
again, and whoever would have to wait for memory gets it (``reclaim``).

What would break it: waiting for memory while holding some that others wait for. So a buffer beyond the grown
size takes bytes of its request only, or few, and is given back before a larger one is waited for.
"""

from __future__ import annotations

from revolume.host.receive_buffer import Inbox
from revolume.nbd.bounds.budget import Account


class Receiving:
    """The receive buffer of one connection, whose memory beyond the base is charged to ``account``."""

    def __init__(self, base_bytes: int, grown_bytes: int, account: Account) -> None:
        self._base_bytes = min(base_bytes, grown_bytes)
        self._grown_bytes = grown_bytes
        self._account = account
        self._taken = 0  # of what goes beyond the base: held in the account
        self._kept = 0  # or only kept there
        self.inbox = Inbox(self._base_bytes)
        self.peak_bytes = self._base_bytes

    def buffer(self) -> memoryview:
        """Where to receive."""
        inbox = self.inbox
        tail = inbox.tail()
        if len(inbox.buffer) <= self._grown_bytes:
            return tail
        return tail[: inbox.start + (inbox.needed or self._grown_bytes) - inbox.end]

    @property
    def partial_bytes(self) -> int:
        """What the client holds up: the enlargement of a buffer in which half a request lies."""
        return self._taken + self._kept if self.inbox.start != self.inbox.end else 0

    def prepare(self, needed: int) -> bool:
        """All that is whole has been executed; ``needed`` bytes make the next request whole, as far as is known.
        False: the buffer must be enlarged for it first."""
        inbox = self.inbox
        inbox.needed = needed
        if needed > len(inbox.buffer):
            return needed <= self._grown_bytes and self._grow()
        if self._taken and needed <= self._base_bytes:
            self._keep_or_shrink()
        elif inbox.full and len(inbox.buffer) < self._grown_bytes:
            self._grow()
        return True

    def _grow(self) -> bool:
        more = self._grown_bytes - self._base_bytes - self._kept
        if not self._account.try_keep(more):
            return False
        self._kept += more
        try:
            self._resize(self._grown_bytes)
        except MemoryError:
            self._unkeep(more)
            return False
        return True

    def _resize(self, size: int) -> None:
        self.inbox.resize(size)
        self.peak_bytes = max(self.peak_bytes, size)

    async def enlarge(self, needed: int) -> None:
        """Wait for the memory that one large request needs. MemoryError: the machine has not got it."""
        beyond = self._kept - (self._grown_bytes - self._base_bytes)
        if beyond > 0:
            self._resize(self._grown_bytes)
            self._unkeep(beyond)
        more = needed - self._base_bytes
        await self._account.take(more)
        self._taken = more
        self._resize(needed)
        self._unkeep(self._kept)

    def _keep_or_shrink(self) -> None:
        """The large request is over."""
        taken, self._taken = self._taken, 0
        self._account.give(taken)
        if self._account.try_keep(taken):
            self._kept = taken
        else:
            self._resize(self._base_bytes)

    def _unkeep(self, count: int) -> None:
        self._kept -= count
        self._account.unkeep(count)

    def reclaim(self) -> None:
        """Others need memory: give back what no request lies in."""
        if self._kept and self.inbox.start == self.inbox.end:
            self._resize(self._base_bytes)
            self._unkeep(self._kept)

    def close(self) -> None:
        """The connection is over. (Its account gives back all that it held.)"""
        self.inbox.close()
