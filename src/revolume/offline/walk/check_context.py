"""What a verification has found so far: problems, how much was read, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from revolume.offline.walk.report import CheckReport, Problem, Progress
from revolume.volume.state.status import SuspectStatus
from revolume.volume.suspect.periods import SuspectPeriods


@dataclass(slots=True)
class CheckContext:
    """Progress, counters and problems of one verification, shared by its parts."""

    progress: Progress
    problems: list[Problem] = field(default_factory=list)
    periods: SuspectPeriods = field(default_factory=SuspectPeriods)
    """Of the moments in which the copy is known to differ from what the volume was."""
    suspect: tuple[SuspectStatus, ...] = ()
    incomplete: str = ""
    elsewhere: str = ""
    segments: int = 0
    transfers: int = 0
    blocks: int = 0
    points: int = 0
    moments: int = 0
    bytes_read: int = 0

    def add_problem(self, where: str, what: str) -> None:
        """Record that something does not hold: ``where`` a person can look, ``what`` is wrong there."""
        self.problems.append(Problem(where, what))

    def report(self) -> CheckReport:
        """The report, as an immutable value."""
        return CheckReport(
            tuple(self.problems), self.segments, self.transfers, self.blocks, self.points, self.moments,
            self.bytes_read, self.suspect, self.incomplete, self.elsewhere,
        )  # fmt: skip
