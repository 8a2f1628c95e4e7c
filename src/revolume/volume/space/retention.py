"""What of the log may go, and who gives way for it: the retention policy, as pure functions of plain values.

The policy has two halves. What is kept of every write: every moment younger than that is retained, and the moment
exactly so old too; of older ones single points (``policy_stops.py``), at each of which a fold stops. The budget:
the log, with what is rescued for such points, takes no more room than that. A fold because of ``keep`` goes to a
point that is older itself, so it never takes anything younger, however few points there are and wherever segments
begin. A fold because of the budget, or of a writer that waits for room, may go to a younger point, but not beyond
the first one that gives back as much as is wanted: the rest of that segment's history costs nothing and stays.

How old something is, this copy's own lived time says (``lived_time.py``): no clock makes it older, and a mirror
counts for itself.

Points are the unit. The state that a point cuts answers every moment from its last write on, so the horizon may
stand at any point whose own time is not younger than ``keep``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.point import Point
from revolume.volume.space.holder import Holder, HolderKind

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


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What a fold is decided by. ``points`` are in the log's order; those up to ``keep_before_ms`` of this copy's
    lived time are older than what is kept; nothing behind ``held_write`` may go, and no step crosses ``next_pin``,
    the first pinned moment behind the horizon, nor because of age ``next_stop``, the first that the policy keeps;
    ``crowded``: it has no place for it. ``pinned_bytes``: what is rescued for those of the policy, which go before
    anything younger than what is kept; without ``shrinks`` nothing does. ``pressed``: a writer waits for room. The
    image may grow by as much as is folded, so a step stays within ``room_bytes`` if any can."""

    points: Sequence[Point]
    horizon_address: Address
    retired_write: WriteNumber
    held_write: WriteNumber | None
    keep_before_ms: int
    log_bytes: int
    budget_bytes: int
    segment_bytes: int
    room_bytes: int
    next_pin: WriteNumber | None = None
    next_stop: WriteNumber | None = None
    pinned_bytes: int = 0
    crowded: bool = False
    shrinks: bool = True
    pressed: bool = False

    @property
    def step_bytes(self) -> int:
        """How much a fold shall give back."""
        return min(self.budget_bytes // 8, STEP_BYTES_MAX)

    @property
    def excess_bytes(self) -> int:
        """By how much the room in which history stays is exceeded."""
        return self.log_bytes + self.pinned_bytes - (self.budget_bytes - self.step_bytes)


def plan_fold(facts: LogFacts) -> FoldPlan | None:
    """How far to fold now, or None. A step takes at least an eighth of the budget where it can, so that folds are
    few and sorted; when pressed, anything that gives back a segment will do. A pinned moment on the way is a stop,
    also where no segment comes back up to there: the step after it begins at the moment itself."""
    plan = _unpinned_plan(facts)
    if plan is None:
        return None
    pins = [facts.next_pin, facts.next_stop if plan.reason == OLDER_THAN_KEEP else None]
    first = min((write for write in pins if write is not None), default=None)
    if first is None or plan.last.write <= first:
        return plan
    stops = [p for p in facts.points if p.address > facts.horizon_address and p.write <= first]
    if not stops:
        return None
    target = min(plan.target, stops[-1], key=lambda point: point.address)
    return FoldPlan(target, plan.reason, stops[-1])


def _unpinned_plan(facts: LogFacts) -> FoldPlan | None:
    """How far to fold if no moment is pinned."""
    free_to = [
        point
        for point in facts.points
        if point.address > facts.horizon_address
        and point.write >= facts.retired_write
        and (facts.held_write is None or point.write <= facts.held_write)
    ]
    segment_bytes = facts.segment_bytes
    segment_blocks = segment_bytes // BLOCK

    def frees(point: Point) -> int:
        return (point.address // segment_blocks - facts.horizon_address // segment_blocks) * segment_bytes

    def within_room(candidates: Sequence[Point], wanted: int) -> Point | None:
        """Of these, the one to fold to so as to give back ``wanted``, or as much of it as there is room for; of
        those that give back the same, the first. None: none gives back a segment."""
        useful = [p for p in candidates if segment_bytes <= frees(p)]
        fitting = [p for p in useful if frees(p) + segment_bytes <= facts.room_bytes] or useful[:1]
        given = [p for p in fitting if frees(p) >= wanted] or fitting[-1:]
        return next((p for p in fitting if frees(p) == frees(given[0])), None) if given else None

    if not free_to:
        return None
    step = facts.step_bytes
    full = facts.shrinks and (facts.pressed or facts.excess_bytes >= 0)
    # As far as everything is older: behind a point that is younger nothing is.
    older = takewhile(lambda point: point.lived_ms <= facts.keep_before_ms, free_to)
    expired = [] if facts.crowded else list(older)
    hurried = full or facts.pressed
    worth = segment_bytes if hurried else max(segment_bytes, min(step, STEP_SEGMENTS_MAX * segment_bytes))
    if expired and frees(expired[-1]) >= worth:
        target = within_room(expired, step)
        return FoldPlan(target, OLDER_THAN_KEEP, free_to[-1] if full else expired[-1]) if target else None
    if full and not facts.pinned_bytes:
        target = within_room(free_to, max(segment_bytes, step))
        return FoldPlan(target, FILLS_ITS_BUDGET, free_to[-1]) if target else None
    return None


def first_freeing(
    points: Iterable[Point], horizon_address: Address, retired_write: WriteNumber, segment_blocks: int
) -> WriteNumber | None:
    """The write of the first point to which a fold gives a segment back; None: there is none."""
    first = horizon_address // segment_blocks
    for point in points:
        if point.write >= retired_write and point.address // segment_blocks > first:
            return point.write
    return None


def who_goes(holders: Sequence[Holder], freeing: WriteNumber | None, disk_short: bool) -> list[Holder]:
    """Who must give way so that room comes of it, in that order; empty: nobody can make room. Nothing is ended in
    vain: a view does not go while a snapshot keeps the same log.

    Where the disk is short the oldest overlay that has bytes of its own goes, one at a time. Otherwise those go
    that stand before ``freeing``, the first write to which a fold would give a segment back, unless one of those
    never gives way. Of several kinds only the first goes: the next look sees what that has done."""
    overlays = [each for each in holders if each.held_bytes and each.kind == HolderKind.OVERLAY]
    if disk_short and overlays:
        return [min(overlays, key=lambda holder: holder.write)]
    before = [each for each in holders if freeing is not None and each.write < freeing and not each.pinned]
    if not before or any(not holder.kind.gives_way for holder in before):
        return []
    least = min(holder.kind for holder in before)
    return sorted((holder for holder in before if holder.kind == least), key=lambda holder: holder.write)
