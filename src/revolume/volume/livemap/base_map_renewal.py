"""Renewing the live map's base map while the volume is open.

When the overlay fills up, when an opening would have to read much log, or when the base is damaged, the helper
process merges what changed since the last base, up to the newest point, into a new one.
"""

from __future__ import annotations

import asyncio
from functools import partial

from revolume.chain.map_builder import MapMade, MapSpec, make_map
from revolume.chain.point import Point
from revolume.errors import Damaged
from revolume.host.disk import out_of_room
from revolume.volume.context import VolumeContext
from revolume.volume.heal.transfer_healer import TransferHealer
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.log_ranges import LogRanges
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_edits import EditKind, pack_mark
from revolume.volume.open_log import OpenLog
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.reserve import Reserve
from revolume.volume.state.events import Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

RENEWAL_SEGMENTS = 48
RENEWAL_PRESSURE = 0.5


class BaseMapRenewal:
    """Of one volume. ``busy`` is held meanwhile: no fold gives back what the job reads."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        live: LiveMap,
        image: VolumeImage,
        maps: MapFiles,
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
        self._live = live
        self._image = image
        self._maps = maps
        self._retained = retained
        self._ranges = ranges
        self._reserve = reserve
        self._events = events
        self._tasks = tasks
        self._busy = busy
        self._transfer_healer = transfer_healer

    def due(self) -> bool:
        """Whether the live map wants a new base."""
        if not self._possible():
            return False
        pool, live = self._log.pool, self._live
        since = self._log.appender.address - max(live.based, live.folded)
        return (
            live.overlay.pressure > RENEWAL_PRESSURE
            or since > RENEWAL_SEGMENTS * pool.segment_blocks
            or self._damaged()
        )

    async def renew(self, force: bool = False) -> None:
        """Merge what changed since the last base, up to the newest point, into a new base map, if one is due or
        with ``force`` possible. Damaged, OSError: the base is as it was."""
        await self._tasks.finish(self._renew(force))

    def _damaged(self) -> bool:
        base = self._live.base
        return base is not None and base.damaged

    def _possible(self) -> bool:
        """There is a newer point than the base's, or the base is damaged and its own point will do."""
        live, newest = self._live, self._retained.newest_address
        return newest > max(live.based, live.folded) or (self._damaged() and newest == live.based > live.folded)

    async def _renew(self, force: bool) -> None:
        async with self._busy:
            point = self._retained.newest
            if point is None or not self._possible() or not (force or self.due()):
                return
            durable = await self._log.durable_end()
            await self._log.footers.written()
            name = layout.base_map_name(point.number, self._log.manifest.number)
            await self._make(point, name)
            await self._log.manifest.record(
                (EditKind.DURABLE, pack_mark(durable)), (EditKind.BASE_MAP, name.encode())
            )
            base = self._maps.open(name)
            async with self._image.exchange():
                old = self._live.moved_base(base, point.address)
                old_name, self._maps.base_name = self._maps.base_name, name
            if old is not None:
                old.close()
                self._maps.retire(old_name)

    async def _make(self, point: Point, name: str) -> None:
        spec = self._spec(point, name)
        try:
            made = await self._transfer_healer.with_records(partial(self._made, spec))
        except Damaged:
            if spec.base and self._live.base is not None:
                self._live.base.damaged = True  # the next attempt does without it
            raise
        if made.fragments:
            raise Damaged(
                "point-damaged",
                f"Point cp{point.number} does not carry every block that was partially modified before it.",
                "Run 'revolume check' on the stopped volume.",
            )

    def _spec(self, point: Point, name: str) -> MapSpec:
        """A base up to ``point``, over the one that there is. A damaged one is left aside, and not tried twice
        before it is met again: the log has all that it had."""
        context, base, base_name = self._context, self._live.base, self._maps.base_name
        if base is not None and base.damaged:
            self._events.tell(f"the map {base_name} is damaged and is made anew")
            base.damaged, base = False, None
        after = base.meta.write if base is not None else self._image.horizon.write
        return MapSpec(
            log_path=context.log_directory.path,
            maps_path=context.maps_directory.path,
            volume=context.volume_id,
            log_range=self._ranges.up_to_point(base.meta if base is not None else None, point),
            base=base_name if base is not None else "",
            after=after,
            upto=point.write,
            folded=self._live.folded,
            name=name,
            address=point.address,
            point=point.number,
        )

    async def _made(self, spec: MapSpec) -> MapMade:
        """With no room, once more with the room that was kept back: a new base gives memory, which folds need."""
        work = self._log.work
        try:
            return await work.job(make_map, spec)
        except OSError as error:
            if not out_of_room(error) or not await work.call(self._reserve.take):
                raise
            return await work.job(make_map, spec)
