"""Clocks that a test moves: time that passes for all of them, a wall clock that somebody sets, a machine that is
started anew."""

from __future__ import annotations

from revolume.host import Host
from revolume.host.clock import RealClock

from .store import inline_host

SECOND = 10**9
BEGIN_NS = 1_800_000_000 * SECOND


class SetClock(RealClock):
    """Waiting is real; what the clocks show is not."""

    def __init__(self) -> None:
        self.passed_ns = 5 * SECOND
        self.suspended_ns = 0
        self.set_by_ns = 0
        self.boots = 1

    def pass_by(self, seconds: float) -> None:
        """So much time goes by."""
        self.passed_ns += int(seconds * SECOND)

    def set_by(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.set_by_ns += int(seconds * SECOND)

    def suspend(self, seconds: float) -> None:
        """The machine stands still for so long."""
        self.suspended_ns += int(seconds * SECOND)

    @property
    def true_ns(self) -> int:
        """The time that it is, whatever somebody has set."""
        return BEGIN_NS + self.passed_ns + self.suspended_ns

    def wall_ns(self) -> int:  # type: ignore[override]
        return self.true_ns + self.set_by_ns

    def monotonic_ns(self) -> int:  # type: ignore[override]
        return self.passed_ns

    def boot_ns(self) -> int:
        return self.passed_ns + self.suspended_ns

    def boot_id(self) -> bytes:
        return self.boots.to_bytes(16, "little")

    def host(self) -> Host:
        """A host by these clocks."""
        inline = inline_host()
        return Host(self, inline.entropy, inline.disk, inline.work, inline.network)
