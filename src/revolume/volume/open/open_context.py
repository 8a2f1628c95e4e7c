"""What an opening stands on: the directory with its parts, the manifest, the segment files; and room to write.

Every step of an opening writes a little (``opening.py`` names the steps). On a full disk it does so with the room
that was kept back, and where that does not suffice either it says so, having changed nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from revolume.errors import Damaged, NoSpace, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory, File
from revolume.log.appender import Stated
from revolume.log.pool import PoolLimits, SegmentPool
from revolume.log.transfer import BLOCK
from revolume.volume import layout
from revolume.volume.core import Recorder
from revolume.volume.creating import default_budget
from revolume.volume.events import Events
from revolume.volume.manifest import EditKind, Manifest, State, pack_number, pack_pairs
from revolume.volume.options import OpenOptions
from revolume.volume.reserve import Reserve

Result = TypeVar("Result")


class Ground:
    """See the module's text. ``held``: what is to be closed if the volume can't be opened."""

    def __init__(
        self, host: Host, directory: Directory, manifest: Manifest, options: OpenOptions, held: ExitStack
    ) -> None:
        self.host = host
        self.directory = directory
        self.options = options
        self.stated = Stated(horizon=manifest.state.horizon.write, edit=manifest.number)
        self.reserve = Reserve(directory)
        self.recorder = Recorder(host, manifest, self.stated, self.reserve)
        self.held = held
        self.log, self.maps, self.image = _parts(directory)
        self.pool = self._make_pool()
        for part in (self.log, self.maps, self.image, self.pool, self.reserve):
            held.callback(part.close)
        self.events = Events(host.clock.wall_ns)

    @property
    def state(self) -> State:
        """What the manifest says now."""
        return self.recorder.manifest.state

    def _make_pool(self) -> SegmentPool:
        options, blocks = self.options, self.state.segment_blocks
        size = blocks * BLOCK
        budget = options.budget_bytes or self.state.budget
        budget = budget or default_budget(self.directory, len(self.state.uses) * size, size)
        reserve = self.reserve
        reserve.open()
        volume = self.state.horizon.size
        reserve.resize(options.reserve_bytes, len(self.state.uses) * size, budget, size, volume)
        ready = max(2, min(options.spare_bytes, budget // 4, max(volume, 4 * size)) // size)
        limits = PoolLimits(ready, budget, reserve.slack)
        pool = SegmentPool(self.log, self.host.work, blocks, limits, self._register)
        pool.owed_bytes = lambda: reserve.missing
        return pool

    def budget_edits(self) -> list[tuple[EditKind, bytes]]:
        """The budget, where it is another than the manifest holds."""
        budget = self.pool.limits.budget_bytes
        if budget == self.state.budget or self.options.budget_once:
            return []
        return [(EditKind.BUDGET, pack_number(budget))]

    async def _register(self, uses: dict[int, int]) -> None:
        await self.recorder.record((EditKind.USES, pack_pairs(uses)))

    async def accept(self) -> None:
        """The log has been found to agree with the manifest: only now may the manifest's number grow."""
        try:
            await self.with_room(lambda: self.host.work.call_sync(self.recorder.manifest.renew))
        except OSError as error:
            raise self.no_room("its manifest", error) from error
        self.stated.edit = self.recorder.manifest.number

    async def with_room(self, step: Callable[[], Awaitable[Result]]) -> Result:
        """With no room, once more with the room that was kept back."""
        try:
            return await step()
        except OSError as error:
            if error.errno != errno.ENOSPC or not await self.host.work.call(self.reserve.take):
                raise
            return await step()

    def no_room(self, what: str, error: OSError) -> RevolumeError:
        """An opening writes a little; where it can't, nothing has changed."""
        cause = f"Opening {self.directory.path} needs to write {what}: {error.strerror}."
        if error.errno == errno.ENOSPC:
            return NoSpace("no-space", cause, "Free some room on the disk and open it again; nothing is lost.")
        return RevolumeError("not-opened", cause, "Look at the disk, then open it again; nothing is lost.")

    def sweep_maps(self) -> None:
        """Maps of views that a crash left behind, and bases that were replaced."""
        for name in self.maps.names():
            if name != self.state.base_map:
                self.maps.remove(name)


def _parts(directory: Directory) -> tuple[Directory, Directory, File]:
    """Log, maps and image. Damaged: one of them is missing."""
    try:
        return directory.child(layout.LOG), directory.child(layout.MAPS), directory.open(layout.IMAGE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(
            "part-missing",
            f"The volume in {directory.path} has lost its {error.filename}.",
            "Put it back from a mirror or a backup, or read what is left with 'revolume salvage'.",
        ) from None
