"""Times across clock steps: where in the history a label, or a span back from now, is to be looked for.

Clock steps, which the log states, cut the history into stretches. Within one, labels never fall. Between two, what
the step went by is known, so that every label can be said on the scale of the newest stretch, on which time has
passed as it really has. *So long ago* is looked up on that scale. An *absolute time* is what somebody read off a
clock: it is looked up in the newest stretch that has it, and it is ambiguous where another has it too.

Pure: numbers in, numbers out. Write numbers, not labels, say where a stretch begins and ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from revolume.blocks.numbers import Position, WriteNumber
from revolume.volume.clocks.label_clock import ClockStep
from revolume.volume.state.status import OldestMoment

LAST_WRITE, END_POSITION = WriteNumber(2**63 - 1), Position(2**63 - 1)
"""Behind every number of a log: where the newest stretch ends."""


@dataclass(frozen=True, slots=True)
class LabelStretch:
    """The writes in (after, upto] were labelled by one clock, which went from ``begin_ns`` to ``end_ns``; it ends
    before the transfer at ``end_position``. On the newest stretch's scale its labels are ``shift_ns`` more."""

    after: WriteNumber
    upto: WriteNumber
    end_position: Position
    begin_ns: int
    end_ns: int
    shift_ns: int

    def has(self, time_ns: int) -> bool:
        """Whether this stretch's clock showed the time."""
        return self.begin_ns <= time_ns <= self.end_ns


@dataclass(frozen=True, slots=True)
class LabelSearch:
    """Where to search for a time: the last write labelled ``time_ns`` or earlier in ``stretch``. ``others``: older
    stretches whose clocks showed the same time, which make it ambiguous."""

    stretch: LabelStretch
    time_ns: int
    others: tuple[LabelStretch, ...] = ()


def label_stretches(steps: Sequence[ClockStep], oldest: OldestMoment, now_ns: int) -> list[LabelStretch]:
    """The stretches of a history, oldest first; steps before its oldest moment do not count. ``now_ns``: what the
    newest stretch's clock shows now."""
    after, begin_ns = oldest.write, oldest.time_ns
    retained = [step for step in steps if step.position > oldest.position]
    shift_ns = sum(step.by_ns for step in retained)
    made: list[LabelStretch] = []
    for step in retained:
        made.append(
            LabelStretch(
                after=after,
                upto=step.write,
                end_position=step.position,
                begin_ns=begin_ns,
                end_ns=step.from_ns,
                shift_ns=shift_ns,
            )
        )
        after, begin_ns, shift_ns = step.write, step.to_ns, shift_ns - step.by_ns
    made.append(
        LabelStretch(
            after=after,
            upto=LAST_WRITE,
            end_position=END_POSITION,
            begin_ns=begin_ns,
            end_ns=max(begin_ns, now_ns),
            shift_ns=0,
        )
    )
    return made


def seek_time(stretches: Sequence[LabelStretch], time_ns: int) -> LabelSearch | None:
    """Where an absolute time lies. None: it is older than every label of this history."""
    having = [stretch for stretch in stretches if stretch.has(time_ns)]
    if having:
        return LabelSearch(having[-1], time_ns, tuple(having[:-1]))
    passed = [stretch for stretch in stretches if stretch.begin_ns <= time_ns]
    return LabelSearch(passed[-1], time_ns) if passed else None


def seek_ago(stretches: Sequence[LabelStretch], ago_ns: int) -> LabelSearch | None:
    """Where the moment ``ago_ns`` before now lies. None: before the oldest retained moment."""
    time_ns = stretches[-1].end_ns - ago_ns
    begun = [stretch for stretch in stretches if stretch.begin_ns + stretch.shift_ns <= time_ns]
    return LabelSearch(begun[-1], time_ns - begun[-1].shift_ns) if begun else None


def in_future(stretches: Sequence[LabelStretch], time_ns: int) -> bool:
    """Whether the time is later than every label of this history, and than now."""
    return all(time_ns > stretch.end_ns for stretch in stretches)
