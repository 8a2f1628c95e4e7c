"""What the NBD server offers, exchanged while its listeners stay: nothing yet, a mirror's past, a volume."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol, cast

from revolume.errors import Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.host.network import Peer
from revolume.nbd.export import Export, Exports, Seen


class ExportSource(Protocol):
    """A role, which has exports or a reason why there are none."""

    def exports_now(self) -> VolumeExports:
        """RevolumeError: none, and why."""

    def clone_exports(self) -> Mapping[str, VolumeExports]:
        """What its clones offer, by their names."""


class ExportSwitch:
    """The ``nbd.export.Exports`` of the source that was switched to last."""

    def __init__(self) -> None:
        self._source: ExportSource | None = None
        self._reason: RevolumeError = Refused("not-open", "The volume is being opened.", "Try again.")

    def switch_to(self, source: ExportSource) -> None:
        """Offer what ``source`` has, from now on."""
        self._source = source

    def withdraw(self, reason: RevolumeError) -> None:
        """Offer nothing; who opens an export gets ``reason``."""
        self._source, self._reason = None, reason

    def _exports(self, name: str = "") -> Exports:
        """Whose export it is: the volume's, or a clone's. They get back only what they opened."""
        if self._source is None:
            raise self._reason
        clone = self._source.clone_exports().get(re.split("[@,]", name, maxsplit=1)[0])
        return cast(Exports, clone if clone is not None else self._source.exports_now())

    async def open(self, name: str, peer: Peer) -> Export:
        """The export ``name`` of the present source. RevolumeError: why there is none."""
        return await self._exports(name).open(name, peer)

    async def look(self, name: str, peer: Peer) -> Seen:
        """What ``name`` is, without opening it. RevolumeError: why there is none."""
        return await self._exports(name).look(name, peer)

    def names(self) -> list[tuple[str, str]]:
        """(name, description) of each export. RevolumeError: why there is none."""
        listed = self._exports().names()
        assert self._source is not None
        return [*listed, *(name for each in self._source.clone_exports().values() for name in each.names())]

    async def contexts(self, export: Seen, query: str) -> list[str]:
        """The metadata contexts of ``export`` that ``query`` asks for."""
        return await self._exports(export.name).contexts(export, query)
