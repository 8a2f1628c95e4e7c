"""How far the log may be folded: what the policy promises to retain, as a pure function of plain values.

The policy has two halves. ``keep``: every moment younger than that is retained, and the moment exactly so old
too. The budget: the log takes no more room than that. A fold because of ``keep`` goes to a point that is older
itself, so it never takes anything younger, however few points there are and wherever segments begin. A fold
because of the budget, or of a writer that waits for room, may go to a younger point, but not beyond the first
one that gives back as much as is wanted: the rest of that segment's history costs nothing and stays.

How old something is, this copy's own lived time says (``lived.py``): no clock makes it older, and a mirror counts
for itself.

Points are the unit. The state that a point cuts answers every moment from its last write on, so the horizon may
stand at any point whose own time is not younger than ``keep``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from revolume.chain.point import Point
from revolume.log.transfer import BLOCK

STEP_BYTES_MAX = 1 << 30
STEP_SEGMENTS_MAX = 8
OLDER_THAN_KEEP = "older than keep"
FILLS_ITS_BUDGET = "the log fills its budget"


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """Fold to ``target``, because of ``reason``; ``last`` is the farthest that may be folded to, where the image
    has no room to grow and later zeroes may make some."""

    target: Point
    reason: str
    last: Point


def plan_fold(
    points: Sequence[Point],
    *,
    horizon_address: int,
    retired_write: int,
    held_write: int | None,
    keep_before_ms: int,
    log_bytes: int,
    budget_bytes: int,
    segment_bytes: int,
    pressed: bool,
    room_bytes: int,
) -> FoldPlan | None:
    """How far to fold now, or None. ``points`` are in the log's order, those up to ``keep_before_ms`` of this
    copy's lived time are older than what is kept; nothing behind ``held_write`` is taken.
    A step takes at least an eighth of the budget where it can, so that folds are few and sorted; ``pressed``
    (a writer waits for room), anything that gives back a segment will do. The image may grow by as much as is
    folded, so a step stays within ``room_bytes`` if any can."""
    free_to = [
        point
        for point in points
        if point.address > horizon_address
        and point.write >= retired_write
        and (held_write is None or point.write <= held_write)
    ]
    segment_blocks = segment_bytes // BLOCK

    def frees(point: Point) -> int:
        return (point.address // segment_blocks - horizon_address // segment_blocks) * segment_bytes

    def within_room(candidates: Sequence[Point], wanted: int) -> Point | None:
        """Of these, the one to fold to so as to give back ``wanted``, or as much of it as there is room for; of
        those that give back the same, the first. None: none gives back a segment."""
        useful = [p for p in candidates if segment_bytes <= frees(p)]
        fitting = [p for p in useful if frees(p) + segment_bytes <= room_bytes] or useful[:1]
        given = [p for p in fitting if frees(p) >= wanted] or fitting[-1:]
        return next((p for p in fitting if frees(p) == frees(given[0])), None) if given else None

    if not free_to:
        return None
    step = min(budget_bytes // 8, STEP_BYTES_MAX)
    full = pressed or log_bytes >= budget_bytes - step
    # As far as everything is older: behind a point that is younger nothing is.
    expired = list(takewhile(lambda point: point.lived_ms <= keep_before_ms, free_to))
    worth = segment_bytes if full else max(segment_bytes, min(step, STEP_SEGMENTS_MAX * segment_bytes))
    if expired and frees(expired[-1]) >= worth:
        target = within_room(expired, step)
        return FoldPlan(target, OLDER_THAN_KEEP, free_to[-1] if full else expired[-1]) if target else None
    if full:
        target = within_room(free_to, max(segment_bytes, step))
        return FoldPlan(target, FILLS_ITS_BUDGET, free_to[-1]) if target else None
    return None
