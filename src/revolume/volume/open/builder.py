"""An open volume put together from its parts: as primary, as a mirror's copy, or only to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.point import Point
from revolume.log.format.transfer import Kind
from revolume.volume.heal.block_finder import BlockFinder
from revolume.volume.heal.healing import Healing
from revolume.volume.heal.transfer_finder import TransferFinder
from revolume.volume.image.base_receiver import BaseFill
from revolume.volume.jump.agreed_image import AgreedImage
from revolume.volume.jump.jump_proof import JumpProof
from revolume.volume.jump.jumping import Jumping
from revolume.volume.members.feed import Feed
from revolume.volume.members.forks import Forks
from revolume.volume.members.lost_mirrors import LostMirrors
from revolume.volume.members.membership import Membership
from revolume.volume.members.mirrors import Mirrors
from revolume.volume.members.received_log import ReceivedLog
from revolume.volume.members.resync_points import PinnedResyncPoints, StatedResyncPoints
from revolume.volume.metadata.bound_source import Bound
from revolume.volume.open.space_builder import build_space
from revolume.volume.points.apply_point import PointApplier
from revolume.volume.points.named_moments import NamedMoments
from revolume.volume.points.point_maker import PointMaker
from revolume.volume.points.received_facts import ReceivedFacts
from revolume.volume.points.record_processor import RecordProcessor
from revolume.volume.primary import PrimaryParts, Volume
from revolume.volume.primary_upkeep import PrimaryUpkeep
from revolume.volume.rescue.received_moments import ReceivedMoments
from revolume.volume.secondary import Secondary, SecondaryParts
from revolume.volume.secondary_upkeep import SecondaryUpkeep
from revolume.volume.space.folder import Folder
from revolume.volume.space.holder import HolderKind
from revolume.volume.space.make_room import PrimaryRoom
from revolume.volume.space.mirror_room import MirrorRoom
from revolume.volume.space.oldest_moment import oldest_moment
from revolume.volume.space.space_parts import SpaceParts
from revolume.volume.volume_base import Parts


def build_primary(parts: Parts) -> Volume:
    """A volume that clients change. It is not started."""
    space = build_space(parts)
    point_maker = _point_maker(parts)
    forks = Forks(manifest=parts.manifest, holders=parts.holders, events=parts.events, tasks=parts.tasks)
    membership = Membership(
        log=parts.log,
        tasks=parts.tasks,
        forks=forks,
        resync_points=StatedResyncPoints(parts.log, parts.retained),
    )
    mirrors = _mirrors(parts, space, point_maker, membership)
    room = PrimaryRoom(
        log=parts.log,
        live=parts.live,
        partials=parts.partials,
        retained=parts.retained,
        holders=parts.holders,
        evictions=space.evictions,
        folder=space.folder,
        history=space.history,
        point_maker=point_maker,
        mirrors=mirrors,
        events=parts.events,
        clock=parts.context.host.clock,
    )
    parts.admission.served_by(room)
    names = NamedMoments(
        parts.context.name,
        log=parts.log,
        image=parts.image,
        holders=parts.holders,
        point_maker=point_maker,
        admission=parts.admission,
        policy=parts.policy,
        events=parts.events,
    )
    upkeep = _primary_upkeep(parts, space, point_maker, names)
    lost_mirrors = LostMirrors(
        mirrors,
        membership,
        log=parts.log,
        clock=parts.context.host.clock,
        events=parts.events,
        tasks=parts.tasks,
    )
    feed = Feed(parts.log)
    own = PrimaryParts(
        space=space, point_maker=point_maker, feed=feed, healing=_healing(parts, feed), mirrors=mirrors,
        membership=membership, names=names, upkeep=upkeep, lost_mirrors=lost_mirrors,
    )  # fmt: skip
    return Volume(parts, own)


def _primary_upkeep(
    parts: Parts, space: SpaceParts, point_maker: PointMaker, names: NamedMoments
) -> PrimaryUpkeep:
    return PrimaryUpkeep(
        parts.context,
        log=parts.log,
        live=parts.live,
        reader=parts.reader,
        damage=parts.damage,
        sizes=parts.sizes,
        clocks=parts.clocks,
        reserve=parts.reserve,
        space=space,
        point_maker=point_maker,
        events=parts.events,
        healer=parts.healer,
        forget_marks=partial(_forget_marks, parts, space.folder),
        drop_expired=names.drop_expired,
    )


def _healing(parts: Parts, feed: Feed) -> Healing:
    finder = BlockFinder(parts.log, parts.store, parts.live, parts.rescued, feed.segment_of)
    return Healing(parts.healer.siblings, finder, TransferFinder(parts.log, feed.segment_of))


def _point_maker(parts: Parts) -> PointMaker:
    return PointMaker(
        parts.context,
        log=parts.log,
        live=parts.live,
        partials=parts.partials,
        image=parts.image,
        reader=parts.reader,
        retained=parts.retained,
        lost=parts.lost,
        sizes=parts.sizes,
        admission=parts.admission,
        events=parts.events,
        tasks=parts.tasks,
        due=parts.cut_due,
    )


def _mirrors(parts: Parts, space: SpaceParts, point_maker: PointMaker, membership: Membership) -> Mirrors:
    folder = space.folder
    return Mirrors(
        parts.context.name,
        manifest=parts.manifest,
        commit=parts.log.commit,
        retained=parts.retained,
        holders=parts.holders,
        events=parts.events,
        tasks=parts.tasks,
        point_maker=point_maker,
        clock=parts.context.host.clock,
        written=lambda: parts.log.appender.written,
        retired=lambda: folder.retired_write,
        dirty=space.dirty,
        changed=membership.changed,
    )


def build_secondary(parts: Parts, agreed: Point) -> Secondary:
    """A mirror's copy, which only its source changes, at the last point that it has agreed to. It is not
    started."""
    space = build_space(parts)
    incomplete = parts.manifest.state.base is not None
    resync_points = _pinned_resync_points(parts, space.folder)
    point_applier = _point_applier(parts)
    records = _record_processor(parts, space, point_applier, resync_points, agreed)
    room = MirrorRoom(
        pool=parts.log.pool,
        records=records,
        folder=space.folder,
        history=space.history,
        evictions=space.evictions,
        holders=parts.holders,
        resync_points=resync_points,
        events=parts.events,
        clock=parts.context.host.clock,
    )
    parts.admission.served_by(room)
    feed = Feed(parts.log)
    agreed_image = AgreedImage(
        records=records, folder=space.folder, holders=parts.holders, events=parts.events
    )
    own = SecondaryParts(
        space=space,
        feed=feed,
        healing=_healing(parts, feed),
        received=received_log(parts, records.add),
        records=records,
        point_applier=point_applier,
        upkeep=_secondary_upkeep(parts, space, records, room),
        bound=Bound(parts.manifest, parts.log.commit),
        base=BaseFill(parts.context, parts.image, parts.manifest) if incomplete else None,
        moments=ReceivedMoments(
            parts.context.directory,
            parts.log.volume_id,
            manifest=parts.manifest,
            image=parts.image,
            rescued=parts.rescued,
            work=parts.log.work,
        ),
        agreed_image=agreed_image,
        jumping=_jumping(parts, space, records, agreed_image, resync_points),
    )
    return Secondary(parts, own)


def _record_processor(
    parts: Parts,
    space: SpaceParts,
    point_applier: PointApplier,
    resync_points: PinnedResyncPoints,
    agreed: Point,
) -> RecordProcessor:
    received_facts = ReceivedFacts(
        parts.manifest,
        clocks=parts.clocks,
        resync_points=resync_points,
        hold=partial(_held, parts, space.folder),
    )
    return RecordProcessor(
        parts.context,
        log=parts.log,
        live=parts.live,
        image=parts.image,
        retained=parts.retained,
        sizes=parts.sizes,
        base_maps=space.base_maps,
        point_applier=point_applier,
        received_facts=received_facts,
        events=parts.events,
        agreed=agreed,
        waits_for_base=parts.manifest.state.base is not None,
    )


def _point_applier(parts: Parts) -> PointApplier:
    return PointApplier(
        parts.context,
        log=parts.log,
        live=parts.live,
        image=parts.image,
        retained=parts.retained,
        admission=parts.admission,
        suspect=parts.suspect,
        events=parts.events,
    )


def _pinned_resync_points(parts: Parts, folder: Folder) -> PinnedResyncPoints:
    return PinnedResyncPoints(
        manifest=parts.manifest,
        retained=parts.retained,
        holders=parts.holders,
        events=parts.events,
        retired=lambda: folder.retired_write,
    )


def _jumping(
    parts: Parts,
    space: SpaceParts,
    records: RecordProcessor,
    agreed_image: AgreedImage,
    resync_points: PinnedResyncPoints,
) -> Jumping:
    return Jumping(
        parts.context,
        log=parts.log,
        proof=JumpProof(parts.context, log=parts.log, live=parts.live, image=parts.image, room=space.room),
        records=records,
        agreed_image=agreed_image,
        resync_points=resync_points,
        suspect=parts.suspect,
        events=parts.events,
        tasks=parts.tasks,
    )


async def _forget_marks(parts: Parts, folder: Folder) -> None:
    """Of moments that nobody can open any more."""
    oldest = oldest_moment(folder.horizon, folder.retired_write, parts.retained).write
    await parts.suspect.prune(min([oldest, *parts.holders.pinned_writes()]))
    await parts.suspect.forget_finding(parts.image.horizon.point)


def _held(parts: Parts, folder: Folder, write: WriteNumber, owner: str) -> Callable[[], None] | None:
    gone = write < folder.retired_write
    return None if gone else parts.holders.lease(HolderKind.UNDER_WAY, owner, write)


def received_log(parts: Parts, on_record: Callable[[Kind, Position, Address], None]) -> ReceivedLog:
    """Where transfers of another node go. ``on_record`` is told kind, position and address of each record."""
    return ReceivedLog(
        parts.log,
        admission=parts.admission,
        cover=parts.cover,
        source_clock=parts.clocks.source,
        unsynced_bytes_max=parts.unsynced_bytes_max,
        on_record=on_record,
    )


def _secondary_upkeep(
    parts: Parts, space: SpaceParts, records: RecordProcessor, room: MirrorRoom
) -> SecondaryUpkeep:
    return SecondaryUpkeep(
        parts.context,
        log=parts.log,
        records=records,
        room=room,
        space=space,
        reserve=parts.reserve,
        events=parts.events,
        healer=parts.healer,
        forget_marks=partial(_forget_marks, parts, space.folder),
    )
