"""How much of the loop's time bulk may have while clients are being answered. Pure: times and lags come in.

What a client waits for beside its own work is that the loop comes to it. So the loop's *lag* is watched: by how
much a wake-up every few milliseconds is late. It counts pieces of bulk, the interpreter's lock and the other
processes that want the processor. How late it is *without* bulk differs from machine to machine and from minute to
minute; so bulk is silent for a moment now and then (``quiet``), and its lag is compared with that of these
moments.

    clients idle            bulk has everything
    clients there           a share of the time: it shrinks at once when the lag of late is well above the quiet
                            one, and grows slowly while it is not
    floor                   so much goes on in any case (``pacer.FLOOR_BYTES``): a base that is never complete
                            protects nobody, and keeps log
"""

from __future__ import annotations

from collections import deque
from typing import Final

MS: Final = 1_000_000
TICK_NS: Final = 10 * MS
IDLE_NS: Final = 150 * MS
"""Clients that have asked for nothing for so long are not there."""
QUIET_NS: Final = 200 * MS
QUIET_EVERY_NS: Final = 4_000 * MS
STEP_TICKS: Final = 10
QUIET_SAMPLES: Final = 120
SENDING_SAMPLES: Final = 40
SHARE_MIN: Final = 0.01
SHARE_MAX: Final = 0.25
SHARE_FIRST: Final = 0.05
LAG_NS_MIN: Final = 1 * MS
"""A lag below this is no matter: timers are no finer."""
SHRINK: Final = 0.6
GROW: Final = 1.1


class Governor:
    """``share``: of the loop's time that bulk may have now. ``quiet``: it is to be silent now."""

    def __init__(self) -> None:
        self.share = 1.0
        self.quiet = False
        self._active_until_ns = 0
        self._quiet_until_ns = 0
        self._next_quiet_ns = 0
        self._calm: deque[int] = deque(maxlen=QUIET_SAMPLES)
        self._late: deque[int] = deque(maxlen=SENDING_SAMPLES)
        self._ticks = 0

    @property
    def active(self) -> bool:
        """Clients are there."""
        return self.share < 1.0

    def tick(self, now_ns: int, lag_ns: int, asked: bool) -> None:
        """A wake-up that came late by ``lag_ns``. ``asked``: clients have asked for something since the last."""
        if asked:
            self._active_until_ns = now_ns + IDLE_NS
        if now_ns >= self._active_until_ns:
            self.share, self.quiet = 1.0, False
            return
        if not self.active:
            self.share = SHARE_FIRST
            self._late.clear()
        self._take(now_ns, lag_ns)

    def _take(self, now_ns: int, lag_ns: int) -> None:
        if self.quiet:
            self._calm.append(lag_ns)
            self.quiet = now_ns < self._quiet_until_ns
            return
        self._late.append(lag_ns)
        if now_ns >= self._next_quiet_ns:
            self.quiet = True
            self._quiet_until_ns, self._next_quiet_ns = now_ns + QUIET_NS, now_ns + QUIET_EVERY_NS
            return
        self._ticks += 1
        if self._ticks % STEP_TICKS == 0:
            self._step()

    def _step(self) -> None:
        usual, late = max(LAG_NS_MIN, high(self._calm)), high(self._late)
        if late > usual * 3 // 2:
            self.share = max(SHARE_MIN, self.share * SHRINK)
            self._late.clear()
        elif late < usual * 5 // 4:
            self.share = min(SHARE_MAX, self.share * GROW)


def high(lags: deque[int]) -> int:
    """What nineteen of twenty do not exceed; 0 of none."""
    return sorted(lags)[(len(lags) * 19 - 1) // 20] if lags else 0
