"""What keeps an open volume within its room, put together from its parts."""

from __future__ import annotations

from revolume.volume.dirty.dirty_regions import DirtyRegions
from revolume.volume.livemap.base_map_renewal import BaseMapRenewal
from revolume.volume.livemap.ladder import Ladder
from revolume.volume.livemap.log_ranges import LogRanges
from revolume.volume.livemap.open_rungs import OpenRungs
from revolume.volume.space.disk_room import DiskRoom
from revolume.volume.space.fold_planner import FoldPlanner
from revolume.volume.space.folder import Folder
from revolume.volume.space.forecast import Outlook
from revolume.volume.space.history_room import HistoryRoom
from revolume.volume.space.horizon_flip import HorizonFlip
from revolume.volume.space.keep_order import KeepOrders
from revolume.volume.space.make_room import Evictions
from revolume.volume.space.rescuer import Rescuer
from revolume.volume.space.space_parts import SpaceParts
from revolume.volume.volume_base import Parts


def build_space(parts: Parts) -> SpaceParts:
    """What keeps log, image and maps within their room."""
    log, image, retained = parts.log, parts.image, parts.retained
    ranges = LogRanges(log, retained, image)
    room = DiskRoom(parts.context.directory, log, parts.reserve, parts.cover, parts.busy)
    dirty = DirtyRegions(
        parts.context.directory,
        log=log,
        image=image,
        busy=parts.busy,
        take_reserve=room.take,
        events=parts.events,
    )
    planner = _planner(parts, ranges, room)
    history = HistoryRoom(
        pins=parts.policy,
        planner=planner,
        holders=parts.holders,
        manifest=parts.manifest,
        events=parts.events,
    )
    folder = _folder(parts, planner, history, room, dirty)
    base_maps = BaseMapRenewal(
        parts.context,
        log=log,
        live=parts.live,
        image=image,
        maps=parts.maps,
        retained=retained,
        ranges=ranges,
        reserve=parts.reserve,
        events=parts.events,
        tasks=parts.tasks,
        busy=parts.busy,
        transfer_healer=parts.transfer_healer,
    )
    rungs = OpenRungs(parts.maps, parts.manifest, retained)
    evictions = Evictions(
        holders=parts.holders,
        retained=retained,
        folder=folder,
        log=log,
        cover=parts.cover,
        events=parts.events,
    )
    outlook = _outlook(parts)
    return SpaceParts(
        ranges=ranges,
        room=room,
        folder=folder,
        base_maps=base_maps,
        rungs=rungs,
        ladder=_ladder(parts, ranges, rungs),
        evictions=evictions,
        history=history,
        outlook=outlook,
        retention=_keep_orders(parts, planner, outlook),
        dirty=dirty,
    )


def _ladder(parts: Parts, ranges: LogRanges, rungs: OpenRungs) -> Ladder:
    return Ladder(
        parts.context,
        log=parts.log,
        image=parts.image,
        maps=parts.maps,
        rungs=rungs,
        retained=parts.retained,
        ranges=ranges,
        reserve=parts.reserve,
        events=parts.events,
        tasks=parts.tasks,
        busy=parts.busy,
        transfer_healer=parts.transfer_healer,
    )


def _outlook(parts: Parts) -> Outlook:
    return Outlook(
        parts.context,
        log=parts.log,
        image=parts.image,
        retained=parts.retained,
        holders=parts.holders,
        reserve=parts.reserve,
        events=parts.events,
    )


def _keep_orders(parts: Parts, planner: FoldPlanner, outlook: Outlook) -> KeepOrders:
    return KeepOrders(
        parts.context,
        log=parts.log,
        image=parts.image,
        retained=parts.retained,
        pins=parts.policy,
        planner=planner,
        outlook=outlook,
    )


def _planner(parts: Parts, ranges: LogRanges, room: DiskRoom) -> FoldPlanner:
    return FoldPlanner(
        parts.context,
        log=parts.log,
        image=parts.image,
        retained=parts.retained,
        sizes=parts.sizes,
        ranges=ranges,
        holders=parts.holders,
        policy=parts.policy,
        room=room,
    )


def _folder(
    parts: Parts, planner: FoldPlanner, history: HistoryRoom, room: DiskRoom, dirty: DirtyRegions
) -> Folder:
    flip = HorizonFlip(
        log=parts.log,
        image=parts.image,
        live=parts.live,
        maps=parts.maps,
        retained=parts.retained,
        room=room,
        policy=parts.policy,
    )
    rescuer = Rescuer(
        parts.context.directory,
        log=parts.log,
        image=parts.image,
        rescued=parts.rescued,
        holders=parts.holders,
        healer=parts.healer,
        events=parts.events,
    )
    return Folder(
        planner=planner,
        flip=flip,
        room=room,
        log=parts.log,
        image=parts.image,
        rescuer=rescuer,
        history=history,
        dirty=dirty,
        healer=parts.healer,
        transfer_healer=parts.transfer_healer,
        clock=parts.context.host.clock,
        events=parts.events,
        tasks=parts.tasks,
        busy=parts.busy,
    )
