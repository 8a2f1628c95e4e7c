"""One job: a state machine, and what it says of itself.

    QUEUED ──▶ RUNNING ──▶ DONE        its work returned an ``Outcome``
       │          ├──────▶ FAILED      it raised
       └──────────┴──────▶ CANCELLED   somebody ended it, or the volume is served no more

A job that has ended never changes again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from revolume.errors import RevolumeError
from revolume.host.clock import Clock


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing more comes."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended that was done. ``result``: JSON values, of which ``told``, if it is there, is a sentence for
    a person. ``finding``: something is wrong with what it looked at (exit status 5)."""

    result: Mapping[str, Any] = field(default_factory=dict)
    finding: bool = False


class Job:
    """One long operation. ``kind`` says which, ``what`` for a person on what; times are wall clock, 0: not yet."""

    def __init__(self, clock: Clock, identity: str, kind: str, what: str, unit: str = "bytes") -> None:
        self._clock = clock
        self.id = identity
        self.kind = kind
        self.what = what
        self.unit = unit
        self.state = JobState.QUEUED
        self.stage = ""
        self.done = 0
        self.total = 0
        self.started_ns = 0
        self.ended_ns = 0
        self.outcome = Outcome()
        self.error: RevolumeError | None = None

    def report(self, stage: str, done: int, total: int) -> None:
        """How far it has come: what it is doing, and how much of it, in ``unit``. ``total`` 0: not known."""
        if not self.state.ended:
            self.stage, self.done, self.total = stage, done, total

    def begin(self) -> None:
        """QUEUED → RUNNING."""
        assert self.state is JobState.QUEUED, self.state
        self.state, self.started_ns = JobState.RUNNING, self._clock.wall_ns()

    def finish(self, outcome: Outcome) -> None:
        """RUNNING → DONE."""
        self._end(JobState.DONE)
        self.outcome = outcome

    def fail(self, error: RevolumeError) -> None:
        """RUNNING → FAILED."""
        self._end(JobState.FAILED)
        self.error = error

    def cancelled(self) -> None:
        """QUEUED or RUNNING → CANCELLED."""
        self._end(JobState.CANCELLED)

    def _end(self, state: JobState) -> None:
        assert not self.state.ended, self.state
        self.state, self.ended_ns = state, self._clock.wall_ns()


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job that may begin. ``what``: for a person, on what it works. ``work`` is given the job, so that it can
    report; it returns the outcome or raises, and ends promptly when it is cancelled."""

    what: str
    work: Callable[[Job], Awaitable[Outcome]]
    unit: str = "bytes"


# Makes a plan out of what was asked for, as JSON values by name. It begins nothing. UsageError: that makes no
# sense; NotFound, Refused, TimedOut: it cannot be done now, and why.
JobFactory = Callable[[Mapping[str, Any]], JobPlan]
