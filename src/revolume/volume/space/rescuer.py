"""Rescues for pinned moments what a fold is about to overwrite, and lets go of what nobody needs any more.

It rescues for the newest moment that was pinned when the horizon reached it; an older one reads its own tables,
then each newer one's, then the image (``rescue/rescued_blocks.py``). So the tables of a moment that nobody pins
any more go to the next older one that is pinned; without one their room is given back.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace

from revolume.blocks.numbers import WriteNumber
from revolume.errors import Damaged
from revolume.host import JobFailed
from revolume.host.disk import Directory
from revolume.volume.heal.damaged_block import IMAGE, DamagedBlock
from revolume.volume.heal.healer import Healer
from revolume.volume.image.fold_job import FoldSpec
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_edits import EditKind, pack_number
from revolume.volume.metadata.manifest_state import Rescue, RescueFile, RescueTable
from revolume.volume.metadata.rescue_edits import pack_rescue
from revolume.volume.open_log import OpenLog
from revolume.volume.rescue.from_origin import fill_rescued, sync_rescued
from revolume.volume.rescue.gather_job import GatherSpec, gather
from revolume.volume.rescue.merge_job import MergeSpec, file_of, give_back, merge_tables
from revolume.volume.rescue.rescue_job import FoldedLog, Rescued, RescueSpec, rescue, rescue_growth
from revolume.volume.rescue.rescue_owner import meta_of, owner_of, rescue_spec, with_rescued
from revolume.volume.rescue.rescued_blocks import RescuedBlocks
from revolume.volume.space.holders import Holders
from revolume.volume.state.events import EventKind, Events

FILES_MAX = 32
"""In so many files the blocks of a moment may lie."""
ATTEMPTS = 3
"""So many rescues in a row may fail before a block that the disk does not give is taken for lost."""


class Rescuer:
    """Of one volume. Whoever calls it holds the lock of its files: folds and rescues exclude each other."""

    def __init__(
        self,
        directory: Directory,
        *,
        log: OpenLog,
        image: VolumeImage,
        rescued: RescuedBlocks,
        holders: Holders,
        healer: Healer,
        events: Events,
    ) -> None:
        self._directory = directory
        self._log = log
        self._manifest = log.manifest
        self._image = image
        self._rescued = rescued
        self._holders = holders
        self._healer = healer
        self._events = events
        self._failures = 0
        self._unmerged: set[int] = set()

    # Before a fold

    async def growth(self, job: FoldSpec) -> int:
        """The bytes on the disk that ``before`` would take."""
        owner = self._owner()
        return 0 if owner is None else await self._log.work.job(rescue_growth, self._spec(owner, job))

    @property
    def rescues(self) -> bool:
        """Whether a fold that begins now would rescue anything."""
        return self._owner() is not None

    async def before(self, job: FoldSpec) -> None:
        """Rescue what this fold will overwrite; durable when it returns. Whatever it raises, the fold must not be
        done."""
        owner = self._owner()
        if owner is None:
            await self._forget_all()
            return
        try:
            done = await self._rescued_whole(owner, job)
        except BaseException:
            self._failures += 1
            raise
        self._failures = 0
        if done.lost:
            told = f"{done.lost} blocks that the disk does not give any more are lost at w{owner.moment.write}"
            self._events.tell(told, EventKind.DAMAGE)
        if done.entries or owner not in self._manifest.state.rescues:
            await self._record(with_rescued(owner, done, self._manifest.state.next_rescue))

    async def _forget_all(self) -> None:
        """Nobody pins what was rescued: once the image has gone on without it, it is no moment's any more."""
        if gone := tuple(each.moment.write for each in self._manifest.state.rescues):
            await self._record(gone=gone)
            await self._log.work.call(self._rescued.sweep)

    async def _rescued_whole(self, owner: Rescue, job: FoldSpec) -> Rescued:
        """Done once more if damaged blocks of the image could be healed. What nobody can heal is rescued as it is,
        with the digest that it should have."""
        done = await self._log.work.job(rescue, self._spec(owner, job))
        damaged = [DamagedBlock(block, digest, IMAGE, block) for block, digest in done.damaged]
        left = await self._healer.heal(damaged, busy_held=True)
        if len(left) < len(damaged):
            done = await self._log.work.job(rescue, self._spec(owner, job))
        if done.lost and self._failures < ATTEMPTS:
            raise OSError(errno.EIO, "the disk can't read a block that is to be rescued", layout.IMAGE)
        await self._fetched_from_origin(owner, done, job)
        return done

    async def _fetched_from_origin(self, owner: Rescue, done: Rescued, job: FoldSpec) -> None:
        """What a clone's parent has of it."""
        origin = self._image.origin
        if done.elsewhere is None or origin is None:
            return
        number, work = self._spec(owner, job).file, self._log.work
        unread = await work.call(fill_rescued, self._directory, number, origin.blocks, done.elsewhere)
        await work.call_sync(sync_rescued, self._directory, number)
        if unread and self._failures < ATTEMPTS:
            raise OSError(errno.EIO, f"{origin.record.parent} does not give a block that is to be rescued")

    def _owner(self) -> Rescue | None:
        """For which moment a fold that begins now rescues."""
        return owner_of(self._manifest.state, Rescue(self._image.horizon), self._holders.pinned_writes())

    def _spec(self, owner: Rescue, job: FoldSpec) -> RescueSpec:
        by = FoldedLog(job.log_range, job.after, job.upto)
        return rescue_spec(self._manifest.state, owner, job.path, by, lossy=True)

    async def _record(self, *rescues: Rescue, gone: tuple[WriteNumber, ...] = ()) -> None:
        """These rescues stand from now on, those at ``gone`` do not; in the manifest, then in memory."""
        following = self._manifest.state.next_rescue + 1
        edits = [(EditKind.DROP_RESCUE, pack_number(write)) for write in gone]
        edits += [(EditKind.RESCUE, pack_rescue(each, following)) for each in rescues]
        await self._manifest.record(*edits)
        async with self._image.exchange():
            self._rescued.adopt(self._manifest.state.rescues)

    # Afterwards

    @property
    def due(self) -> bool:
        """Whether there is something to let go of, or to merge."""
        return not self._rescued.users and (self._tidies())

    def _tidies(self) -> bool:
        return bool(self._unpinned()) or self._mergeable() is not None or self._scattered() is not None

    async def tidy(self) -> None:
        """Let go of what nobody needs, and merge what has become many tables. Where that fails no fold waits for
        it."""
        for write in self._unpinned():
            await self._let_go(write)
        while not self._rescued.users and (found := self._mergeable()) is not None:
            await self._merge(*found)
        while not self._rescued.users and (scattered := self._scattered()) is not None:
            await self._gather(scattered)

    def _scattered(self) -> Rescue | None:
        """A moment whose blocks lie in too many files."""
        for each in self._manifest.state.rescues:
            if len(each.files) > FILES_MAX and not self._unmerged & {table.number for table in each.tables}:
                return each
        return None

    async def _gather(self, owner: Rescue) -> None:
        number = self._manifest.state.next_rescue
        tables = tuple(table.number for table in owner.tables)
        spec = GatherSpec(self._directory.path, self._log.volume_id, meta_of(owner), tables, number)
        try:
            done = await self._log.work.job(gather, spec)
        except (Damaged, OSError, JobFailed) as error:
            self._unmerged |= set(tables)
            self._tell_unmerged(owner, error)
            return
        if self._rescued.users:  # somebody has begun to read the files meanwhile
            return
        into = replace(
            owner, tables=(RescueTable(number, done.entries),), files=(RescueFile(number, done.blocks),)
        )
        await self._record(into)
        await self._log.work.call(self._rescued.sweep)

    def _unpinned(self) -> list[WriteNumber]:
        if not self._manifest.state.rescues:
            return []
        pinned = set(self._holders.pinned_writes())
        return [each.moment.write for each in self._manifest.state.rescues if each.moment.write not in pinned]

    async def _let_go(self, write: WriteNumber) -> None:
        rescues = self._manifest.state.rescues
        at = next(index for index, each in enumerate(rescues) if each.moment.write == write)
        if not at:
            await self._record(gone=(write,))
        else:
            older, mine = rescues[at - 1], rescues[at]
            given = replace(older, tables=older.tables + mine.tables, files=older.files + mine.files)
            await self._record(given, gone=(write,))
        await self._log.work.call(self._rescued.sweep)

    def _mergeable(self) -> tuple[Rescue, int] | None:
        """A moment, and the index of the first of two of its tables that have become about as large."""
        for each in self._manifest.state.rescues:
            for at in range(len(each.tables) - 1, 0, -1):
                first, second = each.tables[at - 1], each.tables[at]
                if 2 * second.entries >= first.entries and second.number not in self._unmerged:
                    return each, at - 1
        return None

    async def _merge(self, owner: Rescue, at: int) -> None:
        first, second = owner.tables[at : at + 2]
        number = self._manifest.state.next_rescue
        spec = MergeSpec(
            self._directory.path, self._log.volume_id, meta_of(owner), first.number, second.number, number
        )
        try:
            done = await self._log.work.job(merge_tables, spec)
        except (Damaged, OSError, JobFailed) as error:
            self._unmerged.add(second.number)
            self._tell_unmerged(owner, error)
            return
        if self._rescued.users:  # somebody has begun to read the two meanwhile
            return
        merged = (*owner.tables[:at], RescueTable(number, done.entries), *owner.tables[at + 2 :])
        files = owner.files
        if len(merged) == 1:  # it alone says which are needed
            files = tuple(file for file in files if file.number in done.files)
        await self._record(replace(owner, tables=merged, files=files))
        named = {file.number for file in files}
        unneeded = tuple(run for run in done.unneeded if file_of(run[0]) in named)
        with suppress(OSError, JobFailed):  # what is not taken back now goes with the moment
            await self._log.work.job(give_back, self._directory.path, unneeded)
        await self._log.work.call(self._rescued.sweep)

    def _tell_unmerged(self, owner: Rescue, error: Damaged | JobFailed | OSError) -> None:
        gone = isinstance(error, FileNotFoundError)
        cause = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error.cause
        kind = EventKind.DAMAGE if gone or isinstance(error, Damaged) else EventKind.TROUBLE
        self._events.tell(f"rescued blocks of w{owner.moment.write}: {cause}", kind)
