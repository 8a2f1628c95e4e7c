"""What a mirror says about itself, in the same values as a volume: its present is its last agreed point."""

from __future__ import annotations

from revolume.log.transfer import BLOCK
from revolume.volume.condition import Condition, state_of
from revolume.volume.damage import RANGES_TOLD, ranges
from revolume.volume.folder import holders
from revolume.volume.room import refusal
from revolume.volume.secondary import Secondary
from revolume.volume.status import VolumeStatus


def secondary_status(secondary: Secondary) -> VolumeStatus:
    """Plain values, now."""
    core = secondary.core
    pool = core.pool
    per_segment = pool.segment_blocks * BLOCK
    write, time_ns = secondary.newest
    damaged = ranges(core.damage.blocks)
    word, reason = state_of(_condition(secondary, damaged))
    return VolumeStatus(
        core.name, core.directory.path, core.volume_id.hex(), secondary.size, core.appender.epoch, word, reason,
        secondary.received, secondary.durable, write, time_ns,
        secondary.agreed.number, len(core.points), secondary.oldest.write, secondary.oldest.time_ns,
        (len(pool.by_use) - len(pool.ready)) * per_segment, pool.limits.budget_bytes,
        (len(pool.ready) + len(pool.free)) * per_segment, core.image_bytes(), 0,
        len(core.live.overlay), core.live.overlay.used_bytes, tuple(holders(core)),
        tuple(secondary.snapshots()), secondary.folder.folding, secondary.folder.folds,
        secondary.folder.folded_blocks, core.commit.syncs, core.writer.transfers, core.reader.mismatches,
        core.events.all(), core.gave_way, damaged[:RANGES_TOLD], secondary.outlook.now,
    )  # fmt: skip


def _condition(secondary: Secondary, damaged: tuple[tuple[int, int], ...]) -> Condition:
    core = secondary.core
    return Condition(
        poisoned=core.commit.failure.cause if core.commit.failure is not None else "",
        diverged=secondary.failure.cause if secondary.failure is not None else "",
        incomplete=secondary.base is not None,
        full=core.admission.full,
        keeper=refusal(core),
        folding=secondary.folder.failure or "",
        damaged=damaged,
        damaged_past=core.damage.in_past(secondary.folder.retired_write),
        forecast=secondary.outlook.warning,
    )


def empty_status(directory: str, reason: str) -> VolumeStatus:
    """Of a mirror that has no volume yet."""
    return VolumeStatus(
        "", directory, "", 0, 0, "empty", reason, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (), (), False, 0, 0,
        0, 0, 0, (),
    )  # fmt: skip
