"""What is kept of the past, and in how much room: plain values."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.volume.metadata.keep_policy import DEFAULT_POLICY, KeepPolicy, WhenFull
from revolume.volume.metadata.manifest_state import Role, State


@dataclass(frozen=True, slots=True)
class KeptHistory:
    """``points`` are in the log, where every write since ``oldest_ns`` is a moment; ``pinned_points`` are kept by
    the policy alone, the oldest of ``oldest_pinned_ns`` (None: there is none). ``full_in_s``: when the budget is
    used up at the present rate; None: nothing is being written. ``goes_next``: in words, what goes first when
    there is no room."""

    policy: KeepPolicy
    budget_bytes: int
    log_bytes: int
    pinned_bytes: int
    points: int
    pinned_points: int
    oldest_ns: int
    oldest_pinned_ns: int | None
    bytes_per_s: float
    full_in_s: float | None
    goes_next: str


def stopped_history(state: State, points: int, log_bytes: int, oldest_ns: int) -> KeptHistory:
    """Of a volume that is not open, as its manifest has it. ``points``: in ``log_bytes`` of log."""
    policy = state.retention.policy or DEFAULT_POLICY
    kept = [each for each in state.rescues if each.moment.write in state.retention.lived]
    named = state.pinned_writes()
    return KeptHistory(
        policy=policy,
        budget_bytes=state.budget,
        log_bytes=log_bytes,
        pinned_bytes=sum(each.bytes for each in kept if each.moment.write not in named),
        points=points,
        pinned_points=len(kept),
        oldest_ns=oldest_ns,
        oldest_pinned_ns=kept[0].moment.time_ns if kept else None,
        bytes_per_s=0.0,
        full_in_s=None,
        goes_next=goes_next(state.role, policy, bool(kept)),
    )


def goes_next(role: Role, policy: KeepPolicy, pinned: bool) -> str:
    """In words, what goes first when there is no room; ``pinned``: there are points that only the policy keeps."""
    if role == Role.PRIMARY and policy.when_full == WhenFull.BLOCK:
        return "nothing: writes wait until something is older than was promised"
    if role == Role.PRIMARY and policy.when_full == WhenFull.REFUSE:
        return "nothing: writes are refused until something is older than was promised"
    if pinned:
        return "throw-away views, then views, then the oldest of the points that only the policy keeps"
    return "throw-away views, then views, then the oldest writes"

