"""What a verification has found so far: problems, how much was read, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from revolume.offline.report import CheckReport, Problem, Progress


@dataclass(slots=True)
class Findings:
    """Every part of the verification adds to it; the report is made of it at the end."""

    progress: Progress
    problems: list[Problem] = field(default_factory=list)
    incomplete: str = ""
    segments: int = 0
    transfers: int = 0
    blocks: int = 0
    points: int = 0
    moments: int = 0
    bytes_read: int = 0

    def say(self, where: str, what: str) -> None:
        """Something does not hold."""
        self.problems.append(Problem(where, what))

    def report(self) -> CheckReport:
        """All of it, as a value."""
        return CheckReport(
            tuple(self.problems), self.segments, self.transfers, self.blocks, self.points, self.moments,
            self.bytes_read, self.incomplete,
        )  # fmt: skip
