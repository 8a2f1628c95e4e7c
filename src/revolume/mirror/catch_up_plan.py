"""How a mirror that was away is brought up to date: a pure function of what the two ends know of each other.

Both ends compute it from the same facts (they are all in HELLO, WELCOME and BEGIN) and log the rule by name; if
they do not agree, one of them is wrong, and nothing begins.

A position alone never decides. The logs of two nodes are the same up to a position if epoch, reign id and chain
checksum of the transfer there are equal, because each chain checksum contains all earlier ones.

    refused     another volume; an opening older than one that the target knows, or a rival of the same number;
                segments too small for a transfer of the source's; another copy than the one that has joined as
                this mirror: an empty directory, an unfinished base, another volume or another node's copy; no room
                for a base
    base        the target is empty; or its unfinished base cannot go on: nothing was ever promised of that
    resume base its log is continued by the source's, and the source still holds the base's point
    nothing     both logs end with the same transfer
    log         the source's log continues the target's
    difference  the source knows what has changed since the point at which the target stands, or since an earlier
                one, and the target has nothing that is not of the source's log: where that log has dropped what
                the target lacks, or where the difference is preferred, or far smaller
    dirty regions  likewise, where only a dirty region log tells which blocks changed since: of these the copy's
                digests are asked for, and what differs is sent
    log to cut  the same, and the target lacks log from before the cut that was made when its link was lost: that
                comes first, then what has changed since the cut
    comparison  the source's log has dropped what the target lacks, the target has nothing that is not of that
                log, and nothing tells what changed, or the copy was found to differ from its source (which then
                names no common point): the digests of all blocks are compared, and what differs is sent
    common point  the target has transfers that are not of the source's log, and may take them back: both have the
                point, to which it goes back; what it wrote alone it keeps as a branch
    refused     the source's log has dropped what the target lacks; the target has more of the same log (whoever
                opens the source fetches it first); each has transfers that the other has not; or, by an order of
                which the source alone knows, the difference was cancelled
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.mirror.base_plan import budget_for, disk_for
from revolume.mirror.wire.begin_messages import BaseNeed, Common, EpochEntry
from revolume.mirror.wire.codec import Identity, Pin
from revolume.mirror.wire.greeting_messages import Hello, TargetState, Welcome
from revolume.mirror.wire.version import COMPARISON
from revolume.mirror.wording import size_words
from revolume.volume.metadata.resync_order import Prefer
from revolume.volume.open.log_identity import End

MIB: Final = 1 << 20
SMALL_LOG: Final = 64 * MIB
"""Less than this is always caught up by the log."""
LOG_PER_DIFFERENCE: Final = 2
"""The log keeps the copy's history whole: it is preferred while it takes at most so many times the bytes."""


class Rule(IntEnum):
    """By which rule; from 16 on it is a refusal."""

    NOTHING = 1
    LOG = 2
    BASE = 3
    RESUME_BASE = 4
    DIFFERENCE = 5
    LOG_TO_CUT = 6
    COMMON_POINT = 7
    DIRTY_REGIONS = 8
    COMPARISON = 9
    OTHER_VOLUME = 16
    STALE_EPOCH = 17
    RIVAL_EPOCH = 18
    SEGMENTS_TOO_SMALL = 19
    LOG_GONE = 20
    TARGET_AHEAD = 21
    DIVERGED = 22
    MEMBER_REPLACED = 23
    TARGET_TOO_SMALL = 24
    RESYNC_CANCELLED = 25

    @property
    def refuses(self) -> bool:
        """Nothing begins; somebody has to do something first."""
        return self >= Rule.OTHER_VOLUME

    @property
    def jumps(self) -> bool:
        """Blocks as of a later point are sent, which becomes the copy's state once all are there."""
        return self in (Rule.DIFFERENCE, Rule.DIRTY_REGIONS, Rule.COMPARISON)

    @property
    def label(self) -> str:
        """The name of the rule in log lines, and the code of a refusal."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class CatchUpPlan:
    """The rule, why, and what a person can do about a refusal."""

    rule: Rule
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What is known of the source. ``at_target_end``: its transfer at the position where the target's log ends;
    ``pin``: the base point that it holds for this mirror; ``need``: what a base would take, None: not worked
    out; ``common``: a point at or before the target's, since which the source knows what has changed;
    ``openings``: all that it knows, oldest first, as far as they are needed."""

    hello: Hello
    at_target_end: Identity | None
    pin: Pin | None
    need: BaseNeed | None = None
    common: Common | None = None
    openings: Sequence[EpochEntry] = ()


