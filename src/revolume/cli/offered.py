"""What the NBD server offers while that may change: nothing yet, a mirror's past, a volume.

The server keeps its listeners; what is behind them is exchanged.
"""

from __future__ import annotations

from typing import Protocol, cast

from revolume.errors import Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.host.network import Peer
from revolume.nbd.export import Export, Exports, Seen


class Behind(Protocol):
    """Who may have exports now."""

    def exports_now(self) -> VolumeExports:
        """RevolumeError: none, and why."""


class Offered:
    """``nbd.export.Exports`` of whoever is behind it at the moment."""

    def __init__(self) -> None:
        self._behind: Behind | None = None
        self._reason: RevolumeError = Refused("not-open", "The volume is being opened.", "Try again.")

    def take(self, behind: Behind) -> None:
        """Offer what this has, from now on."""
        self._behind = behind

    def withdraw(self, reason: RevolumeError) -> None:
        """Offer nothing, and say why."""
        self._behind, self._reason = None, reason

    def _exports(self) -> Exports:
        if self._behind is None:
            raise self._reason
        return cast(Exports, self._behind.exports_now())  # they get back only what they opened

    async def open(self, name: str, peer: Peer) -> Export:
        """See ``nbd.export.Exports``."""
        return await self._exports().open(name, peer)

    async def look(self, name: str, peer: Peer) -> Seen:
        """See ``nbd.export.Exports``."""
        return await self._exports().look(name, peer)

    def names(self) -> list[tuple[str, str]]:
        """See ``nbd.export.Exports``."""
        return self._exports().names()

    async def contexts(self, export: Seen, query: str) -> list[str]:
        """See ``nbd.export.Exports``."""
        return await self._exports().contexts(export, query)
