"""Labels: the wall time that each transfer is marked with.

The clock of labels is the boot clock, set by the wall clock. It does not follow where that jumps: ``due`` tells,
and then the step is stated as a fact in the log, behind which labels go on from the new time, backward too. So
labels only rise between two stated steps, and how long ago something was is known across each of them, here and at
every mirror. Differences of up to ``TOLERANCE_NS`` are taken up without a word; where that would go back, labels
stand still (``log/write/appender.py``).

A volume that is opened again on the same start of its machine goes on with the clock that it had: what the wall
clock did meanwhile is a step. After another start only a clock that is behind the newest label is known to be
wrong, now or before; that is a step too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from revolume.blocks.numbers import Position, WriteNumber
from revolume.host.clock import Clock
from revolume.volume.metadata.clock_mark import ClockMark

TOLERANCE_NS = 1_000_000_000
UNKNOWN_BOOT = bytes(16)


@dataclass(frozen=True, slots=True)
class ClockStep:
    """Labels went on at ``to_ns`` where they would have been ``from_ns``, behind write number ``write``."""

    write: WriteNumber
    position: Position
    from_ns: int
    to_ns: int

    @property
    def by_ns(self) -> int:
        """How far labels went forward; negative: back."""
        return self.to_ns - self.from_ns


class LabelClock:
    """The clock that labels are made by; it changes only by ``set`` and ``due``."""

    def __init__(self, clock: Clock, now_ns: int) -> None:
        self._clock = clock
        self._boot_ns = clock.boot_ns
        self._offset_ns = now_ns - clock.boot_ns()

    @classmethod
    def opened(cls, clock: Clock, mark: ClockMark, steps: Iterable[ClockStep], newest_ns: int) -> LabelClock:
        """As it goes on at an opening. ``newest_ns``: the label at the end of the log."""
        boot_ns = clock.boot_ns()
        if mark.boot_id != UNKNOWN_BOOT and mark.boot_id == clock.boot_id() and boot_ns >= mark.boot_ns:
            since = sum(step.by_ns for step in steps if step.position > mark.position)
            return cls(clock, max(newest_ns, mark.label_ns + since + boot_ns - mark.boot_ns))
        wall_ns = clock.wall_ns()
        return cls(clock, wall_ns if wall_ns >= newest_ns - TOLERANCE_NS else newest_ns)

    def now_ns(self) -> int:
        """The time by which labels are made."""
        return self._boot_ns() + self._offset_ns

    def due(self) -> tuple[int, int] | None:
        """(from, to) if the wall clock has jumped, which has to be stated. Small differences are taken up."""
        now_ns, wall_ns = self.now_ns(), self._clock.wall_ns()
        if abs(wall_ns - now_ns) > TOLERANCE_NS:
            return now_ns, wall_ns
        self.set(wall_ns)
        return None

    def set(self, now_ns: int) -> None:
        """It is this time now."""
        self._offset_ns = now_ns - self._boot_ns()


class SourceClock:
    """A mirror's idea of its source's label clock: a transfer arrives after it was made, so the source's clock is
    at least as far as any label, and the time that has passed here since. Until something has arrived it is this
    node's own wall clock."""

    def __init__(self, clock: Clock, newest_ns: int) -> None:
        self._clock = clock
        self._newest_ns = newest_ns
        self._ahead_ns: int | None = None

    def heard(self, label_ns: int) -> None:
        """A transfer with this label has just arrived."""
        ahead_ns = label_ns - self._clock.boot_ns()
        self._ahead_ns = ahead_ns if self._ahead_ns is None else max(self._ahead_ns, ahead_ns)

    def stepped(self, by_ns: int) -> None:
        """The source has stated a clock step. One forward is in the labels behind it."""
        if self._ahead_ns is not None and by_ns < 0:
            self._ahead_ns += by_ns

    def now_ns(self) -> int:
        """The source's label clock now, as far as it is known."""
        if self._ahead_ns is None:
            return max(self._clock.wall_ns(), self._newest_ns)
        return self._clock.boot_ns() + self._ahead_ns
