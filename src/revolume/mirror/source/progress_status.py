"""What is shown of a mirror that is served, derived from its progress: the one place where that is worked out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.mirror.mirror_status import MirrorState, MirrorStatus
from revolume.mirror.recorded_status import lacked_by, node_words, on_lost_status
from revolume.mirror.source.progress import Phase, Progress
from revolume.mirror.wording import older_words
from revolume.volume.members.kept_points import KeptStatus
from revolume.volume.metadata.manifest_state import PinnedSnapshot

IN_SYNC_LAG_SECONDS: Final = 5.0
WAIT_TOLD_SECONDS: Final = 1.0


def progress_status(
    progress: Progress,
    *,
    address: str,
    position: Position,
    snapshots: Sequence[PinnedSnapshot],
    oldest: WriteNumber,
    kept: KeptStatus,
    now_ns: int,
    boot_ns: int = 0,
) -> MirrorStatus:
    """``position``: the last that was appended here; ``snapshots``: the volume's; ``oldest``: the first write that
    it retains; ``kept``: what is kept for this mirror; ``now_ns``: monotonic; ``boot_ns``: since the
    machine's start."""
    mirror, counters = progress.mirror, progress.counters
    left_bytes, left_seconds = left(progress, now_ns)
    return MirrorStatus(
        name=mirror.name,
        address=address,
        mode=mirror.mode.name.lower(),
        state=mirror_state(progress, now_ns).value,
        reason=_reason(progress),
        waits=_waits(progress, position, now_ns),
        required=mirror.required,
        joined=mirror.joined,
        lost_seconds=lost_seconds(progress, now_ns),
        lag_seconds=lag_seconds(progress, now_ns),
        lag_bytes=lag_bytes(progress),
        received=mirror.received,
        durable=mirror.durable,
        agreed_point=mirror.agreed_point,
        agreed_position=mirror.agreed_position,
        held_from_point=mirror.state.point,
        base_fraction=progress.base.fraction if progress.base is not None else float(mirror.joined),
        client_bytes=counters.client_bytes,
        log_bytes=counters.log_bytes,
        point_bytes=counters.point_bytes,
        base_bytes=counters.base_bytes,
        difference_bytes=counters.difference_bytes,
        whole_bytes=counters.whole_bytes,
        saved_bytes=counters.saved_bytes,
        node=node_words(mirror.node),
        level_at=mirror.level_at,
        differs_since=mirror.differs_since,
        refusals=progress.refusals,
        lacks=lacked_by(mirror.state, snapshots),
        older=older_words(mirror.state.since, oldest),
        left_bytes=left_bytes,
        left_seconds=left_seconds,
        kept=kept.kept,
        kept_log_bytes=kept.log_bytes,
        kept_difference_bytes=kept.difference_bytes,
        pin_point=kept.pin_point,
        cut_point=kept.cut_point,
        cut_hold_ns=kept.cut_hold_ns,
        cut_hold_p99_ns=kept.cut_hold_p99_ns,
        order=mirror.state.order.words,
        **on_lost_status(mirror.state),
        lease_seconds=max(0.0, (mirror.lease.until_ns - boot_ns) / 1e9),
    )


def mirror_state(progress: Progress, now_ns: int) -> MirrorState:
    """Its phase in a word. A mirror that has joined is in sync while it lacks next to nothing of the log."""
    if progress.phase is Phase.SENDING_DIFFERENCE:
        return MirrorState.DIFFERENCE
    if not progress.mirroring:
        lost = MirrorState.LOST if progress.mirror.detached else MirrorState.CONNECTING
        return MirrorState.REFUSED if progress.refused else lost
    if not progress.mirror.joined:
        return MirrorState.BASE
    near = (
        progress.log is not None and progress.log.caught_up and lag_seconds(progress, now_ns) < IN_SYNC_LAG_SECONDS
    )
    return MirrorState.IN_SYNC if near else MirrorState.CATCHING_UP


def _reason(progress: Progress) -> str:
    """Why it is in its phase, and what holds back what is sent in bulk."""
    held = progress.pacer.words if progress.pacer is not None and progress.base is not None else ""
    return f"{progress.sentence} {held}".strip()


def _waits(progress: Progress, position: Position, now_ns: int) -> str:
    """Why answers wait, if they wait for this one and not just for its next acknowledgement."""
    mirror, lost = progress.mirror, lost_seconds(progress, now_ns)
    if not mirror.required or (mirror.received >= position and not mirror.waiting):
        return ""
    if mirror_state(progress, now_ns) is MirrorState.REFUSED:
        return f"Replies wait for mirror {mirror.name}, refused for {lost:.0f} s: {progress.sentence}"
    if lost:
        return f"Replies wait for mirror {mirror.name}, lost for {lost:.0f} s."
    behind = lag_seconds(progress, now_ns)
    if behind > WAIT_TOLD_SECONDS:
        return f"Replies wait for mirror {mirror.name}, which is {behind:.0f} s behind."
    return ""


def lost_seconds(progress: Progress, now_ns: int) -> float:
    """For how long it has not been mirrored to; 0 while it is."""
    return 0.0 if progress.mirroring else (now_ns - progress.lost_ns) / 1e9


def lag_seconds(progress: Progress, now_ns: int) -> float:
    """Age of the oldest thing that it has not got. It lacks something since it was lost, if anything."""
    if progress.mirroring and progress.lag is not None:
        return progress.lag.seconds(now_ns)
    return lost_seconds(progress, now_ns) if progress.mirror.received < progress.feed.end else 0.0


def lag_bytes(progress: Progress) -> int:
    """What lies in this log behind what the mirror is known to have. Of one that was never connected only a
    position is known: it is estimated by the average of a transfer."""
    feed = progress.feed
    if progress.lag is None:
        return max(0, feed.end - max(progress.mirror.received, feed.oldest)) * progress.counters.average
    return max(0, feed.end_address - progress.lag.address) * BLOCK


def left(progress: Progress, now_ns: int) -> tuple[int, float | None]:
    """Bytes of base and log to be sent until it can join, or of a difference, and the seconds that takes at the
    present rate, as far as bulk is allowed to flow; None: nothing flows yet."""
    if progress.phase is Phase.SENDING_DIFFERENCE and progress.base is not None:
        lacking = max(0, progress.difference_bytes - progress.base.pace.stored_bytes)
        return lacking, _seconds(progress, lacking, now_ns)
    if progress.mirror.joined or not progress.mirroring:
        return 0, None
    lacking = lag_bytes(progress)
    if progress.base is not None and progress.base_plan is not None:
        stored = progress.base_bytes_before + progress.base.pace.stored_bytes
        lacking += max(0, progress.base_plan.need.base - stored)
    return lacking, _seconds(progress, lacking, now_ns)


def _seconds(progress: Progress, lacking: int, now_ns: int) -> float | None:
    rate = progress.rate(now_ns)
    if progress.pacer is not None and progress.base is not None:
        return progress.pacer.seconds(lacking, rate)
    return lacking / rate if rate else None
