"""Where else the volume may be found as it was."""

from __future__ import annotations

from revolume.volume.metadata.manifest_state import Role, State


def other_copies(state: State) -> str:
    """Where the volume may be found as it was: its other copies, the primary first. Empty: none is known."""
    others = sorted((m for m in state.members if m.node != state.node), key=lambda member: member.mode is not None)
    named = [f"{each.name} at {each.address}" if each.address else each.name for each in others]
    primary = state.role == Role.SECONDARY and others and others[0].mode is None
    kind = "the primary" if primary else "another copy"
    return f"The marks are of this copy alone: ask {kind} for that moment ({', '.join(named)})." if named else ""
