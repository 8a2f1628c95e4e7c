"""What a primary says about itself: plain values, now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from revolume.blocks.geometry import BLOCK
from revolume.volume.branches.listed import branch_statuses
from revolume.volume.members.kept_points import KeptStatus, recorded_kept
from revolume.volume.members.mirror import Mirror
from revolume.volume.points.lost_blocks import lost_sentence
from revolume.volume.state.condition import Condition, state_of
from revolume.volume.state.damage import RANGES_TOLD, ranges
from revolume.volume.state.status import VolumeStatus, damaged_tables, holder_statuses
from revolume.volume.suspect.periods import suspect_statuses
from revolume.volume.suspect.suspicion import differs_words
from revolume.volume.unread import suspect

if TYPE_CHECKING:
    from revolume.volume.primary import Volume


def primary_status(volume: Volume, replies_wait: str = "") -> VolumeStatus:
    """``replies_wait``: why answers wait for a mirror, if they do."""
    log, pool, live, oldest = volume.log, volume.log.pool, volume.live, volume.oldest
    segment_bytes = pool.segment_blocks * BLOCK
    damaged = ranges(block for block in volume.damage.blocks if block not in volume.lost.blocks)
    state, reason = state_of(_condition(volume, replies_wait, damaged))
    return VolumeStatus(
        name=volume.name,
        directory=volume.context.directory.path,
        volume_id=volume.volume_id.hex(),
        size=volume.size,
        epoch=volume.epoch,
        state=state,
        reason=reason,
        position=volume.position,
        durable=log.commit.durable,
        write=volume.write,
        time_ns=log.appender.written_ns,
        point=volume.retained.last.number,
        points=len(volume.retained),
        horizon_write=oldest.write,
        horizon_time_ns=oldest.time_ns,
        log_bytes=(len(pool.by_use) - len(pool.ready)) * segment_bytes,
        log_budget_bytes=pool.limits.budget_bytes,
        log_ready_bytes=(len(pool.ready) + len(pool.free)) * segment_bytes,
        image_bytes=volume.image.bytes,
        partial_blocks=len(volume.partials),
        map_entries=len(live.overlay),
        map_bytes=live.overlay.used_bytes,
        holders=holder_statuses(volume.holders.all()),
        snapshots=tuple(volume.snapshots()),
        folding=volume.folder.folding,
        folds=volume.folder.folds,
        folded_blocks=volume.folder.folded_blocks,
        syncs=log.commit.syncs,
        transfers=log.writer.transfers,
        read_mismatches=volume.reader.mismatches,
        events=volume.events.all(),
        gave_way=volume.evictions.gave_way,
        damaged=damaged[:RANGES_TOLD],
        forecast=volume.outlook.now,
        branches=branch_statuses(volume.manifest.state),
        healed_blocks=volume.healer.healed_blocks,
        unhealed=volume.healer.unhealed.first(RANGES_TOLD),
        unhealed_count=len(volume.healer.unhealed),
        damaged_tables=damaged_tables(volume.rescued.damaged_tables(), volume.manifest.state.snapshots),
        suspect=suspect_statuses(volume.suspect.periods),
        scrub=volume.scrubber.status,
    )


def kept_status(volume: Volume, mirror: Mirror) -> KeptStatus:
    """Of one mirror of an open volume, now."""
    recorded, log, kept = recorded_kept(volume.manifest.state, mirror.state), volume.log, volume.mirrors.kept
    log_bytes = 0
    if mirror.state.kept:
        below = [point.address for point in volume.retained if point.write <= mirror.state.write]
        begin, end = (below or [volume.folder.horizon.address])[-1], log.appender.address
        log_bytes = max(0, end - begin - log.pool.gap_between(begin, end)) * BLOCK
    return KeptStatus(
        kept=recorded.kept,
        log_bytes=log_bytes,
        difference_bytes=recorded.difference_bytes,
        pin_point=recorded.pin_point,
        cut_point=None if mirror.cut is None else mirror.cut.point,
        cut_hold_ns=mirror.cut_hold_ns,
        cut_hold_p99_ns=kept.cut_hold_p99_ns,
    )


def _condition(volume: Volume, replies_wait: str, damaged: tuple[tuple[int, int], ...]) -> Condition:
    poisoned, lost = volume.log.commit.failure, volume.lost.still()
    stuck = volume.admission.waiting and volume.log.pool.stuck
    return Condition(
        poisoned=poisoned.cause if poisoned is not None else "",
        full=volume.admission.full,
        keeper=volume.holders.refusal(),
        log_waits=volume.mirrors.fold_blocker() if stuck else "",
        blocked=volume.admission.blocked,
        replies_wait=replies_wait,
        folding=volume.folder.failure or "",
        points=volume.upkeep.points_failure or "",
        history=suspect(volume.retained.unread, volume.folder.horizon.write),
        damaged=damaged,
        differs=differs_words(volume.manifest.state.suspect.differs_since),
        lost=lost_sentence(lost) if lost else "",
        forecast=volume.outlook.warning,
    )
