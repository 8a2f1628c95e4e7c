"""Lived time: how long this copy has been open, over all of its openings.

Retention asks how old something is. A wall clock can't tell: somebody sets it, a machine starts with a wrong one,
two nodes differ. So every copy counts for itself: the monotonic clock while it is open, going on from the last
durable value when it is opened again. A stop, a crash and a suspended machine age nothing, and no clock can make
anything older than it is. Every transfer's node header says the lived time at which it was kept here.

Zero is what transfers of older versions say. Counting begins above it, so those age from the first opening by this
version on.
"""

from __future__ import annotations

from collections.abc import Iterable

from revolume.host.clock import Clock
from revolume.log.format.columns import LIVED_NS, Columns, lived_ms

FIRST_NS = LIVED_NS


class LivedTime:
    """Goes on from ``reached_ns``, the last durable value."""

    def __init__(self, clock: Clock, reached_ns: int) -> None:
        self._monotonic_ns = clock.monotonic_ns
        self._base_ns = max(reached_ns, FIRST_NS) - clock.monotonic_ns()

    def now_ns(self) -> int:
        """Lived time now. Never goes back."""
        return self._base_ns + self._monotonic_ns()


def reached_ns(pieces: Iterable[Columns]) -> int:
    """The highest lived time that the log states, in ns; 0: none."""
    found = (lived_ms(columns.rows) for columns in pieces if len(columns.rows))
    return max((int(lived.max()) * LIVED_NS for lived in found), default=0)
