"""Making room for the log, in the order in which somebody loses by it.

    fold what is older than anybody needs → make a point, where a newer one would help → end overlays, then views
    → give up what is kept for an async mirror → wait for a required mirror that keeps it

Only when none of this is possible is a client's write refused. ``holding.py`` decides who goes.
"""

from __future__ import annotations

import contextlib

from revolume.errors import RevolumeError
from revolume.volume.core import Core
from revolume.volume.cutter import Cutter
from revolume.volume.events import EventKind
from revolume.volume.folder import Folder
from revolume.volume.holding import Hold, HoldKind, first_freeing, who_goes
from revolume.volume.mirrors import Mirrors

MOMENT_S = 0.05


def make_way(core: Core, folder: Folder) -> HoldKind | None:
    """End the views or overlays that must go so that there is room. The kind that goes, None: nobody's end would
    help. What is kept durably for a mirror is the caller's to give up; who only reads for one is ended here."""
    snapshots = [Hold(HoldKind.KEPT, snapshot.write) for snapshot in core.manifest.state.snapshots]
    leases = [Hold(each.kind, each.write, each.bytes(), key) for key, each in core.leases.items()]
    freeing = first_freeing(core.points, folder.horizon, folder.retired_write, core.pool.segment_blocks)
    disk_short = core.pool.disk_short or folder.starved or not core.cover.covers(1, False)
    going = who_goes([*snapshots, *leases], freeing, disk_short)
    for hold in going:
        lease = core.leases[hold.key] if hold.key is not None else None
        if lease is not None and lease.kind != HoldKind.MIRROR:
            core.gave_way += 1
            core.events.tell(f"{lease.holder} was ended: the log needed the room that it kept", EventKind.GAVE_WAY)
        if lease is not None:
            lease.revoke()
    return going[0].kind if going else None


def refusal(core: Core) -> str:
    """Who keeps the log from growing when nobody gives way, as the end of a sentence; empty: nobody does."""
    kept = [(snapshot.write, f"snapshot {snapshot.name}") for snapshot in core.manifest.state.snapshots]
    kept += [(each.write, each.holder) for each in core.leases.values() if not each.kind.gives_way]
    if not kept:
        return ""
    write, name = min(kept)
    return f"{name} keeps everything from w{write} on"


class Room:
    """See the module's text. Of a primary."""

    def __init__(self, core: Core, folder: Folder, cutter: Cutter, mirrors: Mirrors) -> None:
        self._core = core
        self._folder = folder
        self._cutter = cutter
        self._mirrors = mirrors

    async def make(self, may_cut: bool) -> bool:
        """Whether there is more room now, or somebody is about to make some. Without ``may_cut`` it is a point
        that waits for room, which another can't help."""
        if await self._folder.step(True):
            return True
        if self._folder.interrupted:  # nobody is refused or given up for that
            return True
        if may_cut and await self._after_a_point():
            return True
        before = len(self._core.leases)
        kind = make_way(self._core, self._folder)
        dropped = kind == HoldKind.MIRROR and await self._mirrors.drop_hold()
        if dropped or len(self._core.leases) < before:
            await self._folder.step(True)
            return True
        return may_cut and await self._mirror_comes_on()

    async def _mirror_comes_on(self) -> bool:
        """Whether it is a mirror that the log is kept for: then a moment has passed."""
        if not self._mirrors.in_the_way():
            return False
        await self._core.host.clock.sleep(MOMENT_S)
        return True

    async def _after_a_point(self) -> bool:
        core = self._core
        newest = core.points[-1].address if core.points else 0
        if not self._folder.starved and core.appender.address - newest <= core.pool.segment_blocks:
            return False
        with contextlib.suppress(RevolumeError):
            await self._cutter.cut()
        return await self._folder.step(True)
