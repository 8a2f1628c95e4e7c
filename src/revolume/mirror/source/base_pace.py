"""How much of a base may be under way: as much as the target stores in a tenth of a second, and in a round trip.

Whatever is under way when a link is lost has to be sent again, and a link that is lost every second never brings a
base up if that is more than it carries. So the window follows the rate at which pieces are acknowledged: large on
a fast link, small on a slow one. It counts the shortest round trip that was seen, so that a long way to the target
alone does not make it smaller. And it is never more than an eighth of what this session has brought over: however
short sessions are, what is sent twice is an eighth of the base, and the smallest window for each of them. No I/O.
"""

from __future__ import annotations

from collections import deque
from typing import Final

DELAY_NS: Final = 100_000_000
MEASURED_NS: Final = 500_000_000
WINDOW_BYTES_MIN: Final = 128 << 10
WINDOW_BYTES_MAX: Final = 16 << 20
SHARE: Final = 8
PIECES: Final = 8
"""In a window, so that it moves smoothly."""


class BasePace:
    """Paces one base. ``window_bytes``: what may be under way; ``rate``: bytes a second that the target
    stores, 0 while nothing is known."""

    def __init__(self) -> None:
        self._sent: deque[tuple[int, int]] = deque()  # (when, bytes) of pieces under way
        self._stored: deque[tuple[int, int]] = deque()  # of pieces acknowledged lately
        self._round_trip_ns = 0
        self._began_ns = 0
        self.under_way_bytes = 0
        self.stored_bytes = 0
        self.window_bytes = WINDOW_BYTES_MIN
        self.rate = 0.0

    @property
    def open(self) -> bool:
        """Whether another piece may go."""
        return self.under_way_bytes < self.window_bytes

    def piece_bytes(self) -> int:
        """How large it should be."""
        return self.window_bytes // PIECES

    def sent(self, size: int, now_ns: int) -> None:
        """A piece went out."""
        if not self._sent and not self._stored:
            self._began_ns = now_ns
        self._sent.append((now_ns, size))
        self.under_way_bytes += size

    def stored(self, now_ns: int) -> None:
        """The oldest piece under way has been acknowledged."""
        sent_ns, size = self._sent.popleft()
        self.under_way_bytes -= size
        self.stored_bytes += size
        took_ns = max(1, now_ns - sent_ns)
        self._round_trip_ns = min(self._round_trip_ns or took_ns, took_ns)
        stored = self._stored
        stored.append((now_ns, size))
        while len(stored) > 1 and stored[0][0] < now_ns - MEASURED_NS:
            self._began_ns = stored.popleft()[0]
        elapsed_ns = max(now_ns - self._began_ns, self._round_trip_ns)
        self.rate = sum(size for _, size in stored) * 1e9 / elapsed_ns
        window = min(int(self.rate * (self._round_trip_ns + DELAY_NS) / 1e9), self.stored_bytes // SHARE)
        self.window_bytes = min(max(window, WINDOW_BYTES_MIN), WINDOW_BYTES_MAX)
