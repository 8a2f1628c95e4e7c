"""Bugs planted into what says which history of a copy is suspect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from revolume.history.resolver import MomentResolver
from revolume.resync import suspect_history as walking
from revolume.resync.overwritten_findings import OverwrittenFindings
from revolume.resync.suspect_walk import suspect_rows
from revolume.sim.campaigns.plant import Plant
from revolume.volume.open import assemble
from revolume.volume.suspect.suspect_history import SuspectHistory


def _one_map_early(*given: Any) -> Iterator[Any]:
    """What is left at the end of the chain is not told."""
    yield from list(_suspect_rows(*given))[:-1]


_suspect_rows = suspect_rows


def _nothing_kept(self: SuspectHistory, oldest: Any) -> list[Any]:
    return []


def _none_there(*_: Any) -> list[Any]:
    return []


def _silently(self: MomentResolver, asked: Any) -> Any:
    return self.resolve(asked.moment)


async def _none_looked_for(self: OverwrittenFindings) -> int:
    return 0


PLANTED_MARKS: Final = (
    Plant("overwritten-findings-forgotten", "what clients overwrote before the comparison is not looked for",
          "comparison", 40, ((OverwrittenFindings, "mark", _none_looked_for),), "diverge verify",
          first=10, told="differs"),
    Plant("walk-ends-early", "the suspect walk ends one map too early", "comparison", 20,
          ((walking, "suspect_rows", _one_map_early),), "diverge verify", told="differs"),
    Plant("marks-go-with-fold", "upkeep forgets marks of moments that are still there", "comparison", 20,
          ((SuspectHistory, "_spoken_of", _nothing_kept),), "diverge verify", told="differs"),
    Plant("marks-lost-at-opening", "a copy that is opened has forgotten what is suspect", "comparison", 20,
          ((assemble, "load_marks", _none_there),), "diverge verify kill_mirror", told="differs"),
    Plant("suspect-opened-silently", "a suspect moment is opened by who does not say so", "comparison", 20,
          ((MomentResolver, "opened", _silently),), "diverge verify", told="without a word"),
)  # fmt: skip
