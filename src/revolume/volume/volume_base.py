"""What a primary and a secondary have in common: an open volume that remembers, whoever changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.volume.branches.branch_files import sweep_branches
from revolume.volume.branches.names import branch_named
from revolume.volume.clocks.volume_clocks import VolumeClocks
from revolume.volume.context import VolumeContext
from revolume.volume.heal.healer import Healer
from revolume.volume.heal.transfer_healer import TransferHealer
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.livemap.partial_blocks import PartialBlocks
from revolume.volume.livemap.reader import Reader, Store
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.open_log import OpenLog
from revolume.volume.points.isolated_points import isolated_points, listed_snapshots
from revolume.volume.points.lost_blocks import LostBlocks
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.rescue.rescued_blocks import RescuedBlocks
from revolume.volume.scrub.assembled import scrubber
from revolume.volume.size_history import SizeHistory
from revolume.volume.space.admission import Admission
from revolume.volume.space.copy_on_write import Cover
from revolume.volume.space.holders import Holders
from revolume.volume.space.oldest_moment import oldest_moment
from revolume.volume.space.policy_pins import PolicyPins
from revolume.volume.space.reserve import Reserve
from revolume.volume.space.space_parts import SpaceParts
from revolume.volume.state.damage import Damage
from revolume.volume.state.events import Events
from revolume.volume.state.status import OldestMoment, Snapshot
from revolume.volume.suspect.other_copies import other_copies
from revolume.volume.suspect.periods import SuspectPeriods
from revolume.volume.suspect.suspect_history import SuspectHistory
from revolume.volume.uncancelled_tasks import UncancelledTasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an opening assembles for either facade. Only the builder and the facades know it; each part was given
    what it uses when it was made. ``busy`` is held by one job at a time over files that the others would exchange
    or change: a fold, a new base map, a repair of the image. ``cut_due`` is set when a point shall be made before
    its time."""

    context: VolumeContext
    manifest: ManifestWriter
    tasks: UncancelledTasks
    events: Events
    log: OpenLog
    live: LiveMap
    partials: PartialBlocks
    image: VolumeImage
    rescued: RescuedBlocks
    store: Store
    reader: Reader
    healer: Healer
    transfer_healer: TransferHealer
    busy: asyncio.Lock
    damage: Damage
    maps: MapFiles
    retained: RetainedPoints
    lost: LostBlocks
    sizes: SizeHistory
    clocks: VolumeClocks
    holders: Holders
    policy: PolicyPins
    reserve: Reserve
    cover: Cover
    admission: Admission
    suspect: SuspectHistory
    cut_due: asyncio.Event

    @property
    def unsynced_bytes_max(self) -> int:
        """More of the log unsynced than this starts a sync; twice that waits for one."""
        return self.reserve.unsynced_max(self.context.options.unsynced_bytes_max)


