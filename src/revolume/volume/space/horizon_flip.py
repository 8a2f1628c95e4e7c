"""The flip that ends a fold: the manifest names the new horizon, and memory follows in one step."""

from __future__ import annotations

from revolume.chain.point import Point
from revolume.volume.image.fold_job import FoldSpec
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.metadata.manifest_edits import EditKind, pack_pairs
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.metadata.moment_edits import pack_horizon
from revolume.volume.open_log import OpenLog
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.disk_room import DiskRoom
from revolume.volume.space.policy_pins import PolicyPins


class HorizonFlip:
    """Moves the horizon of one volume."""

    def __init__(
        self,
        *,
        log: OpenLog,
        image: VolumeImage,
        live: LiveMap,
        maps: MapFiles,
        retained: RetainedPoints,
        room: DiskRoom,
        policy: PolicyPins,
    ) -> None:
        self._log = log
        self._image = image
        self._live = live
        self._maps = maps
        self._retained = retained
        self._room = room
        self._policy = policy

    async def to(self, target: Point, job: FoldSpec) -> None:
        """``job`` is done: the image stands at ``target``. What may fail comes before the horizon's edit: from
        there on memory has to follow the manifest."""
        log, image, live, maps = self._log, self._image, self._live, self._maps
        digests = await log.work.call(image.digests.committed, job.pages_generation)
        gone = [s for s in log.pool.by_use.values() if s.use < target.address // log.pool.segment_blocks]
        freed = {segment.index: 0 for segment in gone}
        passed = live.base is not None and live.based <= target.address
        base_name = maps.base_name
        record = log.manifest.record(
            (EditKind.HORIZON, pack_horizon(_horizon(target, job))),
            (EditKind.USES, pack_pairs(freed)),
            (EditKind.BASE_MAP, b"" if passed else base_name.encode()),
            *self._policy.edits(target),
        )
        async with image.flip(record):
            image.digests.adopt(digests)
            base = live.moved_horizon(target.address)
            maps.base_name = "" if base is not None else base_name
        if base is not None:
            base.close()
            maps.retire(base_name)
        self._retained.forget_before(target.number)
        log.manifest.header.horizon = target.write
        log.pool.give_back([segment.use for segment in gone])
        await self._room.freed(freed)


def _horizon(target: Point, job: FoldSpec) -> Horizon:
    return Horizon(
        point=target.number,
        write=target.write,
        position=target.position,
        address=target.address,
        time_ns=target.time_ns,
        size=job.size,
        root_low=target.root[0],
        root_high=target.root[1],
        chain=target.chain,
        pages_generation=job.pages_generation,
    )
