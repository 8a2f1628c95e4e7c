"""A verb's session with a volume: its content over NBD on the volume's own socket, whoever serves it.

``open_session.py`` makes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from revolume.cli.nbd_remote import NbdRemote, connected
from revolume.host import Host
from revolume.nbd.wire.uri import uri
from revolume.node.addresses import own_address


class VolumeQuestions(Protocol):
    """What a verb asks of a volume besides its content."""

    async def oldest(self) -> int:
        """The first write that is retained."""

    async def points(self) -> list[dict[str, Any]]:
        """The retained points, oldest first."""

    async def moment(self, text: str) -> dict[str, Any]:
        """What a moment is. Raises NotFound, UsageError."""


class VolumeSession:
    """A volume that is being served, by this process or by another."""

    def __init__(self, host: Host, path: str, questions: VolumeQuestions) -> None:
        self._host = host
        self._address = own_address(path)
        self.oldest = questions.oldest
        self.points = questions.points
        self.moment = questions.moment

    def uri(self, export: str) -> str:
        """The export's URI, for other programs."""
        return uri(self._address, export)

    def remote(self, export: str, contexts: Sequence[str] = ()) -> AbstractAsyncContextManager[NbdRemote]:
        """The export over NBD, with these metadata contexts besides."""
        return connected(self._host, self.uri(export), contexts)
