"""At which point the base of a new mirror begins, for each choice of history."""

from __future__ import annotations

import pytest

from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.point import Point
from revolume.volume.members.base_start import base_start
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.manifest_state import Horizon, PinnedSnapshot


def _point(number: int) -> Point:
    """Ten blocks of log and a hundred writes a point."""
    return Point(number, 0, number, 100 * number, 0, 0, 0, (0, 0), 0, 0, 10 * number, 0)


POINTS = [_point(number) for number in range(1, 6)]
NAMED = [PinnedSnapshot("kept", 200, 2, 0)]


@pytest.mark.parametrize(
    ("history", "names", "first_address", "begins"),
    [
        (History.ALL, [], 0, 1),
        (History.ALL, [], 35, 4),
        (History.ALL, NAMED, 0, 1),
        (History.ALL, NAMED, 35, 2),
        (History.ALL, [], 99, None),
        (History.NAMED, NAMED, 0, 2),
        (History.NAMED, NAMED, 35, 2),
        (History.NAMED, [], 0, None),
        (History.NONE, NAMED, 0, None),
    ],
)
def test_where_a_base_begins(
    history: History, names: list[PinnedSnapshot], first_address: int, begins: int | None
) -> None:
    horizon = Horizon(point=1, write=100, address=10)
    found = base_start(history, POINTS, horizon, 100, names, first_address)
    assert (found and found.number) == begins


@pytest.mark.parametrize(
    ("history", "away", "first_address", "begins"),
    [
        (History.NAMED, {400}, 0, 4),
        (History.NAMED, {400, 300}, 0, 3),
        (History.NAMED, {300}, 35, None),  # the log has no room for so much beside what is written meanwhile
        (History.NAMED, {50}, 0, None),
        (History.NONE, {400}, 0, None),
    ],
)
def test_it_reaches_back_to_where_members_stand_that_are_away(
    history: History, away: set[WriteNumber], first_address: Address, begins: int | None
) -> None:
    horizon = Horizon(point=1, write=100, address=10)
    found = base_start(history, POINTS, horizon, 100, [], first_address, away)
    assert (found and found.number) == begins
