"""What is shown of a mirror of which only the volume's manifest tells: it is not served, or the volume is
stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from revolume.blocks.numbers import Position, WriteNumber
from revolume.mirror.mirror_status import MirrorState, MirrorStatus
from revolume.mirror.wording import older_words
from revolume.volume.members.base_start import held_by
from revolume.volume.members.kept_points import KeptStatus
from revolume.volume.metadata.manifest_state import MirrorState as Recorded
from revolume.volume.metadata.manifest_state import PinnedSnapshot
from revolume.volume.metadata.verified import Verified, VerifyOutcome


def recorded_status(
    recorded: Recorded,
    state: MirrorState,
    reason: str,
    snapshots: Sequence[PinnedSnapshot],
    oldest: WriteNumber,
    kept: KeptStatus,
) -> MirrorStatus:
    """``state`` and ``reason`` say why nothing else is known; ``snapshots``: the volume's;
    ``oldest``: the first write that it retains; ``kept``: what is kept for the mirror."""
    return MirrorStatus(
        name=recorded.name,
        address=recorded.address,
        mode=recorded.mode.name.lower(),
        state=state.value,
        reason=reason,
        waits="",
        required=recorded.required,
        joined=recorded.joined,
        lost_seconds=0.0,
        lag_seconds=0.0,
        lag_bytes=0,
        received=Position(0),
        durable=Position(0),
        agreed_point=0,
        agreed_position=Position(0),
        held_from_point=recorded.point,
        base_fraction=float(recorded.joined),
        client_bytes=0,
        log_bytes=0,
        point_bytes=0,
        base_bytes=0,
        whole_bytes=0,
        saved_bytes=0,
        node=node_words(recorded.node),
        lacks=lacked_by(recorded, snapshots),
        older=older_words(recorded.since, oldest),
        kept=kept.kept,
        kept_log_bytes=kept.log_bytes,
        kept_difference_bytes=kept.difference_bytes,
        pin_point=kept.pin_point,
        cut_point=kept.cut_point,
        cut_hold_ns=kept.cut_hold_ns,
        cut_hold_p99_ns=kept.cut_hold_p99_ns,
        order=recorded.order.words,
        **on_lost_status(recorded),
    )


def on_lost_status(recorded: Recorded) -> dict[str, Any]:
    """What becomes of answers when it is lost, and whether it was."""
    lost = recorded.on_lost
    return {
        "on_lost": "detach" if lost.detaches else "block",
        "deadline_seconds": lost.deadline_ms / 1000 if lost.detaches else 0.0,
        "detached_ns": lost.detached_ns,
    }


def node_words(node: bytes) -> str:
    """A node id in hexadecimal; "" where it is not known."""
    return node.hex() if any(node) else ""


def lacked_by(recorded: Recorded, snapshots: Sequence[PinnedSnapshot]) -> tuple[str, ...]:
    """Names of the snapshots that are older than a mirror's history, as far as it is known where that begins."""
    if recorded.since is None or recorded.moments:
        return ()
    return tuple(s.name for s in held_by(recorded.since, snapshots)[1])


def with_verified(status: MirrorStatus, known: Sequence[Verified]) -> MirrorStatus:
    """With what is ``known`` of the last comparison of its copy."""
    for verified in known:
        if verified.name == status.name and verified.node.hex() == status.node:
            return replace(status, verified_ns=verified.time_ns, verified=_verified_words(verified))
    return status


def _verified_words(verified: Verified) -> str:
    how = "by stored digests alone" if verified.quick else "all of it read"
    part = ", only some regions" if verified.partly else ""
    match verified.outcome:
        case VerifyOutcome.EQUAL:
            what = "equal"
        case VerifyOutcome.REPAIRED:
            what = f"{verified.different} blocks differed, {verified.repaired} were put right"
        case VerifyOutcome.REPAIRING:
            what = f"{verified.different} blocks differed, and are being put right"
        case _:
            what = f"{verified.different} blocks differed, and not all are right"
    return f"{what} ({how}{part})"
