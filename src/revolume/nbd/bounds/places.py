"""Who may be connected at once.

A connection is a *stranger* until an export has been opened for it, and a *client* from then on. Whoever can reach
an address can be a stranger, so strangers take no client's place, and their number is limited: when another comes,
the one that has been silent for longest is evicted. Strangers on unix sockets and those from elsewhere are counted
apart, and some places of clients are kept for unix sockets, so that the machine's own tools can connect whatever
happens on the network.
"""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

from revolume.host.clock import Clock
from revolume.nbd.bounds.limits import Limits

_SILENT_NS: Final = 1_000_000_000
"""A stranger that has sent something since then is in the middle of its handshake."""


class Connected(Protocol):
    """What a place is given by: one connection."""

    heard_ns: int  # monotonic: when it last sent something before it had an export

    @property
    def local(self) -> bool:
        """Whether its client is on this machine, as far as the socket tells."""


Member = TypeVar("Member", bound=Connected)


class Places(Generic[Member]):
    """The connections of a server, in the order in which they came."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._strangers: dict[bool, dict[Member, None]] = {False: {}, True: {}}  # by whether they are local
        self._clients: dict[Member, None] = {}
        self.sessions: dict[Member, None] = {}

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    def add(self, session: Member) -> Member | None:
        """Add a stranger. Returned: the one that must be evicted for it, if one must."""
        strangers = self._strangers[session.local]
        evicted = self._who_goes(strangers) if len(strangers) >= self._limits.strangers_max else None
        strangers[session] = self.sessions[session] = None
        return evicted

    def _who_goes(self, strangers: dict[Member, None]) -> Member:
        """The one that has been silent for longest; the oldest, if none has been silent for a second."""
        silent = min(strangers, key=lambda session: session.heard_ns)
        if self._clock.monotonic_ns() - silent.heard_ns >= _SILENT_NS:
            return silent
        return next(iter(strangers))

    def admit(self, session: Member) -> bool:
        """Make a stranger a client; False if there is no place for another client."""
        local = session.local
        places = self._limits.connections_max + (self._limits.local_reserve if local else 0)
        if len(self._clients) >= places:
            return False
        self._strangers[local].pop(session, None)
        self._clients[session] = None
        return True

    def remove(self, session: Member) -> None:
        """The connection has ended."""
        self.sessions.pop(session, None)
        self._clients.pop(session, None)
        self._strangers[session.local].pop(session, None)
