"""What keeps an open volume's log, image and maps within their room, put together."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.volume.dirty.dirty_regions import DirtyRegions
from revolume.volume.livemap.base_map_renewal import BaseMapRenewal
from revolume.volume.livemap.ladder import Ladder
from revolume.volume.livemap.log_ranges import LogRanges
from revolume.volume.livemap.open_rungs import OpenRungs
from revolume.volume.space.disk_room import DiskRoom
from revolume.volume.space.folder import Folder
from revolume.volume.space.forecast import Outlook
from revolume.volume.space.history_room import HistoryRoom
from revolume.volume.space.keep_order import KeepOrders
from revolume.volume.space.make_room import Evictions


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceParts:
    """Made by the builder, for the facades and their upkeep."""

    ranges: LogRanges
    room: DiskRoom
    folder: Folder
    base_maps: BaseMapRenewal
    rungs: OpenRungs
    ladder: Ladder
    evictions: Evictions
    history: HistoryRoom
    retention: KeepOrders
    outlook: Outlook
    dirty: DirtyRegions