class OpenVolume:
    """An open volume as its history sees it. Its parts are for whoever shows the past, ships the log, or tests;
    none of them knows the volume."""

    def __init__(self, parts: Parts, space: SpaceParts) -> None:
        self.context = parts.context
        self.manifest = parts.manifest
        self.tasks = parts.tasks
        self.events = parts.events
        self.log = parts.log
        self.live = parts.live
        self.partials = parts.partials
        self.image = parts.image
        self.rescued = parts.rescued
        self.store = parts.store
        self.reader = parts.reader
        self.healer = parts.healer
        self.transfer_healer = parts.transfer_healer
        self.damage = parts.damage
        self.maps = parts.maps
        self.retained = parts.retained
        self.lost = parts.lost
        self.sizes = parts.sizes
        self.clocks = parts.clocks
        self.holders = parts.holders
        self.policy = parts.policy
        self.reserve = parts.reserve
        self.admission = parts.admission
        self.suspect = parts.suspect
        self.ranges = space.ranges
        self.disk_room = space.room
        self.folder = space.folder
        self.base_maps = space.base_maps
        self.rungs = space.rungs
        self.ladder = space.ladder
        self.evictions = space.evictions
        self.outlook = space.outlook
        self.retention = space.retention
        self.dirty = space.dirty
        self.unsynced_bytes_max = parts.unsynced_bytes_max
        self.scrubber = scrubber(
            parts.context, log=parts.log, image=parts.image, rescued=parts.rescued, live=parts.live,
            maps=parts.maps, space=space, healer=parts.healer, transfer_healer=parts.transfer_healer,
            events=parts.events,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The volume's name, also its export's."""
        return self.context.name

    @property
    def size(self) -> int:
        """Bytes, now."""
        return self.sizes.now

    @property
    def volume_id(self) -> bytes:
        """128 random bits, the same on every node."""
        return self.context.volume_id

    @property
    def newest(self) -> tuple[WriteNumber, int]:
        """The newest moment: the last write's number and label."""
        return self.log.appender.written, self.log.appender.written_ns

    @property
    def oldest(self) -> OldestMoment:
        """The first moment that can be opened."""
        return oldest_moment(self.folder.horizon, self.folder.retired_write, self.retained)

    def isolated(self, write: WriteNumber) -> bool:
        """Whether this is a pinned moment that the horizon has reached or left: what lies around it is gone."""
        horizon = self.folder.horizon.write
        if write > horizon or write not in self.holders.pinned_writes():
            return False
        return write == horizon or self.rescued.moment(write) is not None

    def isolated_points(self) -> list[Point]:
        """The points of the pinned moments that the horizon has left, oldest first."""
        return isolated_points(self.manifest.state, self.holders.pinned_writes(), self.oldest.write)

    def size_at(self, write: WriteNumber) -> int:
        """The volume's size in bytes as of a retained moment."""
        moment = self.rescued.moment(write)
        return moment.size if moment is not None else self.sizes.at(write)

    @property
    def suspect_periods(self) -> SuspectPeriods:
        """Which of its moments are suspect, now."""
        return self.suspect.periods

    @property
    def elsewhere(self) -> str:
        """Where the volume's other copies are, for a sentence; empty if none is known."""
        return other_copies(self.manifest.state)

    def points(self) -> list[Point]:
        """The retained points, oldest first."""
        return list(self.retained)

    def open_points(self) -> list[Point]:
        """All points that can be opened, oldest first; before the oldest moment, pinned ones alone."""
        oldest = self.oldest.write
        return self.isolated_points() + [point for point in self.retained if point.write >= oldest]

    def snapshots(self) -> list[Snapshot]:
        """The named moments, oldest first."""
        return listed_snapshots(self.manifest.state, self.newest[0], lived_ms=self.policy.now_ms)

    async def drop_branch(self, name: str) -> None:
        """Give a branch up, durably, and its room: what is open of it stays readable. NotFound: there is none."""
        branch_named(self.manifest.state, name)
        await self.manifest.record((EditKind.DROP_BRANCH, name.encode()))
        await self.log.work.call(sweep_branches, self.context.directory, self.manifest.state.branches)

    async def close_parts(
        self, finish: Callable[[], Awaitable[None]], release: Callable[[], Awaitable[None]]
    ) -> None:
        """End what is under way and close the files; ``finish`` ends the log cleanly, unless the volume is
        poisoned, and ``release`` lets go of what is the facade's own."""
        log = self.log
        self.ladder.stop()
        await self.scrubber.stop()
        await self.tasks.settled()
        try:
            if log.commit.failure is None:
                await finish()
        finally:
            await release()
            await log.pool.stop()
            await self.tasks.settled()
            await log.commit.wait_idle()
            await log.footers.written()
            self.close_files()

    def close_files(self) -> None:
        """Let go of everything, the directory's lock last."""
        self.log.pool.close()
        self.reserve.close()
        self.image.close()
        self.rescued.close()
        self.rungs.close()
        if self.live.base is not None:
            self.live.base.close()
        self.manifest.close()
        self.context.log_directory.close()
        self.context.maps_directory.close()
        self.context.directory.close()
