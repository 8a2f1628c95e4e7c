"""Ends connections whose clients hold memory that others wait for.

A client that has sent half of a large write, or does not read its answers, holds part of the budget for as long
as it likes. That harms nobody while there is enough; so it is looked at only while somebody waits. Then a
client that holds memory up has to move ``BYTES_PER_S_MIN`` on average; one that has moved less for
``limits.stall_seconds`` is disconnected, the one that holds most first, until nobody waits any more.

So a request of the largest size waits for room at most so long as slow but moving clients may need for what they
hold (64 MiB at that rate), and no longer than the stall and a second if they do not move. Who holds nothing, and
who waits for this server itself (its disk, its mirrors), is never ended.
"""

from __future__ import annotations

import asyncio
from typing import Final

from revolume.host.clock import Clock
from revolume.nbd.bounds.budget import Account, Budget

BYTES_PER_S_MIN: Final = 1 << 20
_STEP_S: Final = 0.5


class Stalls:
    """Watches over a budget, from the moment at which somebody begins to wait until nobody does."""

    def __init__(self, clock: Clock, budget: Budget, stall_seconds: float) -> None:
        self._clock = clock
        self._budget = budget
        self._stall_ns = int(stall_seconds * 1e9)
        self._marks: dict[Account, tuple[int, int]] = {}  # since when, and the bytes moved until then
        self._task: asyncio.Task[None] | None = None
        budget.wanted = self._begin

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        try:
            while self._budget.waiting:
                self._look()
                await self._clock.sleep(_STEP_S)
        finally:
            self._task = None
            self._marks.clear()

    def _look(self) -> None:
        now = self._clock.monotonic_ns()
        late = [account for account in list(self._budget.accounts) if self._is_late(account, now)]
        for account in sorted(late, key=_stalled, reverse=True):
            if not self._budget.waiting:
                return
            if account.holder is not None:
                account.holder.evict(account.held_bytes + account.kept_bytes)

    def _is_late(self, account: Account, now: int) -> bool:
        if not _stalled(account):
            self._marks.pop(account, None)
            return False
        assert account.holder is not None
        moved = account.holder.moved_bytes
        since, before = self._marks.setdefault(account, (now, moved))
        if now - since < self._stall_ns:
            return False
        if (moved - before) * 1_000_000_000 >= BYTES_PER_S_MIN * (now - since):
            self._marks[account] = (now, moved)
            return False
        return True

    def stop(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()


def _stalled(account: Account) -> int:
    return account.holder.stalled_bytes if account.holder is not None else 0
