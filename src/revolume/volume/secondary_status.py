"""What a mirror says about itself, in the same values as a volume: its present is its last agreed point."""

from __future__ import annotations

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.volume.branches.listed import branch_statuses
from revolume.volume.secondary import Secondary
from revolume.volume.state.condition import Condition, state_of
from revolume.volume.state.damage import RANGES_TOLD, ranges
from revolume.volume.state.status import VolumeStatus, damaged_tables, holder_statuses, jump_status
from revolume.volume.suspect.periods import suspect_statuses
from revolume.volume.suspect.suspicion import differs_words


def secondary_status(secondary: Secondary) -> VolumeStatus:
    """Plain values, now."""
    log, pool, live = secondary.log, secondary.log.pool, secondary.live
    segment_bytes = pool.segment_blocks * BLOCK
    write, time_ns = secondary.newest
    damaged = ranges(secondary.damage.blocks)
    word, reason = state_of(_condition(secondary, damaged))
    return VolumeStatus(
        name=secondary.name,
        directory=secondary.context.directory.path,
        volume_id=secondary.volume_id.hex(),
        size=secondary.size,
        epoch=log.appender.epoch,
        state=word,
        reason=reason,
        position=secondary.received,
        durable=secondary.durable,
        write=write,
        time_ns=time_ns,
        point=secondary.agreed.number,
        points=len(secondary.retained),
        horizon_write=secondary.oldest.write,
        horizon_time_ns=secondary.oldest.time_ns,
        log_bytes=(len(pool.by_use) - len(pool.ready)) * segment_bytes,
        log_budget_bytes=pool.limits.budget_bytes,
        log_ready_bytes=(len(pool.ready) + len(pool.free)) * segment_bytes,
        image_bytes=secondary.image.bytes,
        partial_blocks=0,
        map_entries=len(live.overlay),
        map_bytes=live.overlay.used_bytes,
        holders=holder_statuses(secondary.holders.all()),
        snapshots=tuple(secondary.snapshots()),
        folding=secondary.folder.folding,
        folds=secondary.folder.folds,
        folded_blocks=secondary.folder.folded_blocks,
        syncs=log.commit.syncs,
        transfers=log.writer.transfers,
        read_mismatches=secondary.reader.mismatches,
        events=secondary.events.all(),
        gave_way=secondary.evictions.gave_way,
        damaged=damaged[:RANGES_TOLD],
        forecast=secondary.outlook.now,
        branches=branch_statuses(secondary.manifest.state),
        suspect=suspect_statuses(secondary.suspect.periods),
        scrub=secondary.scrubber.status,
        jump=jump_status(secondary.jump),
        healed_blocks=secondary.healer.healed_blocks,
        unhealed=secondary.healer.unhealed.first(RANGES_TOLD),
        unhealed_count=len(secondary.healer.unhealed),
        damaged_tables=damaged_tables(secondary.rescued.damaged_tables(), secondary.manifest.state.snapshots),
    )


def _condition(secondary: Secondary, damaged: tuple[tuple[int, int], ...]) -> Condition:
    poisoned = secondary.log.commit.failure
    return Condition(
        poisoned=poisoned.cause if poisoned is not None else "",
        diverged=secondary.failure.cause if secondary.failure is not None else "",
        incomplete=secondary.base is not None,
        full=secondary.admission.full,
        keeper=secondary.holders.refusal(),
        folding=secondary.folder.failure or "",
        damaged=damaged,
        differs=differs_words(secondary.manifest.state.suspect.differs_since),
        damaged_past=secondary.damage.in_past(secondary.folder.retired_write),
        forecast=secondary.outlook.warning,
    )


def empty_status(directory: str, reason: str) -> VolumeStatus:
    """Of a mirror that has no volume yet."""
    return VolumeStatus(
        name="",
        directory=directory,
        volume_id="",
        size=0,
        epoch=0,
        state="empty",
        reason=reason,
        position=Position(0),
        durable=Position(0),
        write=WriteNumber(0),
        time_ns=0,
        point=0,
        points=0,
        horizon_write=WriteNumber(0),
        horizon_time_ns=0,
        log_bytes=0,
        log_budget_bytes=0,
        log_ready_bytes=0,
        image_bytes=0,
        partial_blocks=0,
        map_entries=0,
        map_bytes=0,
        holders=(),
        snapshots=(),
        folding=False,
        folds=0,
        folded_blocks=0,
        syncs=0,
        transfers=0,
        read_mismatches=0,
        events=(),
    )
