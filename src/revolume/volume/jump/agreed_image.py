"""The image of a mirror's copy, brought to the point where the copy stands.

It has to be that point before the copy goes on to another one than its log leads to: forwards, by a jump
(``jumping.py``), or back to a common point (``open/rewind.py``). Views of earlier moments would prevent the fold.
Those that no name keeps are ended.
"""

from __future__ import annotations

from collections.abc import Iterable

from revolume.blocks.numbers import WriteNumber
from revolume.volume.points.record_processor import RecordProcessor
from revolume.volume.space.folder import Folder
from revolume.volume.space.holder import Holder
from revolume.volume.space.holders import Holders
from revolume.volume.state.events import EventKind, Events


class AgreedImage:
    """Of one copy."""

    def __init__(self, *, records: RecordProcessor, folder: Folder, holders: Holders, events: Events) -> None:
        self._records = records
        self._folder = folder
        self._holders = holders
        self._events = events

    async def fold(self) -> None:
        """The image is the point where the copy stands. What prevents it is raised."""
        await self._folder.fold_to(self._records.agreed, self._give_way)

    def end_readers(self) -> None:
        """All views that may be ended are: the copy is about to be opened as another moment."""
        self._end(self._holders.all())

    def _give_way(self, before: WriteNumber) -> None:
        """Views of moments that no name keeps are ended."""
        self._end(each for each in self._holders.all() if each.write < before and not each.pinned)

    def _end(self, holders: Iterable[Holder]) -> None:
        for holder in holders:
            if holder.lease is not None and holder.kind.gives_way:
                told = f"{holder.name} was ended: the copy jumps to a later point"
                self._events.tell(told, EventKind.GAVE_WAY)
                self._holders.revoke(holder)
