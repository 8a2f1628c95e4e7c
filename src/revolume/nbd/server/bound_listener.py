"""An address that is bound already and not served yet.

A node that takes over the address of a server that died binds it first: if it cannot be had, that is found out
before anything has been changed, and clients, which try again and again, wait here instead of being refused. They
wait before the greeting, so they are sent nothing that they could take for a final answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from revolume.host.network import Listener, Wire

_WAITING_MAX: Final = 1000
"""Connections beyond this are aborted."""


class BoundListener:
    """Connections are kept until ``open`` hands them to ``accept``, or ``close`` aborts them."""

    def __init__(self, accept: Callable[[Wire], None], waiting_max: int = _WAITING_MAX) -> None:
        self.listener: Listener | None = None
        self.uri = ""  # of the default export there
        self._accept = accept
        self._waiting: list[Wire] | None = []
        self._waiting_max = waiting_max

    def accept(self, wire: Wire) -> None:
        """A connection has come."""
        if self._waiting is None:
            self._accept(wire)
        elif len(self._waiting) < self._waiting_max:
            self._waiting.append(wire)
        else:
            wire.abort()

    def open(self) -> None:
        """Serve the connections that wait, and all that come from now on."""
        waiting, self._waiting = self._waiting or [], None
        for wire in waiting:
            self._accept(wire)

    def close(self) -> None:
        """Stop listening and abort the connections that wait."""
        if self.listener is not None:
            self.listener.close()
        for wire in self._waiting or []:
            wire.abort()
        self._waiting = []