def identity(end: End) -> Identity:
    """Of the last transfer of a log."""
    return Identity(end.epoch, end.reign, end.chain)


def plan_catch_up(source: SourceFacts, target: Welcome) -> CatchUpPlan:
    """The rule by which ``target`` is brought up to date, or why it is not."""
    return refuse_by_greeting(source.hello, target) or _fit(source, target)


def refuse_by_greeting(hello: Hello, target: Welcome) -> CatchUpPlan | None:
    """Refusals that do not look at the logs."""
    if hello.joined and (target.state == TargetState.EMPTY or target.volume != hello.volume):
        return _replaced(hello, "it is empty" if target.state == TargetState.EMPTY else "it holds another volume")
    if target.state != TargetState.EMPTY and target.volume != hello.volume:
        return CatchUpPlan(
            Rule.OTHER_VOLUME,
            f"The target holds another volume than {hello.name}.",
            "Name an empty directory, or the one of this volume's mirror.",
        )
    if (outdated := _outdated(hello, target)) is not None:
        return outdated
    if hello.joined and target.state == TargetState.BASE:
        return _replaced(hello, "its base is not complete")
    if hello.joined and hello.expected not in (bytes(16), target.node):
        return _replaced(hello, "it is another copy of the volume")
    if hello.largest_blocks > target.segment_blocks:
        return CatchUpPlan(
            Rule.SEGMENTS_TOO_SMALL,
            f"A transfer may take {hello.largest_blocks} blocks; a segment of the target has "
            f"{target.segment_blocks}.",
            f"Create the mirror with --segment-size {hello.largest_blocks * BLOCK} or more: the largest transfer "
            "is the volume's, whatever segments its source has.",
        )
    return None


def _replaced(hello: Hello, what: str) -> CatchUpPlan:
    """Answers rest on a copy that has joined: whatever else is found at its address does not have them."""
    return CatchUpPlan(
        Rule.MEMBER_REPLACED,
        f"The node that answers is not the copy that mirror {hello.mirror} of {hello.name} is: {what}.",
        f"Bring that copy back; or give it up with 'revolume mirror replace DIR {hello.mirror}', so that another "
        f"may become the mirror, or with 'revolume detach DIR {hello.mirror}'.",
    )


def _outdated(hello: Hello, target: Welcome) -> CatchUpPlan | None:
    """Refusals of an opening that is not the newest. An older one than a copy knows goes on only where both have
    been told: the copy by 'demote', the source by an order for this copy; one of two rivals where either has."""
    if hello.epoch < target.known_epoch and not (target.yields and hello.take_back):
        return CatchUpPlan(
            Rule.STALE_EPOCH,
            f"The target knows opening {target.known_epoch} of {hello.name}; the source is opening {hello.epoch}.",
            "Another node has become primary: this one must become its mirror.",
        )
    allowed = target.yields or hello.take_back
    if hello.epoch == target.known_epoch and hello.reign != target.known_reign and not allowed:
        return CatchUpPlan(
            Rule.RIVAL_EPOCH,
            f"The target knows another opening {hello.epoch} of {hello.name} than this source's.",
            "Two nodes were made primary at the same time: one of them must give way.",
        )
    return None


def _fit(source: SourceFacts, target: Welcome) -> CatchUpPlan:
    if target.state == TargetState.EMPTY:
        return _too_small(source, target) or CatchUpPlan(Rule.BASE, "The target is empty.")
    broken = _discontinuity(source, target)
    if target.state == TargetState.BASE:
        return _base(source, target, broken)
    if broken is not None:
        if broken.rule == Rule.LOG_GONE and contains(source, target.end):
            return _difference(source, target, broken.reason) or _comparison(target, broken)
        return _common_point(source, target, broken)
    if target.end.position == source.hello.end.position:
        return CatchUpPlan(Rule.NOTHING, f"Both logs end at {target.end.position}.")
    plan = _difference(source, target, why) if (why := _why_difference(source)) else None
    if plan is not None and not plan.rule.refuses:
        return plan
    no_room = "" if plan is None else f"{plan.reason} "
    log = f"The source's log continues the target's behind {target.end.position}."
    return CatchUpPlan(Rule.LOG, f"{no_room}{log}")


