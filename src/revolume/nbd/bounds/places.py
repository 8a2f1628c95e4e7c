"""Who may be connected at once.

A connection is a *stranger* until an export has been opened for it, and a *client* from then on. Whoever can reach
an address can be a stranger, so strangers take no client's place, and there are so many of them at most: when
another comes, the one that has said nothing for longest goes. Strangers on unix sockets and those from elsewhere
are counted apart, and some places of clients are kept for unix sockets, so that the machine's own tools come in
whatever the network does.
"""

from __future__ import annotations

from typing import Final

from revolume.host.clock import Clock
from revolume.nbd.limits import Limits
from revolume.nbd.session import Session

_SILENT_NS: Final = 1_000_000_000
"""Who has said something since then is in the middle of its handshake."""


class Places:
    """The connections of a server, in the order of their coming."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._strangers: dict[bool, dict[Session, None]] = {False: {}, True: {}}  # by whether they are local
        self._clients: dict[Session, None] = {}
        self.sessions: dict[Session, None] = {}

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    def come(self, session: Session) -> Session | None:
        """A stranger. The one that must go for it, if one must."""
        strangers = self._strangers[session.local]
        goes = self._who_goes(strangers) if len(strangers) >= self._limits.strangers_max else None
        strangers[session] = self.sessions[session] = None
        return goes

    def _who_goes(self, strangers: dict[Session, None]) -> Session:
        silent = min(strangers, key=lambda session: session.heard_ns)
        if self._clock.monotonic_ns() - silent.heard_ns >= _SILENT_NS:
            return silent
        return next(iter(strangers))

    def admit(self, session: Session) -> bool:
        """A stranger wants to be a client; whether there is a place for it."""
        local = session.local
        places = self._limits.connections_max + (self._limits.local_reserve if local else 0)
        if len(self._clients) >= places:
            return False
        self._strangers[local].pop(session, None)
        self._clients[session] = None
        return True

    def leave(self, session: Session) -> None:
        """It has ended."""
        self.sessions.pop(session, None)
        self._clients.pop(session, None)
        self._strangers[session.local].pop(session, None)
