"""What a copy's marks say of its moments: whether one is suspect, why, and which moments beside it are good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from revolume.blocks.block_set import BlockSet
from revolume.blocks.numbers import WriteNumber
from revolume.volume.state.status import SuspectStatus
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.suspect_rows import blocks_of, joined, periods_of, rows_at
from revolume.volume.suspect.suspicion import OPEN, Suspicion

PERIODS_TOLD: Final = 64


class SuspectPeriods:
    """Immutable: what is known at one time. ``marks``: of every comparison, and of what else made history
    suspect."""

    def __init__(self, marks: Sequence[Marks] = ()) -> None:
        self.marks = tuple(marks)
        self._of_volume = [each for each in marks if not each.branch]
        self._rows = joined(each.rows for each in self._of_volume)
        self._starts, self._ends = periods_of(self._rows)

    def __bool__(self) -> bool:
        """Whether any moment is suspect."""
        return len(self._starts) > 0

    def list(self) -> list[tuple[WriteNumber, WriteNumber]]:
        """The periods, as (first suspect write, first write behind it that is not), ascending and apart."""
        pairs = zip(self._starts.tolist(), self._ends.tolist(), strict=True)
        return [(WriteNumber(since), WriteNumber(until)) for since, until in pairs]

    def within(self, write: WriteNumber) -> bool:
        """Whether the moment at ``write`` is suspect."""
        at = int(self._starts.searchsorted(np.uint64(write), "right"))
        return at > 0 and write < int(self._ends[at - 1])

    def blocks_at(self, write: WriteNumber) -> BlockSet:
        """The blocks that are suspect at that moment."""
        return blocks_of(rows_at(self._rows, write))

    def at(self, write: WriteNumber) -> Suspicion | None:
        """What is known of the moment at ``write``; None: it is good."""
        if not self.within(write):
            return None
        at = int(self._starts.searchsorted(np.uint64(write), "right")) - 1
        since, until = WriteNumber(int(self._starts[at])), WriteNumber(int(self._ends[at]))
        return Suspicion(self.blocks_at(write).block_count(), _causes(self._of_volume, write), since, until)

    def within_period(self, since: WriteNumber, until: WriteNumber) -> Suspicion:
        """What is known of a period as a whole."""
        met = [each.rows[(each.rows["since"] < until) & (since < each.rows["until"])] for each in self._of_volume]
        causes = dict.fromkeys(each.cause for each, rows in zip(self._of_volume, met, strict=True) if len(rows))
        return Suspicion(blocks_of(joined(met)).block_count(), tuple(causes), since, until)

    def of_branch(self, branch: str, common: WriteNumber, write: WriteNumber) -> Suspicion | None:
        """What is known of the moment at ``write`` on a branch that begins at the volume's write ``common``: what
        was suspect there is in the branch too, unless it was written again."""
        own = [each for each in self.marks if each.branch == branch]
        held = [rows_at(self._rows, common), *(rows_at(each.rows, write) for each in own)]
        blocks = blocks_of(joined(held)).block_count()
        if not blocks:
            return None
        causes = dict.fromkeys((*_causes(self._of_volume, common), *_causes(own, write)))
        return Suspicion(blocks, tuple(causes), write, OPEN)


def suspect_statuses(periods: SuspectPeriods) -> tuple[SuspectStatus, ...]:
    """Plain values, the newest so many."""
    told = [(since, until, periods.within_period(since, until)) for since, until in periods.list()[-PERIODS_TOLD:]]
    return tuple(
        SuspectStatus(since, until if until < OPEN else None, found.blocks, found.causes)
        for since, until, found in told
    )


def _causes(marks: Sequence[Marks], write: WriteNumber) -> tuple[str, ...]:
    """Each once, oldest first."""
    return tuple(dict.fromkeys(each.cause for each in marks if len(rows_at(each.rows, write))))
