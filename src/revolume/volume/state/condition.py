"""In one word how a volume is, and why: a pure function of what its parts say.

poisoned    a sync failed; nothing is promised until it is opened anew
full        writes are refused, or wait for room in the log
waiting     clients' answers wait for a required mirror
incomplete  a mirror whose base is still being received
degraded    it serves, and something needs a person
online      it serves
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.volume.state.damage import range_words


@dataclass(frozen=True, slots=True)
class Condition:
    """What the parts of a volume say; empty: nothing is the matter. ``keeper``: who keeps the log if writes are
    refused; ``blocked``: why they wait by order; ``log_waits``: the required mirror for which it can't be folded;
    ``replies_wait``: why answers wait."""

    poisoned: str = ""
    diverged: str = ""
    differs: str = ""
    incomplete: bool = False
    full: bool = False
    keeper: str = ""
    log_waits: str = ""
    blocked: str = ""
    replies_wait: str = ""
    folding: str = ""
    points: str = ""
    damaged: tuple[tuple[int, int], ...] = ()
    damaged_past: str = ""
    history: str = ""
    lost: str = ""
    forecast: str = ""


def state_of(c: Condition) -> tuple[str, str]:
    """The word, and the sentence. What is worse comes first."""
    keeper = f": {c.keeper}" if c.keeper else ""
    damaged = f"Reads of {range_words(c.damaged)} fail: what is there is not what was written."
    found = [
        (c.poisoned, "poisoned", c.poisoned),
        (c.diverged, "degraded", c.diverged),
        (c.incomplete, "incomplete", "The base is being received."),
        (c.full, "full", f"Writes are refused: no room for the log{keeper}."),
        (c.log_waits, "full", f"Writes wait: the log is full until mirror {c.log_waits} has caught up."),
        (c.blocked, "full", f"Writes wait, as --when-full says: {c.blocked}."),
        (c.replies_wait, "waiting", c.replies_wait),
        (c.damaged, "degraded", damaged),
        (c.lost, "degraded", c.lost),
        (c.differs, "degraded", c.differs),
        (c.damaged_past, "degraded", f"{c.damaged_past[:1].upper()}{c.damaged_past[1:]}."),
        (c.history, "degraded", f"History is suspect: {c.history}."),
        (c.folding, "degraded", f"The history can't be folded: {c.folding}"),
        (c.points, "degraded", f"No consistency point can be made: {c.points}"),
        (c.forecast, "degraded", c.forecast),
    ]
    return next(((word, reason) for there, word, reason in found if there), ("online", "Serving."))
