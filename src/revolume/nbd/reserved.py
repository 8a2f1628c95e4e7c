"""An address that is bound already and not served yet.

Who takes over an address from a server that died binds it first: an address that cannot be had is found out while
nothing has been changed, and clients, who try again and again, queue up here instead of being sent away. They wait
unheard, before the greeting, so nothing that could be taken for a final answer is said to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from revolume.host.network import Listener, Wire

_HELD_MAX: Final = 1000
"""More connections than this wait in the kernel's queue at other servers, too."""


class Reserved:
    """Either ``open`` or ``close`` ends the waiting. ``accept``: whom connections are handed to then."""

    def __init__(self, accept: Callable[[Wire], None], held_max: int = _HELD_MAX) -> None:
        self.listener: Listener | None = None
        self.uri = ""  # of the default export there
        self._accept = accept
        self._held: list[Wire] | None = []
        self._held_max = held_max

    def accept(self, wire: Wire) -> None:
        """A connection has come."""
        if self._held is None:
            self._accept(wire)
        elif len(self._held) < self._held_max:
            self._held.append(wire)
        else:
            wire.abort()

    def open(self) -> None:
        """Serve who waits, and who will come."""
        held, self._held = self._held or [], None
        for wire in held:
            self._accept(wire)

    def close(self) -> None:
        """Give the address back; who waits is cut off and will try again."""
        if self.listener is not None:
            self.listener.close()
        for wire in self._held or []:
            wire.abort()
        self._held = []
