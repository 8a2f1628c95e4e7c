"""The JSON of retention: what is kept by which policy, and what another would let go."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.api.keep_text import format_policy, show_when_full
from revolume.history.moments import format_time
from revolume.volume.space.keep_order import Going
from revolume.volume.space.kept_history import KeptHistory


@dataclass(frozen=True, slots=True)
class KeepOrder:
    """``policy``: its text, ``budget``: bytes, ``when_full``: shrink, block or refuse; None: as it is.
    ``dry_run``: nothing is changed."""

    policy: str | None = None
    budget: int | None = None
    when_full: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class GoingSchema:
    """What goes: ``points`` of which nothing is left, ``writes`` that are no moments of their own any more, from
    when until when (0: nothing does), and the bytes that come back."""

    points: int
    writes: int
    since: str
    since_ns: int
    until: str
    until_ns: int
    bytes: int


@dataclass(frozen=True, slots=True)
class KeepSchema:
    """What is kept. ``points`` lie in the log, where every write since ``oldest_ns`` is a moment;
    ``pinned_points`` beside it, the oldest of ``oldest_pinned_ns`` (0: there is none). ``full_in_s``: when the
    budget is used up at the present rate; None: nothing is being written. ``goes_next``: in words, what goes first
    when there is no room. ``going``: of another policy, or of this one once it has been changed to it."""

    policy: str
    when_full: str
    budget_bytes: int
    log_bytes: int
    pinned_bytes: int
    points: int
    pinned_points: int
    oldest: str
    oldest_ns: int
    oldest_pinned: str
    oldest_pinned_ns: int
    bytes_per_s: float
    full_in_s: float | None
    goes_next: str
    going: GoingSchema | None = None


def keep_schema(kept: KeptHistory, going: Going | None = None) -> KeepSchema:
    pinned_ns = kept.oldest_pinned_ns or 0
    return KeepSchema(
        policy=format_policy(kept.policy),
        when_full=show_when_full(kept.policy.when_full),
        budget_bytes=kept.budget_bytes,
        log_bytes=kept.log_bytes,
        pinned_bytes=kept.pinned_bytes,
        points=kept.points,
        pinned_points=kept.pinned_points,
        oldest=format_time(kept.oldest_ns),
        oldest_ns=kept.oldest_ns,
        oldest_pinned=format_time(pinned_ns) if pinned_ns else "",
        oldest_pinned_ns=pinned_ns,
        bytes_per_s=round(kept.bytes_per_s, 1),
        full_in_s=kept.full_in_s,
        goes_next=kept.goes_next,
        going=None if going is None else _going_schema(going),
    )


def _going_schema(going: Going) -> GoingSchema:
    return GoingSchema(
        points=going.points,
        writes=going.writes,
        since=format_time(going.since_ns) if going.since_ns else "",
        since_ns=going.since_ns,
        until=format_time(going.until_ns) if going.until_ns else "",
        until_ns=going.until_ns,
        bytes=going.bytes,
    )
