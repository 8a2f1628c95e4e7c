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
    refused     the source's log has dropped what the target lacks; the target has more of the same log (whoever
                opens the source fetches it first); each has transfers that the other has not
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from revolume.mirror.base_plan import budget_for, disk_for
from revolume.mirror.messages import Hello, Identity, Need, Pin, TargetState, Welcome
from revolume.mirror.wording import size_words
from revolume.volume.end import End

MIB: Final = 1 << 20


class Rule(IntEnum):
    """By which rule; from 16 on it is a refusal."""

    NOTHING = 1
    LOG = 2
    BASE = 3
    RESUME_BASE = 4
    OTHER_VOLUME = 16
    STALE_EPOCH = 17
    RIVAL_EPOCH = 18
    SEGMENTS_TOO_SMALL = 19
    LOG_GONE = 20
    TARGET_AHEAD = 21
    DIVERGED = 22
    MEMBER_REPLACED = 23
    TARGET_TOO_SMALL = 24

    @property
    def refuses(self) -> bool:
        """Nothing begins; somebody has to do something first."""
        return self >= Rule.OTHER_VOLUME

    @property
    def spoken(self) -> str:
        """As it is logged, and the code of a refusal."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule, why, and what a person can do about a refusal."""

    rule: Rule
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of the source. ``at_target_end``: its transfer at the position where the target's log ends;
    ``pin``: the base point that it holds for this mirror; ``need``: what a base would take, None: not worked
    out."""

    hello: Hello
    at_target_end: Identity | None
    pin: Pin | None
    need: Need | None = None


def identity(end: End) -> Identity:
    """Of the last transfer of a log."""
    return Identity(end.epoch, end.reign, end.chain)


def decide(source: Source, target: Welcome) -> Decision:
    """See the module's text."""
    return unfit(source.hello, target) or _fit(source, target)


def unfit(hello: Hello, target: Welcome) -> Decision | None:
    """Refusals that do not look at the logs."""
    if hello.joined and (target.state == TargetState.EMPTY or target.volume != hello.volume):
        return _replaced(hello, "it is empty" if target.state == TargetState.EMPTY else "it holds another volume")
    if target.state != TargetState.EMPTY and target.volume != hello.volume:
        return Decision(
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
        return Decision(
            Rule.SEGMENTS_TOO_SMALL,
            f"A transfer may take {hello.largest_blocks} blocks; a segment of the target has "
            f"{target.segment_blocks}.",
            "Create the mirror with segments at least as large as the source's.",
        )
    return None


def _replaced(hello: Hello, what: str) -> Decision:
    """Answers rest on a copy that has joined: whatever else is found at its address does not have them."""
    return Decision(
        Rule.MEMBER_REPLACED,
        f"The node that answers is not the copy that mirror {hello.mirror} of {hello.name} is: {what}.",
        f"Bring that copy back; or give it up with 'revolume mirror replace DIR {hello.mirror}', so that another "
        f"may become the mirror, or with 'revolume detach DIR {hello.mirror}'.",
    )


def _outdated(hello: Hello, target: Welcome) -> Decision | None:
    """Refusals of an opening that is not the newest."""
    if hello.epoch < target.known_epoch:
        return Decision(
            Rule.STALE_EPOCH,
            f"The target knows opening {target.known_epoch} of {hello.name}; the source is opening {hello.epoch}.",
            "Another node has become primary: this one must become its mirror.",
        )
    if hello.epoch == target.known_epoch and hello.reign != target.known_reign:
        return Decision(
            Rule.RIVAL_EPOCH,
            f"The target knows another opening {hello.epoch} of {hello.name} than this source's.",
            "Two nodes were made primary at the same time: one of them must give way.",
        )
    return None


def _fit(source: Source, target: Welcome) -> Decision:
    if target.state == TargetState.EMPTY:
        return _too_small(source, target) or Decision(Rule.BASE, "The target is empty.")
    broken = _discontinuity(source, target)
    if target.state == TargetState.BASE:
        return _base(source, target, broken)
    if broken is not None:
        return broken
    if target.end.position == source.hello.end.position:
        return Decision(Rule.NOTHING, f"Both logs end at {target.end.position}.")
    return Decision(Rule.LOG, f"The source's log continues the target's behind {target.end.position}.")


def _base(source: Source, target: Welcome, broken: Decision | None) -> Decision:
    """Nothing was ever promised of an unfinished base: it may begin anew."""
    if broken is not None:
        anew = Decision(Rule.BASE, f"The unfinished base begins anew: {broken.reason}")
        return _too_small(source, target) or anew
    if source.pin is None or source.pin != target.base:
        anew = Decision(Rule.BASE, "The unfinished base begins anew: its point is not held any more.")
        return _too_small(source, target) or anew
    return Decision(
        Rule.RESUME_BASE, f"The base of point {source.pin.number} goes on at block {target.next_block}."
    )


def _too_small(source: Source, target: Welcome) -> Decision | None:
    """A base that would not fit is not begun. What an unfinished one takes of the disk now is not known: there
    only the budget is looked at."""
    need, room = source.need, target.room
    if need is None or not room.budget:
        return None
    budget, disk = budget_for(need, target.segment_blocks), disk_for(need, target.segment_blocks)
    needs = f"The mirror needs {size_words(need.base)} for the base"
    if room.budget < budget:
        return Decision(
            Rule.TARGET_TOO_SMALL,
            f"{needs} and {size_words(budget)} for the log that the oldest snapshot keeps; its log may take "
            f"{size_words(room.budget)}.",
            f"Serve the mirror with --budget {-(-budget // MIB)}MiB or more; or begin it without the past, with "
            "--history none.",
        )
    if target.state == TargetState.EMPTY and room.free < disk:
        return Decision(
            Rule.TARGET_TOO_SMALL,
            f"{needs} and {size_words(disk - need.base)} for its log; its disk has {size_words(room.free)} free.",
            "Make room there, or name a directory on a larger disk.",
        )
    return None


def _discontinuity(source: Source, target: Welcome) -> Decision | None:
    """Why the source's log does not continue the target's, if so."""
    ours, theirs = source.hello.end, target.end
    if theirs.position > ours.position:
        if target.at_source_end == identity(ours):
            return Decision(
                Rule.TARGET_AHEAD,
                f"The target's log goes on to {theirs.position}, the source's ends at {ours.position}.",
                "Open the source again: it fetches what it lacks from its mirrors.",
            )
        return _diverged(source, target)
    if theirs.position < source.hello.oldest:
        return Decision(
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


def _diverged(source: Source, target: Welcome) -> Decision:
    return Decision(
        Rule.DIVERGED,
        f"The target has transfers up to {target.end.position} that are not of the log of {source.hello.name}.",
        "Look at both; then create the mirror anew in an empty directory.",
    )
