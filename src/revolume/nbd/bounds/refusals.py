"""Clients that are turned away: each kind counted, and logged at most once a second.

A client that tries again and again must not be able to fill the log, and an operator must be able to see that
it tries.
"""

from __future__ import annotations

import structlog

from revolume.host.clock import Clock

BETWEEN_NS = 1_000_000_000

_log = structlog.get_logger("revolume.nbd")


class Refusals:
    """Counts and logs refused clients."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.counts: dict[str, int] = {}
        self._told_ns: dict[str, int] = {}
        self._silent: dict[str, int] = {}

    def note(self, kind: str, peer: str, cause: str) -> None:
        """A client was turned away. ``kind``: one of a few words, counted apart; ``cause``: for the log."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        now = self._clock.monotonic_ns()
        last = self._told_ns.get(kind)
        if last is not None and now - last < BETWEEN_NS:
            self._silent[kind] = self._silent.get(kind, 0) + 1
            return
        self._told_ns[kind] = now
        silent = self._silent.pop(kind, 0)
        more = {"not_logged_before": silent} if silent else {}
        _log.warning("nbd client turned away", kind=kind, peer=peer, cause=cause, **more)
