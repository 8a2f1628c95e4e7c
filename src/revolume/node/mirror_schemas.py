"""A mirror's own side in the plain values of ``api/schemas.py``: how far it is, its source, whether it may be
promoted.

How a source shows its mirrors is ``mirror/mirror_status.py``.
"""

from __future__ import annotations

from typing import Any

from revolume.api.schemas import BaseSchema, MemberSchema, SourceSchema
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.history.moments import format_time
from revolume.mirror.mirror_status import MirrorState
from revolume.mirror.recorded_status import node_words, recorded_status, with_verified
from revolume.mirror.target.target import Target
from revolume.node.clone_status import origin_schema, stopped_clones
from revolume.volume.members.base_progress import base_words, lacking
from revolume.volume.members.kept_points import recorded_kept
from revolume.volume.members.membership import own_member
from revolume.volume.metadata.bound_source import detached_words
from revolume.volume.metadata.manifest_state import Role, State
from revolume.volume.secondary import Secondary


def stopped_mirroring(directory: str, state: State, oldest: WriteNumber) -> dict[str, Any]:
    """What the manifest of the stopped volume in ``directory`` tells of it."""
    if state.role == Role.PRIMARY:
        stopped = [
            recorded_status(m, MirrorState.STOPPED, "", state.snapshots, oldest, recorded_kept(state, m))
            for m in state.mirrors
        ]
        mirrors = [with_verified(each, state.verified) for each in stopped]
        return {
            "role": "primary", "mirrors": mirrors, "members": member_schemas(state), "lacks": lacks(state),
            "clones": stopped_clones(directory, state), "origin": origin_schema(state),
        }  # fmt: skip
    base = None
    if state.base is not None:
        base = BaseSchema(state.horizon.point, state.base, -(-state.horizon.size // BLOCK))
    source = SourceSchema(
        listening="",
        connected=False,
        peer="",
        source_epoch=0,
        since="",
        since_ns=0,
        reason="stopped",
        received=state.durable.position,
        durable=state.durable.position,
        agreed_point=state.agreed.point,
        agreed_position=state.agreed.position,
        base=base,
        failure="",
        promotable=base is None and not state.detached,
        why_not=lacking(state) or detached_words(state),
        source_name=state.source_name,
        before=former_words(state),
        removed=no_member_words(state, None),
        **_on_lost(state),
    )
    return {"role": "secondary", "members": member_schemas(state), "lacks": lacks(state), "source": source}


def source_schema(target: Target | None, secondary: Secondary | None, address: str) -> SourceSchema:
    """A mirror's own position, and its source."""
    current = target.current if target is not None else None
    hello = current.hello if current is not None else None
    failure = secondary.failure if secondary is not None else None
    why_not = why_not_promotable(secondary) or (target.removed if target is not None else "")
    return SourceSchema(
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
        agreed_position=secondary.manifest.state.agreed.position if secondary is not None else 0,
        base=base_schema(secondary),
        failure=str(failure) if failure is not None else "",
        promotable=not why_not,
        why_not=why_not,
        source_name=secondary.bound.source_name if secondary is not None else "",
        refusals=target.refusals if target is not None else 0,
        level_at=secondary.bound.owes if secondary is not None else 0,
        differs_since=secondary.differs_since if secondary is not None else 0,
        before="" if secondary is None else former_words(secondary.manifest.state),
        removed="" if secondary is None else no_member_words(secondary.manifest.state, target),
        **({} if secondary is None else _on_lost(secondary.manifest.state)),
        lease_seconds=round(target.lease.left_s, 3) if target is not None else 0.0,
    )


def _on_lost(state: State) -> dict[str, Any]:
    """What this copy knows of what becomes of answers when it is lost."""
    own = own_member(state)
    if own is None or own.mode is None:
        return {}
    return {
        "on_lost": "detach" if own.deadline_ms else "block",
        "deadline_seconds": own.deadline_ms / 1000,
        "detached": own.detached,
    }


def former_words(state: State) -> str:
    """Of a copy that was the primary and has heard of no other since, what to do; "" of any other."""
    if not state.mirrors:
        return ""
    names = ", ".join(mirror.name for mirror in state.mirrors)
    if state.handed_to:
        return (
            f"It was the primary until cp{state.agreed.point}, has handed over to {state.handed_to}, and has not "
            f"heard of it since. Look there: if {state.handed_to} is no primary, promote one of the two."
        )
    return (
        f"It was the primary until it was demoted at cp{state.agreed.point}, and has heard of no other since. If "
        f"there is none (its mirrors were {names}), promote one of them, or this one."
    )


def no_member_words(state: State, target: Target | None) -> str:
    """Of a copy that has been told that it is no member of its volume any more: by the log, or by a source that
    refused it. "" of any other."""
    why = detached_words(state) or (target.removed if target is not None else "")
    if not why:
        return ""
    return (
        f"This copy is no member of {state.name} any more. {why} To make it a mirror again, add it at the "
        "primary: 'revolume mirror add DIR NAME ADDRESS', under a name that no other copy has, and it is sent "
        "what it lacks."
    )


def member_schemas(state: State, removed: bool = False) -> list[MemberSchema]:
    """All copies of the volume that this one knows, in the order in which they came; without this one if it was
    ``removed``."""
    return [
        MemberSchema(
            name=member.name,
            node=node_words(member.node),
            address=member.address,
            mode="primary" if member.mode is None else member.mode.name.lower(),
            joined=member.joined,
            required=member.required,
            this=member.node == state.node,
        )
        for member in state.members
        if not (removed and member.node == state.node)
    ]


def lacks(state: State) -> list[str]:
    """Names of snapshots of the volume that this copy does not hold: they are older than it."""
    return [snapshot.name for snapshot in state.lacking]


def base_schema(secondary: Secondary | None) -> BaseSchema | None:
    """None: it is complete, or there is none."""
    if secondary is None or secondary.base is None:
        return None
    return BaseSchema(secondary.base.point, secondary.base.next_block, -(-secondary.size // BLOCK))


def why_not_promotable(secondary: Secondary | None) -> str:
    """Empty, or a sentence."""
    return "No source has connected yet." if secondary is None else secondary.why_not_promotable


def base_sentence(secondary: Secondary) -> str:
    """How far the base is."""
    base = base_schema(secondary)
    assert base is not None
    return base_words(secondary.name, base.next_block, base.blocks)
