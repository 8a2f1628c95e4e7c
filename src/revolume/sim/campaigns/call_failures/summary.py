"""All cases of the stages, and what they came to: a part of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from revolume.sim.campaigns.call_failures.case import Case, Found, cases
from revolume.sim.campaigns.call_failures.mirrored import Mirrored
from revolume.sim.campaigns.call_failures.single import Alone
from revolume.sim.campaigns.case_runner import spread
from revolume.sim.campaigns.report_section import ReportSection

MODULE = "revolume.sim.campaigns.call_failures"
STAGES: dict[str, Callable[[Case | None], Found]] = {
    "alone": lambda case: Alone(case).play(),
    "mirror": lambda case: Mirrored(case, "b").play(),
    "source": lambda case: Mirrored(case, "a").play(),
}
"""Plays a case, or, without one, the history as it goes when nothing fails."""
WHOLE = frozenset({"alone"})
"""Here every call fails; elsewhere, unless it is asked for, the first of each place in each step."""


@dataclass(slots=True)
class Total:
    """What the cases of one stage came to. ``clean``: the history without a fault."""

    stage: str
    clean: Found
    judged: int = 0
    planned: int = 0
    sites: set[str] = field(default_factory=set)
    after: Counter[tuple[str, str]] = field(default_factory=Counter)
    unheard: int = 0
    lost: int = 0
    failures: list[str] = field(default_factory=list)
    by_call: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.clean.wrong or self.clean.said:
            self.failures.append(f"{self.stage} without any fault: {self.clean.said + self.clean.wrong}")

    def add(self, found: Found) -> None:
        """One more."""
        assert found.case is not None
        self.judged += 1
        self.by_call[found.case.call] += 1
        self.sites |= found.sites
        self.after[found.case.error, found.after] += 1
        self.unheard += not found.said
        self.lost += bool(found.lost)
        if found.wrong:
            command = f"python -m {MODULE} --case {found.case}"
            self.failures.append(f"{found.case}: {' | '.join(found.wrong[:3])[:500]} ({command})")

    def notes(self) -> Iterator[str]:
        """Sentences for the report."""
        calls = ", ".join(f"{call} {n}" for call, n in sorted(self.by_call.items()))
        told = ", ".join(f"{error} {after} {n}" for (error, after), n in sorted(self.after.items()))
        missed = ", ".join(sorted(self.clean.sites - self.sites)) or "none"
        yield f"\n**{self.stage}**: {self.judged:,} of {self.planned:,}. Failed, by call: {calls}."
        yield f"When the fault is gone it: {told}."
        yield f"Call sites that have not failed: {missed}."


def judge(case: Case) -> Found:
    """Play it."""
    return STAGES[case.stage](case)


def run(
    stages: list[str],
    every: int = 1,
    minutes: float | None = None,
    jobs: int = 0,
    only: Callable[[Case], bool] = lambda case: True,
    every_call: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Total]:
    """Each ``every``-th case of each stage, as far as the time reaches."""
    totals = {stage: Total(stage, STAGES[stage](None)) for stage in stages}
    chosen: list[Case] = []
    for stage, total in totals.items():
        found = list(filter(only, cases(stage, total.clean, every_call or stage in WHOLE)))
        total.planned = len(found[::every])
        chosen += found[::every] if not total.failures else []
    for judged in spread(_begin, chosen, jobs, minutes, 10):
        assert judged.case is not None
        total = totals[judged.case.stage]
        before = len(total.failures)
        total.add(judged)
        if len(total.failures) > before:
            say(f"FAILED {total.failures[-1]}")
    return list(totals.values())


def _begin() -> Callable[[Case], Found]:
    return judge


def report(totals: list[Total], seconds: float) -> ReportSection:
    """Its part of the report."""
    part = ReportSection("nth", "The n-th call fails", 40, seconds=seconds)
    part.counts = {
        "nth failures": sum(total.judged for total in totals),
        "nth failures there are": sum(total.planned for total in totals),
        **{f"nth failures, {total.stage}": total.judged for total in totals},
        "nth failure call sites": len(set[str]().union(*(total.sites for total in totals))),
        "call sites of the histories": len(set[str]().union(*(total.clean.sites for total in totals))),
        "failures that nobody had to be told of": sum(total.unheard for total in totals),
        "failures after which a block was said to be lost": sum(total.lost for total in totals),
    }  # fmt: skip
    part.failures = [failure for total in totals for failure in total.failures]
    part.notes = [note for total in totals for note in total.notes()]
    return part
