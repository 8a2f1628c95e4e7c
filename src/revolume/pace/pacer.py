"""When bulk may send its next piece, and how large it is to be.

Before each piece a sender waits for its ``turn``, after it says what was ``sent`` and how long that took. The wait
is the longest of these: the window is closed; the rate is used up; clients are there, and the governor gives bulk
a share of the time only. Between two pieces the loop always comes round once: clients wait for one at most.

The loop's lag is watched only while something is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from revolume.host.clock import Clock
from revolume.host.local_time import LocalTime, local_time
from revolume.pace.governor import TICK_NS, Governor
from revolume.pace.limits import BulkLimits

PIECE_BYTES: Final = 1 << 20
"""While nobody else wants the loop."""
PIECE_BYTES_BESIDE: Final = 256 << 10
"""While clients are there."""
FLOOR_BYTES: Final = 16 << 20
"""A second, that the governor leaves in any case."""
SMALL_BYTES: Final = 4 << 20
"""So much of what a sender sends is not slowed down beside clients: it is sooner over than anything is measured,
and a short difference that dawdles may find that the log behind it has gone."""
REST_NS_MIN: Final = 2_000_000
"""Rests shorter than this are put together: timers are no finer."""
CREDIT_NS: Final = 20_000_000
"""Of rests that were longer than they had to be, because the loop came late."""
LOOK_S: Final = 1.0
"""How often a closed window is looked at: clocks are set, and limits are changed."""


class Pacer:
    """``asked``: a number that grows with what clients ask for. ``limits`` may be exchanged at any time."""

    def __init__(
        self,
        clock: Clock,
        limits: BulkLimits | None = None,
        asked: Callable[[], int] = lambda: 0,
        local: Callable[[int], LocalTime] = local_time,
    ) -> None:
        self.limits = limits or BulkLimits()
        self.governor = Governor()
        self._clock = clock
        self._asked = asked
        self._local = local
        self._free_ns = 0
        """When the rate allows the next piece."""
        self._rested_ns = 0
        """When bulk has rested enough."""
        self._senders = 0
        self._unslowed = 0
        """Bytes that are still small."""
        self._watching: asyncio.Task[None] | None = None

    @contextmanager
    def sending(self) -> Iterator[None]:
        """A context around everything that one sender sends."""
        self._senders += 1
        self._unslowed = SMALL_BYTES
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            yield
        finally:
            self._senders -= 1
            if not self._senders:
                self._watching.cancel()
                self._watching = None

    async def _watch(self) -> None:
        clock, before = self._clock, self._asked()
        while True:
            due_ns = clock.monotonic_ns() + TICK_NS
            await clock.sleep(TICK_NS / 1e9)
            now_ns, asked = clock.monotonic_ns(), self._asked()
            self.governor.tick(now_ns, max(0, now_ns - due_ns), asked != before)
            before = asked

    @property
    def piece_bytes(self) -> int:
        """How large the next piece may be."""
        most = PIECE_BYTES_BESIDE if self.governor.active else PIECE_BYTES
        return min(most, self.limits.rate // 16) if self.limits.rate else most

    async def turn(self) -> int:
        """Wait until a piece may be read and sent; when its work begins (monotonic ns)."""
        await self._clock.sleep(0)
        while wait_ns := self._wait_ns():
            await self._clock.sleep(wait_ns / 1e9)
        return self._clock.monotonic_ns()

    def _wait_ns(self) -> int:
        if self.opens_in():
            return int(LOOK_S * 1e9)
        now_ns = self._clock.monotonic_ns()
        if self._free_ns > now_ns:
            return self._free_ns - now_ns
        if self._unslowed > 0 or not self.governor.active:
            return 0
        if self.governor.quiet:
            return TICK_NS
        rest_ns = self._rested_ns - now_ns
        return rest_ns if rest_ns >= REST_NS_MIN else 0

    def sent(self, size: int, began_ns: int) -> None:
        """So many bytes of bulk went out; their work began when ``turn`` said."""
        now_ns = self._clock.monotonic_ns()
        if self.limits.rate:
            self._free_ns = max(self._free_ns, now_ns - CREDIT_NS) + size * 10**9 // self.limits.rate
        if self._unslowed > 0:
            self._unslowed -= size
        elif self.governor.active:
            pause_ns = int((now_ns - began_ns) * (1 / self.governor.share - 1))
            pause_ns = min(pause_ns, size * 10**9 // FLOOR_BYTES)
            self._rested_ns = max(self._rested_ns, now_ns - CREDIT_NS) + pause_ns

    # What is told

    def opens_in(self) -> int:
        """Seconds until the window opens; 0: it is open, or there is none."""
        window = self.limits.window
        return 0 if window is None else window.opens_in(self._local(self._clock.wall_ns()).second)

    def seconds(self, size: int, rate: float) -> float | None:
        """How long so many bytes take from now on, at the rate that was reached last (0: none yet) or that is
        allowed; None: nobody knows."""
        allowed, window = self.limits.rate, self.limits.window
        rate = min(rate, allowed) if rate and allowed else rate or allowed
        if not rate:
            return None
        second = self._local(self._clock.wall_ns()).second
        return size / rate if window is None else window.passed(second, size / rate)

    @property
    def words(self) -> str:
        """What holds bulk back by order; "" if nothing does."""
        rate, window = self.limits.rate, self.limits.window
        if window is not None and (wait_s := self.opens_in()):
            zone = self._local(self._clock.wall_ns()).zone
            hours, minutes = divmod(-(-wait_s // 60), 60)
            return f"It waits for its window, {window} {zone}, which opens in {hours} h {minutes:02} min."
        return f"It is held to {rate >> 10:,} KiB/s by --resync-rate." if rate else ""