def _why_difference(source: SourceFacts) -> str:
    """Where the log would do: why the difference is sent all the same. "": it is not."""
    common, prefer = source.common, source.hello.prefer
    if common is None or prefer == Prefer.HISTORY:
        return ""
    log, difference = common.costs.log, common.costs.difference
    sizes = f"The log takes {size_words(log)}, the difference {size_words(difference)}"
    if prefer == Prefer.BYTES:
        return f"{sizes}; fewer bytes are preferred." if difference < log else ""
    return f"{sizes}." if log > max(SMALL_LOG, LOG_PER_DIFFERENCE * difference) else ""


def _difference(source: SourceFacts, target: Welcome, why: str) -> CatchUpPlan | None:
    """None: it proves nothing."""
    common = source.common
    if common is None or not _before(common.point, target) or not contains(source, target.end):
        return None
    if common.cut and source.at_target_end is not None and target.end.position < common.cut:
        return CatchUpPlan(
            Rule.LOG_TO_CUT,
            f"{why} The log up to position {common.cut}, where the link was lost, comes first; then what has "
            "changed since.",
        )
    back = source.hello.take_back or target.yields
    if back and common.point in target.points[1:]:
        return CatchUpPlan(Rule.COMMON_POINT, f"{why} The target goes back to cp{common.point.number} first.")
    if (lacks := _no_room(common, target)) is not None:
        return lacks
    if common.regions and target.version >= COMPARISON:
        noted = f"It was noted which blocks have changed since cp{common.point.number}: what differs is sent."
        return CatchUpPlan(Rule.DIRTY_REGIONS, f"{why} {noted}")
    held = f"What has changed since cp{common.point.number} is sent: the target stands there, or behind it."
    return CatchUpPlan(Rule.DIFFERENCE, f"{why} {held}")


def _comparison(target: Welcome, broken: CatchUpPlan) -> CatchUpPlan:
    """Of a copy that has nothing of its own. How much will differ nobody knows, so room is not asked for."""
    if target.version < COMPARISON:
        return broken
    why = "Nothing tells what has changed since"
    if target.differs:
        why = "The copy differs from its source, in blocks that are not known"
    return CatchUpPlan(
        Rule.COMPARISON, f"{broken.reason} {why}: the two are compared, and the blocks that differ are sent."
    )


def _no_room(common: Common, target: Welcome) -> CatchUpPlan | None:
    """A difference that would not fit beside the copy is not begun. What has arrived of one counts as room.
    Whether the image can take it then is judged when all of it is there: that depends on what it writes over."""
    takes, room = common.costs.difference, target.room
    if not room.budget or takes <= room.free:
        return None
    return CatchUpPlan(
        Rule.TARGET_TOO_SMALL,
        f"What has changed since cp{common.point.number} takes {size_words(takes)} beside the target's copy, "
        f"whose disk has {size_words(room.free)} for it: {size_words(takes - room.free)} too little.",
        "Make room on that disk, and it begins by itself; the copy stays what it is.",
    )


def _before(point: Pin, target: Welcome) -> bool:
    """Whether a copy whose log is of the source's has been at this point of the source's."""
    same = all(pin == point for pin in target.points if pin.number == point.number)
    return same and point.position <= target.agreed_position


def point_in_common(source: SourceFacts, target: Welcome) -> Pin | None:
    """The newest point that both ends have, by number, position and chain checksum; None: they know of none."""
    agreed = source.common.point if source.common is not None else None
    known = {*source.hello.points, *([agreed] if agreed is not None else [])}
    return max((pin for pin in target.points if pin in known), key=lambda pin: pin.number, default=None)


