"""Bytes in flight: one budget for all connections of a server, an account for each connection.

Whoever needs memory on a client's word takes it here first and waits if there is none; the connection
stops reading its socket meanwhile. The queue is first come, first served, so that a large request is not
starved by small ones. A waiting taker holds nothing that another waits for: a request takes all it needs
at once.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """So many bytes, shared."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._queue: deque[tuple[Account, int, asyncio.Future[None]]] = deque()

    @property
    def exhausted(self) -> bool:
        """Nothing is left, or others wait already."""
        return self.used_bytes >= self.limit_bytes or bool(self._queue)

    def _admits(self, account: Account, count: int) -> bool:
        return self.used_bytes + count <= self.limit_bytes and account.held_bytes + count <= account.limit_bytes

    def _serve(self) -> None:
        """Admit who fits, oldest first. One at its own connection's limit does not hold up the others."""
        for entry in list(self._queue):
            account, count, future = entry
            if future.done():
                self._queue.remove(entry)
            elif self._admits(account, count):
                self._queue.remove(entry)
                account._hold(count)
                future.set_result(None)
            elif account.held_bytes + count <= account.limit_bytes:
                return


class Account:
    """One connection's part of a budget."""

    def __init__(self, budget: Budget, limit_bytes: int) -> None:
        self._budget = budget
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._backlog = 0
        self._closed = False

    def try_take(self, count: int) -> bool:
        """Take ``count`` bytes if they are to be had at once."""
        if self._budget._queue or not self._budget._admits(self, count):
            return False
        self._hold(count)
        return True

    async def take(self, count: int) -> None:
        """Take ``count`` bytes, waiting for them. Cancelling gives up the place in the queue."""
        if self.try_take(count):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._budget._queue.append((self, count, future))
        self._budget._serve()  # those before it may wait for their own connections only
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(count)
            self._budget._serve()
            raise

    def give(self, count: int) -> None:
        """Give back what was taken."""
        if self._closed:
            return
        self._hold(-count)
        self._budget._serve()

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
        self.give(self.held_bytes)
        self._closed = True

    @property
    def exhausted(self) -> bool:
        """No more should be begun."""
        return self._budget.exhausted or self.held_bytes >= self.limit_bytes

    def _hold(self, count: int) -> None:
        self.held_bytes += count
        self._budget.used_bytes += count
        assert self.held_bytes >= 0
