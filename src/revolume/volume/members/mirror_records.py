"""What is recorded of each mirror, changed durably, and the holds that follow from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import MirrorState
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.node_edits import pack_member
from revolume.volume.space.holder import HolderKind
from revolume.volume.space.holders import Holders
from revolume.volume.uncancelled_tasks import UncancelledTasks

Change = Callable[[MirrorState], MirrorState]


class MirrorRecords:
    """The mirrors of an open primary by name. ``changed`` is called with each of which something else is
    recorded."""

    def __init__(
        self,
        *,
        manifest: ManifestWriter,
        holders: Holders,
        tasks: UncancelledTasks,
        changed: Callable[[Mirror], None],
    ) -> None:
        self._manifest = manifest
        self._holders = holders
        self._tasks = tasks
        self._on_change = changed
        self._changing = asyncio.Lock()
        self.known = {state.name: Mirror(state) for state in manifest.state.mirrors}

    def __iter__(self) -> Iterator[Mirror]:
        return iter(self.known.values())

    async def change(self, mirror: Mirror, change: Change) -> None:
        """Durably, then in memory: to its end, even if who asked goes away. A mirror that was detached meanwhile
        stays so."""
        await self._tasks.finish(self._changed(mirror, change))

    async def change_at(self, mirror: Mirror, point: Point | None, change: Change) -> None:
        """Change what is recorded of a mirror, durably, then in memory. ``point``, from which the log is kept for
        it, is not folded meanwhile; None: there is none."""
        if point is None:
            await self.change(mirror, change)
            return
        let_go = self._holders.lease(HolderKind.UNDER_WAY, f"mirror {mirror.name} beginning", point.write)
        try:
            await self.change(mirror, change)
        finally:
            let_go()

    async def _changed(self, mirror: Mirror, change: Change) -> None:
        async with self._changing:
            if self.known.get(mirror.name) is not mirror:
                return
            state = change(mirror.state)
            await self._manifest.record((EditKind.MEMBER, pack_member(state)))
            mirror.state = state
            if not state.joined:
                mirror.unrecorded_cut = None
            self.hold(mirror)
            self._on_change(mirror)

    async def drop(self, mirror: Mirror, done: Callable[[], None]) -> None:
        """Forget it; ``done`` is called when that is durable."""
        await self._tasks.finish(self._dropped(mirror, done))

    async def _dropped(self, mirror: Mirror, done: Callable[[], None]) -> None:
        async with self._changing:
            await self._manifest.record((EditKind.DROP_MIRROR, mirror.name.encode()))
            self.known.pop(mirror.name, None)
            mirror.release_hold()
            done()
            self._on_change(mirror)

    def hold(self, mirror: Mirror) -> None:
        """Exchange the holds; the new ones begin before the old ones end."""
        before, held = mirror.release_hold, list[Callable[[], None]]()
        state, name = mirror.state, mirror.name
        kind = HolderKind.REQUIRED_MIRROR if mirror.firm else HolderKind.MIRROR
        if state.kept:
            held.append(self._holders.lease(kind, name, state.write))
        for kept in (state.pin, state.jump):
            if kept is not None:
                held.append(self._pin(kind, name, kept))
        if mirror.cut is not None:  # nobody's answer rests on it
            held.append(self._pin(HolderKind.MIRROR, name, mirror.cut))

        def release() -> None:
            for each in held:
                each()

        mirror.release_hold = release
        before()

    def _pin(self, kind: HolderKind, name: str, kept: Kept) -> Callable[[], None]:
        def rescued() -> int:
            return self._manifest.state.rescued_bytes().get(kept.write, 0)

        return self._holders.lease(kind, name, WriteNumber(kept.write), held_bytes=rescued, pinned=True)
