"""One mirror as its primary knows it, alone: its positions in a session, what it owes, who waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from revolume.chain.point import Point
from revolume.volume.members.kept_for_mirrors import newest_held
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState


def joined(durable: int = 0) -> Mirror:
    return Mirror(MirrorState("m", MirrorMode.SYNC, True, 3, 30, b"n" * 16, durable))


def test_what_a_copy_said_in_another_session_proves_nothing() -> None:
    mirror = joined()
    mirror.begin_session(Positions(20, 20, 4, 18))
    mirror.begin_session(Positions(10, 9, 2, 8))
    assert (mirror.received, mirror.durable, mirror.agreed_point, mirror.agreed_position) == (10, 9, 2, 8)


def test_a_copy_that_comes_back_with_less_is_level_again_when_it_has_as_much() -> None:
    mirror = joined(durable=15)
    mirror.begin_session(Positions(12, 12, 0, 0))
    assert mirror.level_at == mirror.acknowledged_durable == 15
    assert not mirror.acknowledge(Positions(20, 14, 0, 0))
    assert mirror.acknowledge(Positions(20, 15, 0, 0))
    assert mirror.level_at == 0
    assert not mirror.acknowledge(Positions(20, 16, 0, 0)), "it is told once"


def test_of_one_that_has_not_joined_nothing_was_acknowledged() -> None:
    mirror = joined(durable=15)
    mirror.state = replace(mirror.state, joined=False)
    mirror.begin_session(Positions(2, 2, 0, 0))
    assert mirror.level_at == 0


def test_who_waits_is_released_by_what_is_durable_or_when_nothing_is_required_any_more() -> None:
    async def scenario() -> None:
        mirror, asked = joined(), list[int]()
        mirror.ask_durable = asked.append
        mirror.begin_session(Positions(5, 5, 0, 0))
        await mirror.wait_durable(5)
        first, second = (asyncio.ensure_future(mirror.wait_durable(position)) for position in (7, 9))
        await asyncio.sleep(0)
        assert asked == [7, 9] and len(mirror.waiting) == 2
        mirror.acknowledge(Positions(9, 8, 0, 0))
        await first
        assert not second.done()
        mirror.state = replace(mirror.state, joined=False)
        mirror.settle()
        await second
        assert mirror.waiting == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("durable", "agreed", "retired", "number"),
    [(25, 25, 0, 2), (25, 15, 0, 1), (15, 25, 0, 1), (9, 25, 0, None), (35, 35, 25, 3), (25, 25, 25, None)],
)
def test_the_newest_point_that_it_holds(durable: int, agreed: int, retired: int, number: int | None) -> None:
    mirror = joined()
    mirror.begin_session(Positions(40, durable, 0, agreed))
    points = [Point(n, n - 1, 10 * n, 10 * n, 0, 1, 0, (0, 0), bytes(16), 0) for n in (1, 2, 3)]
    found = newest_held(mirror, points, retired)
    assert (None if found is None else found.number) == number
