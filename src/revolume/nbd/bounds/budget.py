"""Bytes in flight: one budget for all connections of a server, an account for each connection.

Whoever needs memory on a client's word takes it here first and waits if there is none; the connection
stops reading its socket meanwhile. A waiting taker holds nothing that another waits for: a request takes
all it needs at once.

Fair shares. Of those who wait, the account that holds least is served first, the older request of two
equal ones; while it does not fit nobody overtakes it, so a large request is not starved by small ones. The
last ``first_bytes`` of the budget are for accounts that hold nothing: many requests of a few connections
cannot use up what the first request of the next one needs.

Memory that is *kept* (a large receive buffer between two requests) is part of the limit too, but it is given
back as soon as anybody would have to wait. What a client itself holds up, a request that it has half sent or
answers that it does not read, cannot be given back: ``stalls.py`` ends such a connection when others wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Holder(Protocol):
    """The connection behind an account."""

    def reclaim(self) -> None:
        """Give back what is only kept, if that can be done now."""

    @property
    def stalled_bytes(self) -> int:
        """Of what it holds, the bytes that are given back when its *client* sends or reads something."""

    @property
    def moved_bytes(self) -> int:
        """Bytes that came from the client or were taken by it, so far."""

    def evict(self, held_bytes: int) -> None:
        """End the connection, for the sake of the others."""


Entry = tuple["Account", int, "asyncio.Future[None]"]


class Budget:
    """``limit_bytes``, shared by accounts. ``wanted`` is called when an account begins to wait."""

    def __init__(self, limit_bytes: int, first_bytes: int = 0) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.kept_bytes = 0
        self.accounts: dict[Account, None] = {}
        self.wanted: Callable[[], None] = _nothing
        self._first_bytes = first_bytes
        self._queue: list[Entry] = []

    @property
    def waiting(self) -> bool:
        """Whether an account waits for bytes."""
        return bool(self._queue)

    @property
    def exhausted(self) -> bool:
        """Nothing is left, or others wait already."""
        return self.used_bytes >= self.limit_bytes or bool(self._queue)

    def _fits(self, account: Account, count: int) -> bool:
        limit = self.limit_bytes - (self._first_bytes if account.held_bytes else 0)
        if self.used_bytes + count > limit:
            return False
        if self.used_bytes + self.kept_bytes + count > self.limit_bytes:
            self._reclaim()
        return self.used_bytes + self.kept_bytes + count <= self.limit_bytes

    def _reclaim(self) -> None:
        for account in [account for account in self.accounts if account.kept_bytes]:
            if account.holder is not None:
                account.holder.reclaim()

    def _serve(self) -> None:
        """Grant what fits, to the account that holds least first. One at its own limit delays no other."""
        for entry in sorted(self._queue, key=_held):
            account, count, future = entry
            if future.done():
                self._queue.remove(entry)
            elif account.held_bytes + count > account.limit_bytes:
                continue
            elif self._fits(account, count):
                self._queue.remove(entry)
                account._hold(count)
                future.set_result(None)
            else:
                return


def _held(entry: Entry) -> int:
    return entry[0].held_bytes


def _nothing() -> None: ...


class Account:
    """One connection's part of a budget."""

    def __init__(self, budget: Budget, limit_bytes: int, holder: Holder | None = None) -> None:
        self._budget = budget
        self.limit_bytes = limit_bytes
        self.holder = holder
        self.held_bytes = 0
        self.kept_bytes = 0
        self._backlog = 0
        self._closed = False
        budget.accounts[self] = None

    @property
    def backlog_bytes(self) -> int:
        """Unsent answers, as last noted."""
        return self._backlog

    def try_take(self, count: int) -> bool:
        """Take ``count`` bytes if they are to be had at once."""
        budget = self._budget
        if budget._queue or self.held_bytes + count > self.limit_bytes or not budget._fits(self, count):
            return False
        self._hold(count)
        return True

    async def take(self, count: int) -> None:
        """Take ``count`` bytes, waiting for them. Cancelling gives up the place in the queue."""
        if self.try_take(count):
            return
        budget = self._budget
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        budget._queue.append((self, count, future))
        budget._serve()  # those before it may wait for their own connections only
        if not future.done():
            budget.wanted()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(count)
            budget._serve()
            raise

    def give(self, count: int) -> None:
        """Give back what was taken."""
        if self._closed:
            return
        self._hold(-count)
        self._budget._serve()

    def try_keep(self, count: int) -> bool:
        """Keep ``count`` bytes more for speed, if no account needs them."""
        budget = self._budget
        free = budget.limit_bytes - budget._first_bytes - budget.used_bytes - budget.kept_bytes
        if self._closed or budget._queue or count > free:
            return False
        self._keep(count)
        return True

    def unkeep(self, count: int) -> None:
        """Free ``count`` bytes that were kept. Accounts that wait are served by the caller."""
        if not self._closed:
            self._keep(-count)

    def note_backlog(self, count: int) -> None:
        """The unsent answers are now ``count`` bytes: counted, though nobody can be asked beforehand."""
        change = count - self._backlog
        if change and not self._closed:
            self._backlog = count
            self._hold(change)
            if change < 0:
                self._budget._serve()

    def close(self) -> None:
        """The connection is gone, and all that it held."""
        if self._closed:
            return
        self._keep(-self.kept_bytes)
        self._hold(-self.held_bytes)
        self._backlog = 0
        self._closed = True
        self.holder = None
        self._budget.accounts.pop(self, None)
        self._budget._serve()

    @property
    def exhausted(self) -> bool:
        """No more should be begun."""
        return self._budget.exhausted or self.held_bytes >= self.limit_bytes

    def _hold(self, count: int) -> None:
        self.held_bytes += count
        self._budget.used_bytes += count
        assert self.held_bytes >= 0

    def _keep(self, count: int) -> None:
        self.kept_bytes += count
        self._budget.kept_bytes += count
        assert self.kept_bytes >= 0
