"""Requests that were taken and are not answered yet: counted, so that no client can make ever more of them.

Answers may wait for long, for a required mirror that is away as much as for a slow disk, and a request needs no
payload to be remembered until then. A connection that has too many unanswered is not read any more; the client
notices that its requests are not taken, and everything goes on with the first answers. The same holds for all
connections together, except that each may always have one batch.
"""

from __future__ import annotations

from revolume.nbd.bounds.limits import Limits


class Unanswered:
    """The requests of all connections of a server, and the bytes in which they came."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = 0
        self.bytes = 0


class Tally:
    """The unanswered requests of one connection. Called per batch, not per request."""

    def __init__(self, all_: Unanswered) -> None:
        self._all = all_
        self.requests = 0
        self.bytes = 0

    @property
    def full(self) -> bool:
        """No more requests are to be taken until some of these are answered."""
        if not self.requests:
            return False
        limits, all_ = self._all.limits, self._all
        return (
            self.requests >= limits.unanswered_max
            or self.bytes >= limits.unanswered_bytes
            or all_.requests >= limits.all_unanswered_max
            or all_.bytes >= limits.all_unanswered_bytes
        )

    def add(self, requests: int, count: int = 0) -> None:
        """So many requests, of so many bytes, begin to wait."""
        self.requests += requests
        self.bytes += count
        self._all.requests += requests
        self._all.bytes += count

    def drop(self, requests: int, count: int = 0) -> None:
        """So many were answered, or will not be."""
        self.add(-requests, -count)
        assert self.requests >= 0 and self.bytes >= 0

    def clear(self) -> None:
        """None of them is answered any more."""
        self.drop(self.requests, self.bytes)
