"""What is said of a moment that is suspect: why, where good ones lie, and how it is opened all the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from revolume.chain.point import Point
from revolume.errors import Refused
from revolume.history.moments import ExportName, format_export, format_time
from revolume.history.resolved_moment import ResolvedMoment
from revolume.volume.branches.names import branch_moment
from revolume.volume.suspect.periods import SuspectPeriods
from revolume.volume.suspect.suspicion import Suspicion


class MarkedHistory(Protocol):
    """What is retained of one volume, and marked; ``resolver.RetainedHistory``."""

    @property
    def name(self) -> str: ...
    @property
    def suspect(self) -> SuspectPeriods: ...
    @property
    def elsewhere(self) -> str: ...
    def points(self) -> Sequence[Point]: ...


def suspect_words(suspicion: Suspicion) -> str:
    """As the end of a sentence."""
    count = f"{suspicion.blocks} blocks" if suspicion.blocks != 1 else "1 block"
    return f"suspect in {count}: {'; '.join(suspicion.causes)}"


def nearest_good(
    points: Sequence[Point], suspect: SuspectPeriods, suspicion: Suspicion
) -> tuple[Point | None, Point | None]:
    """The last good point before the period in which a suspect moment lies, and the first behind it. ``points``:
    oldest first. None: there is none on that side."""
    good = [point for point in points if not suspect.within(point.write)]
    before = [point for point in good if point.write < suspicion.since]
    behind = [point for point in good if point.write >= suspicion.until]
    return before[-1] if before else None, behind[0] if behind else None


def refuse_suspect(history: MarkedHistory, asked: ExportName, resolved: ResolvedMoment) -> Refused:
    """The refusal of an export whose name does not say that it is suspect."""
    assert resolved.suspicion is not None
    named = ExportName(history.name, asked.moment, asked.options)
    meant = "" if resolved.branch else f" (w{resolved.write})"
    cause = f"{format_export(named)}{meant} is {suspect_words(resolved.suspicion)}."
    said = format_export(replace(named, options=asked.options | {"suspect"}))
    hints = [_good(history, resolved), history.elsewhere, f"To open it all the same: {said}."]
    return Refused("suspect-moment", cause, " ".join(filter(None, hints)))


def _good(history: MarkedHistory, resolved: ResolvedMoment) -> str:
    """Where good moments lie here."""
    assert resolved.suspicion is not None
    if resolved.branch:
        return f"All of {branch_moment(resolved.branch)} rests on what is suspect."
    sides = nearest_good(history.points(), history.suspect, resolved.suspicion)
    told = [
        f"{side} it cp{point.number} (w{point.write}) of {format_time(point.time_ns)}"
        for side, point in zip(("before", "behind"), sides, strict=True)
        if point is not None
    ]
    return f"Good here are, nearest, {' and '.join(told)}." if told else "No point here is good."