def _common_point(source: SourceFacts, target: Welcome, broken: CatchUpPlan) -> CatchUpPlan:
    """Of a copy that went its own way. One that has more of the same log did not: the source fetches that, unless
    both have been told otherwise."""
    point = point_in_common(source, target)
    told = source.hello.take_back and target.yields
    if point is None or (broken.rule == Rule.TARGET_AHEAD and not told):
        return broken
    if source.hello.take_back or target.yields:
        back = f"Both hold cp{point.number}: it goes back there, and keeps what it wrote alone as a branch."
        return CatchUpPlan(Rule.COMMON_POINT, f"{broken.reason} {back}")
    hint = (
        f"Both hold cp{point.number}: 'revolume resync DIR --mirror {source.hello.mirror} --take-back' takes it "
        "back there; what it wrote alone stays readable there, as a branch."
    )
    return replace(broken, hint=hint)


def contains(source: SourceFacts, end: End) -> bool:
    """Whether a log that ends so has nothing that is not of the source's. Within one opening there is one log: its
    reign id, and how far it went, say so."""
    if source.at_target_end is not None:
        return source.at_target_end == identity(end)
    ends = [*(each.position for each in source.openings[1:]), source.hello.end.position]
    return any(
        (each.number, each.reign) == (end.epoch, end.reign) and each.position < end.position <= went
        for each, went in zip(source.openings, ends, strict=False)
    )


def _base(source: SourceFacts, target: Welcome, broken: CatchUpPlan | None) -> CatchUpPlan:
    """Nothing was ever promised of an unfinished base: it may begin anew."""
    if broken is not None:
        anew = CatchUpPlan(Rule.BASE, f"The unfinished base begins anew: {broken.reason}")
        return _too_small(source, target) or anew
    if source.pin is None or source.pin != target.base:
        anew = CatchUpPlan(Rule.BASE, "The unfinished base begins anew: its point is not held any more.")
        return _too_small(source, target) or anew
    return CatchUpPlan(
        Rule.RESUME_BASE, f"The base of point {source.pin.number} goes on at block {target.next_block}."
    )


def _too_small(source: SourceFacts, target: Welcome) -> CatchUpPlan | None:
    """A base that would not fit is not begun. What an unfinished one takes of the disk now is not known: there
    only the budget is looked at."""
    need, room = source.need, target.room
    if need is None or not room.budget:
        return None
    budget, disk = budget_for(need, target.segment_blocks), disk_for(need, target.segment_blocks)
    needs = f"The mirror needs {size_words(need.base)} for the base"
    if room.budget < budget:
        return CatchUpPlan(
            Rule.TARGET_TOO_SMALL,
            f"{needs} and {size_words(budget)} for the log that the oldest snapshot keeps; its log may take "
            f"{size_words(room.budget)}.",
            f"Serve the mirror with --budget {-(-budget // MIB)}MiB or more; or begin it without the past, with "
            "--history none.",
        )
    if target.state == TargetState.EMPTY and room.free < disk:
        return CatchUpPlan(
            Rule.TARGET_TOO_SMALL,
            f"{needs} and {size_words(disk - need.base)} for its log; its disk has {size_words(room.free)} free.",
            "Make room there, or name a directory on a larger disk.",
        )
    return None


def _discontinuity(source: SourceFacts, target: Welcome) -> CatchUpPlan | None:
    """Why the source's log does not continue the target's, if so."""
    ours, theirs = source.hello.end, target.end
    if theirs.position > ours.position:
        if target.at_source_end == identity(ours):
            return CatchUpPlan(
                Rule.TARGET_AHEAD,
                f"The target's log goes on to {theirs.position}, the source's ends at {ours.position}.",
                "Open the source again: it fetches what it lacks from its mirrors.",
            )
        return _diverged(source, target)
    if theirs.position < source.hello.oldest:
        return CatchUpPlan(
            Rule.LOG_GONE,
            f"The target needs the log behind position {theirs.position}; the source keeps it from "
            f"{source.hello.oldest} on.",
            "Create the mirror anew in an empty directory.",
        )
    if source.at_target_end != identity(theirs):
        return _diverged(source, target)
    if theirs.position == ours.position and identity(theirs) != identity(ours):
        return _diverged(source, target)
    return None


def _diverged(source: SourceFacts, target: Welcome) -> CatchUpPlan:
    return CatchUpPlan(
        Rule.DIVERGED,
        f"The target has transfers up to {target.end.position} that are not of the log of {source.hello.name}.",
        "Look at both; then create the mirror anew in an empty directory.",
    )
