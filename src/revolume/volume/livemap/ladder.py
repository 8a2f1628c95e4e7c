"""The ladder: maps of stretches of the log, so that any retained moment is a few maps and a short tail of the log.

The helper process makes the shortest rungs from the log, and merges neighbours into longer ones (``rung_plan.py``
says which is next). Each is durable before the manifest names it: its addresses are those of this log, and where
the log is cut or begun anew the same edit takes the rungs away. Nothing needs one: a moment opens without them as
well, by all of the log behind the horizon. So they give way first where the disk is short, and one that is damaged
is dropped and made anew. A rung that the horizon has passed goes; one that it has passed in part is still right,
because what lies below the horizon is in the image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Final

from revolume.blocks.numbers import Position
from revolume.chain.map_file import MapMeta, Written
from revolume.chain.rung_builder import MergeSpec, RungMade, RungSpec, make_rung, merge_rungs
from revolume.errors import Damaged
from revolume.host.disk import out_of_room
from revolume.volume.context import VolumeContext
from revolume.volume.heal.transfer_healer import TransferHealer
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.log_ranges import LogRanges
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.livemap.open_rungs import OpenRungs
from revolume.volume.livemap.rung_plan import Stretch, next_merge, next_stretch
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_edits import EditKind, pack_mark
from revolume.volume.metadata.rung import Rung, pack_dropped, pack_rung
from revolume.volume.open_log import OpenLog
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.reserve import Reserve
from revolume.volume.state.events import Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

ENTRY_BYTES: Final = 25
SHARE_OF_FREE: Final = 8
"""A rung is made where it takes no more than such a part of what is free on the disk."""
PAUSE_NS: Final = 10_000_000_000
"""After one that could not be made."""


class Ladder:
    """Of one volume. ``busy`` is held while the log is read: no fold gives it back meanwhile."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        image: VolumeImage,
        maps: MapFiles,
        rungs: OpenRungs,
        retained: RetainedPoints,
        ranges: LogRanges,
        reserve: Reserve,
        events: Events,
        tasks: UncancelledTasks,
        busy: asyncio.Lock,
        transfer_healer: TransferHealer,
    ) -> None:
        self._context = context
        self._log = log
        self._image = image
        self._maps = maps
        self._rungs = rungs
        self._retained = retained
        self._ranges = ranges
        self._reserve = reserve
        self._events = events
        self._tasks = tasks
        self._busy = busy
        self._transfer_healer = transfer_healer
        self._named = {rung.number for rung in log.manifest.state.rungs}
        self._unfit: set[int] = set()
        self._not_before_ns = 0
        self._stopped = False
        self._turn = asyncio.Lock()

    # What is to be done

    async def step(self) -> bool:
        """Do what is next, if anything: give up what is of no use, make one rung, or merge two. Whether there may
        be more. A rung that can't be made is tried again later."""
        async with self._turn:
            return await self._tasks.finish(self._step())

    async def _step(self) -> bool:
        await self._tidy()
        if self._stopped or self._reserve.missing or self._context.host.clock.monotonic_ns() < self._not_before_ns:
            return False
        try:
            return await self._grown()
        except (Damaged, OSError) as error:
            self._not_before_ns = self._context.host.clock.monotonic_ns() + PAUSE_NS
            if not isinstance(error, OSError) or not out_of_room(error):
                self._events.tell(f"a map of past changes could not be made: {error}")
            return False

    async def _grown(self) -> bool:
        usable = self._rungs.usable()
        pair = next_merge(usable)
        if pair is not None and self._affordable(sum(rung.entries for rung in pair)):
            await self._merge(*pair)
            return True
        points = [point for point in self._retained if point.number not in self._unfit]
        stretch = next_stretch(usable, self._image.horizon, points, self._context.options.rung_versions)
        if stretch is not None and self._affordable(2 * self._context.options.rung_versions):
            await self._make(stretch)
            return True
        return False

    def _affordable(self, entries: int) -> bool:
        room = self._context.directory.free_bytes() - self._reserve.missing - self._reserve.slack
        return entries * ENTRY_BYTES * SHARE_OF_FREE <= room

    # Giving up

    async def _tidy(self) -> None:
        """Drop what is damaged, what is of another log, and, where the disk lacks room that is to be kept back,
        everything; remove the files of what the manifest does not name any more."""
        self._rungs.note_damaged()
        rungs = self._log.manifest.state.rungs
        kept = set() if self._reserve.missing else {rung.number for rung in self._rungs.usable()}
        gone = [rung.number for rung in rungs if rung.number not in kept]
        if gone:
            await self.drop(gone)
        for number in self._named - {rung.number for rung in self._log.manifest.state.rungs}:
            self._named.discard(number)
            self._maps.retire(layout.rung_name(number))

    async def drop(self, numbers: Iterable[int]) -> None:
        """Give rungs up, durably. Their files go with the next step; whoever reads them goes on."""
        await self._log.manifest.record((EditKind.DROP_RUNGS, pack_dropped(numbers)))

    # Making

    async def _make(self, stretch: Stretch) -> None:
        point = stretch.upto
        horizon = self._image.horizon
        after = stretch.after or MapMeta(horizon.write, horizon.address, horizon.point)
        meta = MapMeta(point.write, point.address, point.number, after.write)
        async with self._busy:
            if after.point < self._image.horizon.point:
                return  # a fold was faster
            number = self._log.manifest.number
            await self._log.footers.written()
            made = await self._transfer_healer.with_records(partial(self._made, stretch, meta, number))
            if not made.whole:
                self._unfit.add(point.number)
                return
            await self._record(number, 0, made, after.point, meta, point.position)

    async def _made(self, stretch: Stretch, meta: MapMeta, number: int) -> RungMade:
        context = self._context
        spec = RungSpec(
            log_path=context.log_directory.path,
            maps_path=context.maps_directory.path,
            volume=context.volume_id,
            log_range=self._ranges.up_to_point(stretch.after, stretch.upto),
            meta=meta,
            name=layout.rung_name(number),
        )
        return await self._log.work.job(make_rung, spec)

    async def _merge(self, older: Rung, newer: Rung) -> None:
        number = self._log.manifest.number
        meta = MapMeta(newer.write, newer.address, newer.point, older.after_write)
        name, made = layout.rung_name(number), None
        try:
            with self._maps.in_use():
                made = await self._merged(older, newer, meta, name)
            if made is not None:
                await self._record(number, newer.level + 1, made, older.after, meta, newer.position)
        finally:
            if number not in self._named:
                self._maps.retire(name)

    async def _merged(self, older: Rung, newer: Rung, meta: MapMeta, name: str) -> RungMade | None:
        """A slice after the other; whoever waits for the helper has it in between. None: the volume is being
        closed."""
        written = Written()
        while not self._stopped:
            spec = MergeSpec(
                maps_path=self._context.maps_directory.path,
                volume=self._context.volume_id,
                older=layout.rung_name(older.number),
                newer=layout.rung_name(newer.number),
                meta=meta,
                name=name,
                before=written,
            )
            try:
                done = await self._log.work.job(merge_rungs, spec)
            except (Damaged, OSError) as error:
                if not isinstance(error, OSError) or not out_of_room(error):
                    self._rungs.damaged |= {older.number, newer.number}
                raise
            if done.made is not None:
                return done.made
            written = done.written
        return None

    async def _record(
        self, number: int, level: int, made: RungMade, after: int, meta: MapMeta, position: Position
    ) -> None:
        rung = Rung(
            number=number,
            level=level,
            ranges=made.ranges,
            entries=made.entries,
            after=after,
            after_write=meta.after,
            point=meta.point,
            write=meta.write,
            position=position,
            address=meta.address,
        )
        durable = await self._log.durable_end()
        self._named.add(number)
        await self._log.manifest.record((EditKind.DURABLE, pack_mark(durable)), (EditKind.RUNG, pack_rung(rung)))

    def stop(self) -> None:
        """Begin nothing any more, and leave what is being merged."""
        self._stopped = True
