"""Mirroring in the plain values of ``api/shapes.py``: a mirror as its source sees it, and the reverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from revolume.api.shapes import BaseShape, MirrorShape, SourceShape
from revolume.history.moments import format_time
from revolume.log.transfer import BLOCK
from revolume.mirror.status import MirrorState as LinkState
from revolume.mirror.status import MirrorStatus
from revolume.mirror.target import Target
from revolume.volume.base_start import held_by
from revolume.volume.lacking import base_words, lacking
from revolume.volume.manifest import MirrorMode, MirrorState, PinnedSnapshot, Role, State
from revolume.volume.mirrors import Mirror
from revolume.volume.secondary import Secondary

NOT_SERVED = "not served"
WAIT_TOLD_S = 1.0


def mirror_shape(
    mirror: Mirror, link: MirrorStatus | None, position: int, snapshots: Sequence[PinnedSnapshot]
) -> MirrorShape:
    """``link`` is None for a mirror that is known and was not named with --mirror-to."""
    if link is None:
        return stopped_shape(mirror.state, NOT_SERVED, "It was not named with --mirror-to.", snapshots)
    return MirrorShape(
        name=mirror.name,
        address=link.address,
        mode=link.mode,
        state=link.state.value,
        reason=link.sentence,
        waits=_waits(mirror, link, position),
        required=mirror.required,
        joined=mirror.joined,
        lost_seconds=link.lost_seconds,
        lag_seconds=link.lag_seconds,
        lag_bytes=link.lag_bytes,
        received=mirror.received,
        durable=mirror.durable,
        agreed_point=mirror.agreed_point,
        agreed_position=mirror.agreed_position,
        held_from_point=mirror.state.point,
        base_fraction=link.base_fraction,
        client_bytes=link.client_bytes,
        log_bytes=link.log_bytes,
        point_bytes=link.point_bytes,
        base_bytes=link.base_bytes,
        whole_bytes=link.whole_bytes,
        saved_bytes=link.saved_bytes,
        node=mirror.node.hex() if any(mirror.node) else "",
        level_at=mirror.level_at,
        refusals=link.refusals,
        warning=link.warning,
        lacks=lacked_by(mirror.state, snapshots),
        left_bytes=link.left_bytes,
        left_seconds=link.left_seconds,
    )


def _waits(mirror: Mirror, link: MirrorStatus, position: int) -> str:
    """Why answers wait, if they wait for this one and not just for its next acknowledgement."""
    if not mirror.required or (mirror.received >= position and not mirror.waiting):
        return ""
    if link.state == LinkState.REFUSED:
        return f"Replies wait for mirror {mirror.name}, refused for {link.lost_seconds:.0f} s: {link.sentence}"
    if link.lost_seconds:
        return f"Replies wait for mirror {mirror.name}, lost for {link.lost_seconds:.0f} s."
    if link.lag_seconds > WAIT_TOLD_S:
        return f"Replies wait for mirror {mirror.name}, which is {link.lag_seconds:.0f} s behind."
    return ""


def lacked_by(state: MirrorState, snapshots: Sequence[PinnedSnapshot]) -> tuple[str, ...]:
    """Names of the snapshots that are older than a mirror's history, as far as it is known where that begins."""
    return () if state.since is None else tuple(s.name for s in held_by(state.since, snapshots)[1])


def stopped_shape(
    state: MirrorState, word: str, reason: str, snapshots: Sequence[PinnedSnapshot]
) -> MirrorShape:
    """A mirror of which only the manifest tells."""
    mode = state.mode.name.lower()
    required = state.joined and state.mode == MirrorMode.SYNC
    return MirrorShape(
        state.name, "", mode, word, reason, "", required, state.joined, 0.0, 0.0, 0, 0, 0, 0, 0, state.point,
        float(state.joined), 0, 0, 0, 0, 0, 0, node=state.node.hex() if any(state.node) else "",
        lacks=lacked_by(state, snapshots),
    )  # fmt: skip


def stopped_mirroring(state: State) -> dict[str, Any]:
    """What a stopped volume's manifest tells of it."""
    if state.role == Role.PRIMARY:
        mirrors = [stopped_shape(m, "stopped", "", state.snapshots) for m in state.mirrors]
        return {"role": "primary", "mirrors": mirrors, "lacks": lacks(state)}
    base = None
    if state.base is not None:
        base = BaseShape(state.horizon.point, state.base, -(-state.horizon.size // BLOCK))
    return {"role": "secondary", "lacks": lacks(state), "source": SourceShape(
        "", False, "", 0, "", 0, "stopped", state.durable.position, state.durable.position,
        state.agreed.point, state.agreed.position, base, "", base is None,
        lacking(state), source_name=state.source_name,
    )}  # fmt: skip


def source_shape(target: Target | None, secondary: Secondary | None, address: str) -> SourceShape:
    """A mirror's own position, and its source."""
    current = target.current if target is not None else None
    hello = current.hello if current is not None else None
    failure = secondary.failure if secondary is not None else None
    return SourceShape(
        listening=address,
        connected=hello is not None,
        peer=current.link.peer.address if current is not None and hello is not None else "",
        source_epoch=hello.epoch if hello is not None else 0,
        since=format_time(target.since_ns) if target is not None else "",
        since_ns=target.since_ns if target is not None else 0,
        reason=target.state if target is not None else "not listening",
        received=secondary.received if secondary is not None else 0,
        durable=secondary.durable if secondary is not None else 0,
        agreed_point=secondary.agreed.number if secondary is not None else 0,
        agreed_position=secondary.core.manifest.state.agreed.position if secondary is not None else 0,
        base=base_shape(secondary),
        failure=str(failure) if failure is not None else "",
        promotable=not why_not_promotable(secondary),
        why_not=why_not_promotable(secondary),
        source_name=secondary.bound.source_name if secondary is not None else "",
        refusals=target.refusals if target is not None else 0,
        level_at=secondary.bound.owes if secondary is not None else 0,
    )


def lacks(state: State) -> list[str]:
    """Names of snapshots of the volume that this copy does not hold: they are older than it."""
    return [snapshot.name for snapshot in state.lacking]


def base_shape(secondary: Secondary | None) -> BaseShape | None:
    """None: it is complete, or there is none."""
    if secondary is None or secondary.base is None:
        return None
    return BaseShape(secondary.base.point, secondary.base.next_block, -(-secondary.size // BLOCK))


def why_not_promotable(secondary: Secondary | None) -> str:
    """Empty, or a sentence."""
    if secondary is None:
        return "No source has connected yet."
    if secondary.base is not None:
        return base_sentence(secondary)
    if secondary.failure is not None:
        return secondary.why_not_agreed
    return secondary.bound.why_no_proof


def base_sentence(secondary: Secondary) -> str:
    """How far the base is."""
    base = base_shape(secondary)
    assert base is not None
    return base_words(secondary.name, base.next_block, base.blocks)
