"""The cases of ``every_byte.py``, what came of each, and of all of them together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from revolume.sim.campaigns.report_section import ReportSection

TOLD_AS = {
    "meta": "Bytes of manifests, headers, footers, maps and digests", "payload": "Bytes of blocks and fragments",
    "idle": "Bytes that nobody needs, by sectors, and every 61st alone", "cut": "Lengths", "swap": "Pairs",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """``what`` was done to file ``name`` at ``at`` (and ``more``); for rounds ``at`` is the byte in each unit."""

    phase: str
    what: str
    name: str
    at: int
    more: int = 0

    def __str__(self) -> str:
        return f"{self.what}:{self.name}:{self.at}:{self.more}"


@dataclass(slots=True)
class CaseResult:
    """What came of a case: per kind of region and outcome how many bytes, lengths or pairs; and what is wrong."""

    case: Case
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Total:
    """What all cases came to."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.failures: list[str] = []
        self.cases = 0

    def add(self, found: CaseResult) -> None:
        """One more."""
        self.cases += 1
        self.counts += found.counts
        if found.wrong:
            command = f"python -m revolume.sim.campaigns.every_byte --case '{found.case}'"
            self.failures.append(f"{found.case}: {' | '.join(found.wrong[:2])[:400]} ({command})")

    def of(self, *phases: str) -> int:
        """How many bytes, lengths or pairs."""
        return sum(count for (phase, _, _), count in self.counts.items() if phase in phases)


def report(total: Total, planned: int, seconds: float) -> ReportSection:
    """Its part of the report."""
    part = ReportSection("every-byte", "Every byte of a stopped store", order=30)
    part.counts = {
        "byte flips": total.of("meta", "payload", "idle"), "truncations": total.of("cut"),
        "block swaps": total.of("swap"), "flips of payloads that check has named": total.of("named"),
        "cases of the campaign": total.cases, "cases left out for want of time": planned - total.cases,
    }  # fmt: skip
    part.failures = total.failures
    part.seconds = seconds
    for phase, what in TOLD_AS.items():
        by_outcome: Counter[str] = Counter()
        for (where, _, outcome), count in total.counts.items():
            by_outcome[outcome] += count if where == phase else 0
        told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(by_outcome.items()) if count)
        part.notes.append(f"{what}: {told or 'none'}.")
    return part
