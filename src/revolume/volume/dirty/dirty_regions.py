"""The dirty region logs of an open volume: of each mirror of which nothing else is kept, which blocks changed.

The log of the volume itself says what has changed behind a dirty region log's file. So no write has anything to do
for it: before a fold takes transfers out of the log, a newer file that names their blocks too is durable, and the
manifest leads to it. Neither kill -9 nor a power cut leaves a file that names too little: the horizon is never
beyond the write up to which the file is complete. One of which that does not hold says nothing, and is dropped;
likewise one that is damaged, or for whose next file the disk has no room: the mirror is compared as a whole then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.errors import Damaged, NotFound
from revolume.host.disk import Directory, out_of_room
from revolume.host.error_text import error_text
from revolume.host.open_files import out_of_descriptors
from revolume.volume.dirty.region_file import DAMAGED, RegionFile
from revolume.volume.dirty.region_jobs import FoldedRegions, RegionsSpec, RescuedRegions, make_regions
from revolume.volume.image.fold_job import FoldSpec
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata import layout
from revolume.volume.metadata.dirty_log import DirtyLog, agreed_point, pack_clean, pack_dirty
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.open_log import OpenLog
from revolume.volume.state.events import EventKind, Events


class DirtyRegions:
    """Of one volume. ``busy``: the lock of its files, which folds hold; ``take_reserve`` empties what is kept back
    of the disk, and says whether there was any."""

    def __init__(
        self,
        directory: Directory,
        *,
        log: OpenLog,
        image: VolumeImage,
        busy: asyncio.Lock,
        take_reserve: Callable[[], Awaitable[bool]],
        events: Events,
    ) -> None:
        self._directory = directory
        self._log = log
        self._manifest = log.manifest
        self._image = image
        self._take_reserve = take_reserve
        self._events = events
        self.busy = busy

    def of(self, mirror: str) -> DirtyLog | None:
        """Of the mirror of this name; None: it has none that says anything."""
        horizon = self._manifest.state.horizon
        found = (each for each in self._manifest.state.dirty if each.mirror == mirror)
        return next((each for each in found if each.write >= horizon.write), None)

    def all(self) -> tuple[DirtyLog, ...]:
        """Every one that says something."""
        horizon = self._manifest.state.horizon
        return tuple(each for each in self._manifest.state.dirty if each.write >= horizon.write)

    async def opened(self, dirty: DirtyLog) -> RegionFile:
        """Its file, of which all has been read once. The caller closes it. NotFound: it is not what was written,
        can't be read, or is gone; then the mirror has no dirty region log any more."""
        try:
            return await self._log.work.call(self._open, dirty)
        except (Damaged, OSError) as error:
            if isinstance(error, OSError) and out_of_descriptors(error):
                raise
            why = error.cause if isinstance(error, Damaged) else error_text(error)
            async with self.busy:
                if dirty in self._manifest.state.dirty:
                    await self._give_up(dirty, why)
            raise NotFound("no-dirty-log", why, "The mirror is compared as a whole.") from error

    def _open(self, dirty: DirtyLog) -> RegionFile:
        name = layout.dirty_name(dirty.file)
        try:
            with closing(self._directory.child(layout.MIRRORS)) as mirrors:
                file = RegionFile.open(mirrors.open(name, write=False), self._log.volume_id, dirty.file)
        except FileNotFoundError as error:
            raise _gone(name) from error
        try:
            file.verify()
        except BaseException:
            file.close()
            raise
        return file

    # Its beginning, and its growth

    async def begin(self, mirror: str, since: Point) -> DirtyLog:
        """From now on the blocks that change for the mirror behind ``since``, a pinned point, are named by a file.
        The caller holds ``busy``, and the point is pinned until this is done. OSError, RevolumeError: it can't
        be."""
        horizon, rescues = self._image.horizon, self._manifest.state.rescues
        upto = (horizon.point, horizon.write, horizon.position)
        if horizon.write < since.write:
            upto = (since.number, since.write, since.position)
        tables = tuple(t.number for each in rescues if each.moment.write >= since.write for t in each.tables)
        number = self._next_number
        blocks = await self._made(RegionsSpec(*self._volume, number, RescuedRegions(tables)))
        dirty = DirtyLog(mirror, agreed_point(since), number, *upto, blocks)
        await self._manifest.record((EditKind.DIRTY, pack_dirty(dirty)))
        return dirty

    async def before(self, job: FoldSpec, position: Position) -> None:
        """Name what this fold takes out of the log; durable when it returns. The point to which it goes was cut at
        ``position``. Whatever it raises, the fold must not be done."""
        for dirty in self._manifest.state.dirty:
            if dirty.write < job.upto:
                await self._grow(dirty, job, position)

    async def _grow(self, dirty: DirtyLog, job: FoldSpec, position: Position) -> None:
        if dirty.write < job.after:
            await self._give_up(dirty, "it does not reach up to what was folded")
            return
        folded = FoldedRegions(dirty.file, job.log_range, dirty.write, job.upto)
        number = self._next_number
        try:
            blocks = await self._made(RegionsSpec(*self._volume, number, folded))
        except (Damaged, OSError) as error:
            if isinstance(error, Damaged) and error.code != DAMAGED:
                raise  # the log is, and the fold would meet that
            await self._give_up(dirty, str(error))
            return
        if dirty in self._manifest.state.dirty:  # else it was dropped meanwhile
            grown = replace(dirty, file=number, point=job.point, write=job.upto, position=position, blocks=blocks)
            await self._manifest.record((EditKind.DIRTY, pack_dirty(grown)))
        await self._log.work.call(self.sweep)

    @property
    def _volume(self) -> tuple[str, bytes]:
        return self._directory.path, self._log.volume_id

    @property
    def _next_number(self) -> int:
        return 1 + max((each.file for each in self._manifest.state.dirty), default=0)

    async def _made(self, spec: RegionsSpec) -> int:
        """With no room, once more with the room that was kept back."""
        try:
            return await self._log.work.job(make_regions, spec)
        except OSError as error:
            if not out_of_room(error) or not await self._take_reserve():
                raise
            return await self._log.work.job(make_regions, spec)

    # Its end

    async def _give_up(self, dirty: DirtyLog, why: str) -> None:
        told = f"the dirty region log of mirror {dirty.mirror} is given up, it must be compared as a whole: {why}"
        self._events.tell(told, EventKind.TROUBLE)
        await self._manifest.record((EditKind.DIRTY, pack_clean(dirty.mirror)))
        await self._log.work.call(self.sweep)

    async def drop(self, mirror: str) -> None:
        """The mirror needs it no more; durable. Nothing happens if it has none."""
        if any(each.mirror == mirror for each in self._manifest.state.dirty):
            await self._manifest.record((EditKind.DIRTY, pack_clean(mirror)))
            async with self.busy:
                await self._log.work.call(self.sweep)

    def sweep(self) -> None:
        """Remove the files that nothing names: an attempt that a crash cut short, a log that nobody needs. Waits
        for the disk; nobody makes one meanwhile."""
        if not self._directory.exists(layout.MIRRORS):
            return
        named = {layout.dirty_name(each.file) for each in self._manifest.state.dirty}
        with closing(self._directory.child(layout.MIRRORS)) as mirrors:
            for name in mirrors.names():
                if name not in named:
                    with suppress(OSError):  # what the disk does not let go of now goes another time
                        mirrors.remove(name)


def _gone(name: str) -> Damaged:
    return Damaged(DAMAGED, f"The dirty region log {name} is gone.", "The mirror is compared as a whole.")
