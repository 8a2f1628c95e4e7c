"""Bugs planted into the ladder: which of its rungs lead to a moment, and what a merged one has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from revolume.blocks.block_location import ZERO, kinds
from revolume.blocks.delta_map import DeltaMap, merge
from revolume.blocks.numbers import WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.chain import rung_builder
from revolume.sim.campaigns.plant import Plant
from revolume.volume.livemap import open_rungs, rung_plan
from revolume.volume.metadata.rung import Rung


def _over_a_gap(rungs: Iterable[Rung], begin: int, write: WriteNumber) -> tuple[Rung, ...]:
    """The one that comes closest, from wherever it begins."""
    usable = [rung for rung in rungs if rung.write <= write and rung.point > begin]
    return tuple(usable[-1:])


def _beyond_the_moment(rungs: Iterable[Rung], begin: int, write: WriteNumber) -> tuple[Rung, ...]:
    """As far as the first that is not before it."""
    known = list(rungs)
    return _leading_to(known, begin, min((rung.write for rung in known if rung.write >= write), default=write))


_leading_to = rung_plan.leading_to


def _without_zeroes(newer: Iterable[DeltaMap], older: Iterable[DeltaMap]) -> Iterator[DeltaMap]:
    data = (piece.entries(kinds(piece.locations) != ZERO) for piece in newer)
    return _merge(data, older)


_merge = merge


def _older_ranges(_: Ranges, older: Ranges) -> Ranges:
    return older


def _covered_as_well(pieces: Iterator[DeltaMap], _: Ranges) -> Iterator[DeltaMap]:
    return pieces


LADDER_PLANTS: Final = (
    Plant("rung-over-a-gap", "a rung that begins behind what is known leads to a moment", "primary", 20,
          ((open_rungs, "leading_to", _over_a_gap),), "point moments", told="@w"),
    Plant("rung-beyond-the-moment", "a rung that goes beyond a moment leads to it", "primary", 20,
          ((open_rungs, "leading_to", _beyond_the_moment),), "point moments", told="@w"),
    Plant("rung-merge-loses-zeroes", "a merged rung has no zeroes of the newer one", "primary", 40,
          ((rung_builder, "merge", _without_zeroes), (rung_builder, "ranges_over", _older_ranges),
           (rung_builder, "uncovered", _covered_as_well)), "point moments", told="@w"),
)  # fmt: skip
