"""A clone's parent as the clone sees it: a view of the pinned point over which it lies.

The view is opened with the parent, and stays open as long as the clone does. Damage is the parent's to heal: what
can't be read in passing is asked of it like of any other copy of the volume (``volume/heal/siblings.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from revolume.blocks.geometry import BLOCK
from revolume.errors import Damaged, NotFound, RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.resolved_places import ResolvedPlaces
from revolume.history.views import View, open_view
from revolume.volume.heal.siblings import Contents, Wanted
from revolume.volume.heal.transfer_slice import WantedSlice
from revolume.volume.metadata.clone_edits import CloneOrigin, CloneRecord
from revolume.volume.metadata.manifest_state import State
from revolume.volume.space.holder import HolderKind
from revolume.volume.volume_base import OpenVolume


class OriginView:
    """``OriginBlocks``, and a ``Sibling`` of the clone's. ``close`` it after the clone."""

    def __init__(self, view: View, name: str) -> None:
        """``name``: of the parent."""
        self._view = view
        self._places = ResolvedPlaces(view.source)
        self.name = name

    def read_now(self, first: int, view: memoryview) -> bool:
        """Fill ``view`` with the blocks from ``first`` on, if they are in memory."""
        found = self._places.of(first, len(view) // BLOCK, nowait=True)
        try:
            return found is not None and self._view.reader.fill(first, view, *found, nowait=True)
        except (KeyError, OSError):
            return False  # recycled or closed meanwhile: ``read`` looks again

    def read(self, first: int, view: memoryview) -> bool:
        """Fill ``view`` with the blocks from ``first`` on, in a thread, waiting for the disk. False: one is not
        what was written."""
        return self._view.reader.read_waiting(first, view)

    async def ask(self, wanted: Sequence[Wanted]) -> Contents | None:
        """Those of the wanted blocks that the parent has, or can have healed."""
        found: Contents = {}
        for each in wanted:
            content = bytearray(BLOCK)
            try:
                await self._view.reader.read(each.block * BLOCK, memoryview(content))
                found[each.key] = bytes(content)
            except Damaged:
                continue
            except (RevolumeError, OSError):
                return None
        return found

    async def ask_slice(self, wanted: WantedSlice) -> bytes | None:
        """Nothing: the clone's log is its own."""
        return b""

    def close(self) -> None:
        """Let go of the view."""
        self._view.close()


async def open_origin(parent: OpenVolume, record: CloneRecord) -> OriginView:
    """The parent as of the point that is pinned for the clone. NotFound: it is not there any more."""
    moment = ResolvedMoment(record.write, record.time_ns)
    view = await open_view(parent, moment, record.name, HolderKind.CLONE)
    return OriginView(view, f"the volume {parent.name}")


def record_of(parent: State, origin: CloneOrigin, clone: str) -> CloneRecord:
    """The parent's record of a clone. NotFound: the parent knows of none with its identity."""
    for record in parent.clones.records:
        if record.identity == origin.identity and parent.volume == origin.volume:
            return record
    raise NotFound(
        "clone-unknown",
        f"{origin.directory} holds {parent.name or 'no volume'}, which has no clone {clone} like this one.",
        "Put back the directory of the volume that it was cloned from.",
    )
