"""What an opening stands on: the directory with its parts, the manifest, the segment files; and room to write.

Every step of an opening writes a little (``open.py`` names the steps). On a full disk it does so with the room
that was kept back, and where that does not suffice either it says so, having changed nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from revolume.blocks.geometry import BLOCK
from revolume.errors import Damaged, NoSpace, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory, File, out_of_room
from revolume.log.write.appender import NodeHeaderState
from revolume.log.write.pool_limits import PoolLimits
from revolume.log.write.segment_pool import SegmentPool
from revolume.volume.metadata import layout
from revolume.volume.metadata.keep_policy import KeepPolicy, pack_policy
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_edits import EditKind, pack_number, pack_pairs
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.rung import pack_dropped
from revolume.volume.open.create import default_budget
from revolume.volume.open.options import OpenOptions
from revolume.volume.space.reserve import Reserve
from revolume.volume.state.events import Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

Result = TypeVar("Result")


class Ground:
    """What one opening stands on. ``held``: what is to be closed if the volume can't be opened."""

    def __init__(
        self, host: Host, directory: Directory, manifest: Manifest, options: OpenOptions, held: ExitStack
    ) -> None:
        self.host = host
        self.directory = directory
        self.options = options
        self.header = NodeHeaderState(horizon=manifest.state.horizon.write, edit=manifest.number)
        self.reserve = Reserve(directory)
        self.tasks = UncancelledTasks()
        self.manifest = ManifestWriter(host.work, manifest, self.header, self.reserve.take, self.tasks)
        self.held = held
        self.log, self.maps, self.image = _parts(directory)
        self.pool = self._make_pool()
        for part in (self.log, self.maps, self.image, self.pool, self.reserve):
            held.callback(part.close)
        self.events = Events(host.clock.wall_ns)

    @property
    def state(self) -> State:
        """What the manifest says now."""
        return self.manifest.state

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
        return SegmentPool(
            self.log, self.host.work, blocks, limits, self._register, owed_bytes=lambda: reserve.missing
        )

    @property
    def policy_for_once(self) -> KeepPolicy | None:
        """What is kept while it is open now, where that is not to be remembered."""
        return self.options.policy_after(self.state.retention.policy) if self.options.budget_once else None

    def retention_edits(self) -> list[tuple[EditKind, bytes]]:
        """The budget, and what is kept within it, where these are others than the manifest holds."""
        if self.options.budget_once:
            return []
        budget, before = self.pool.limits.budget_bytes, self.state.retention.policy
        policy = self.options.policy_after(before)
        edits = [] if budget == self.state.budget else [(EditKind.BUDGET, pack_number(budget))]
        return edits if policy == before else [*edits, (EditKind.KEEP_POLICY, pack_policy(policy))]

    async def _register(self, uses: dict[int, int]) -> None:
        await self.manifest.record((EditKind.USES, pack_pairs(uses)))

    async def accept(self) -> None:
        """The log has been found to agree with the manifest: only now may the manifest's number grow."""
        try:
            await self.with_room(self.manifest.renew)
        except OSError as error:
            raise self.no_room("its manifest", error) from error

    async def with_room(self, step: Callable[[], Awaitable[Result]]) -> Result:
        """With no room, once more with the room that was kept back."""
        try:
            return await step()
        except OSError as error:
            if not out_of_room(error) or not await self.host.work.call(self.reserve.take):
                raise
            return await step()

    def no_room(self, what: str, error: OSError) -> RevolumeError:
        """An opening writes a little; where it can't, nothing has changed."""
        cause = f"Opening {self.directory.path} needs to write {what}: {error.strerror}."
        if out_of_room(error):
            return NoSpace("no-space", cause, "Free some room on the disk and open it again; nothing is lost.")
        return RevolumeError("not-opened", cause, "Look at the disk, then open it again; nothing is lost.")

    async def sweep_maps(self) -> None:
        """Remove maps of views that a crash left behind, bases and rungs that were replaced or never done; forget
        rungs whose files are gone."""
        there = set(self.maps.names())
        gone = [each.number for each in self.state.rungs if layout.rung_name(each.number) not in there]
        if gone:
            await self.manifest.record((EditKind.DROP_RUNGS, pack_dropped(gone)))
        kept = {self.state.base_map, *(layout.rung_name(rung.number) for rung in self.state.rungs)}
        for name in sorted(there):
            if name not in kept:
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
