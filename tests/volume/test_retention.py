"""What ``keep`` promises is retained, on a busy volume and on a slow one: tables and properties of the pure plan,
and a volume of whose last segment nearly nothing is old."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.chain.point import Point
from revolume.log.write.operations import OP_WRITE
from revolume.volume.space.retention import FILLS_ITS_BUDGET, OLDER_THAN_KEEP, FoldPlan, LogFacts, plan_fold

from .clocks import SetClock
from .driver import BLOCK, SMALL, Driver

SEGMENT = 64 << 10
SEGMENT_BLOCKS = SEGMENT // BLOCK
SECOND = 10**9


def point(number: int, address: int, seconds: float) -> Point:
    """A point of which only number, place and age matter; its write number is its number."""
    return Point(number, 0, number, number, 0, 1, 0, (0, 0), b"", 0, address, address, int(seconds * 1000))


def plan(
    points: list[Point],
    keep_before: float,
    *,
    held: int | None = None,
    log: int = 0,
    budget: int = 64 * SEGMENT,
    pressed: bool = False,
    room: int = 1 << 40,
) -> FoldPlan | None:
    facts = LogFacts(
        points=points, horizon_address=0, retired_write=0, held_write=held, keep_before_ms=int(keep_before * 1000),
        log_bytes=log * SEGMENT, budget_bytes=budget, segment_bytes=SEGMENT, pressed=pressed, room_bytes=room,
    )  # fmt: skip
    return plan_fold(facts)


def at(*places: tuple[float, float]) -> list[Point]:
    """Points at (segments, seconds)."""
    return [point(n, int(s * SEGMENT_BLOCKS), t) for n, (s, t) in enumerate(places, 1)]


SLOW = at((12.5, 0), (12.6, 1), (12.7, 2), (12.8, 19))
"""Much at once, then little: three points and more lie in the last segment of the log."""


@pytest.mark.parametrize(
    ("points", "options", "target", "reason"),
    [
        (SLOW, {"keep_before": -1.0}, None, None),
        (SLOW, {"keep_before": 0.0}, 1, OLDER_THAN_KEEP),
        (SLOW, {"keep_before": 1.5}, 1, OLDER_THAN_KEEP),
        (SLOW, {"keep_before": 0.0, "pressed": True}, 1, OLDER_THAN_KEEP),
        (SLOW, {"keep_before": -1.0, "pressed": True}, 1, FILLS_ITS_BUDGET),
        (SLOW, {"keep_before": -1.0, "log": 60}, 1, FILLS_ITS_BUDGET),
        (at((3, 0), (6, 1), (9, 2), (12, 3)), {"keep_before": 9.0}, 3, OLDER_THAN_KEEP),
        (at((3, 0), (6, 1), (9, 2), (12, 3)), {"keep_before": 9.0, "room": 8 * SEGMENT}, 2, OLDER_THAN_KEEP),
        (at((3, 0), (6, 1), (9, 2), (12, 3)), {"keep_before": 9.0, "room": 0}, 1, OLDER_THAN_KEEP),
        (at((3, 0), (6, 1), (9, 2), (12, 3)), {"keep_before": 9.0, "held": 1}, None, None),
        (at((3, 0), (6, 1)), {"keep_before": 9.0, "pressed": True, "held": 1}, 1, OLDER_THAN_KEEP),
        (at((3, 0), (6, 1), (9, 2), (9.5, 3)), {"keep_before": -1.0, "pressed": True}, 3, FILLS_ITS_BUDGET),
        # what lies behind something younger is not old, whatever it says
        (at((3, 50), (12, 3)), {"keep_before": 9.0}, None, None),
        (at((0.5, 0)), {"keep_before": 9.0, "pressed": True}, None, None),
        ([], {"keep_before": 9.0, "pressed": True}, None, None),
    ],
)
def test_the_target_of_a_fold(
    points: list[Point], options: dict[str, float], target: int | None, reason: str | None
) -> None:
    made = plan(points, **options)  # type: ignore[arg-type]
    assert (made and made.target.number, made and made.reason) == (target, reason)


def test_what_is_kept_is_not_taken_for_want_of_room_in_the_image() -> None:
    """Farther on zeroes might make room; only pressure may go there."""
    made, pressed = plan(SLOW, 0.0, room=0), plan(SLOW, 0.0, room=0, pressed=True)
    assert made is not None and made.last.number == 1
    assert pressed is not None and pressed.last.number == len(SLOW)


@st.composite
def histories(draw: st.DrawFn) -> list[Point]:
    steps = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(-30, 60)), min_size=1, max_size=30))
    address, seconds, made = 0, 100, []
    for number, (blocks, passed) in enumerate(steps, 1):
        address, seconds = address + blocks, max(0, seconds + passed)
        made.append(point(number, address, seconds))
    return made


@settings(max_examples=150, deadline=None)
@given(
    points=histories(), keep_before=st.integers(0, 600), held=st.none() | st.integers(1, 30),
    log=st.integers(0, 80), budget=st.integers(8, 64), pressed=st.booleans(), room=st.integers(0, 64),
)  # fmt: skip
def test_nothing_younger_than_keep_goes_because_of_age(
    points: list[Point], keep_before: int, held: int | None, log: int, budget: int, pressed: bool, room: int
) -> None:
    made = plan(
        points, keep_before, held=held, log=log, budget=budget * SEGMENT, pressed=pressed, room=room * SEGMENT
    )
    if made is None:
        return
    assert held is None or made.last.write <= held
    assert made.target.address // SEGMENT_BLOCKS >= 1, "a fold that gives nothing back"
    if made.reason == OLDER_THAN_KEEP:
        behind = [p for p in points if p.number <= made.target.number]
        assert all(p.lived_ms <= keep_before * 1000 for p in behind)
        assert pressed or log * SEGMENT >= budget * SEGMENT * 7 // 8 or made.last.lived_ms <= keep_before * 1000
    else:
        assert pressed or log * SEGMENT >= budget * SEGMENT - budget * SEGMENT // 8
        same = made.target.address // SEGMENT_BLOCKS
        first = next(p for p in points if p.address // SEGMENT_BLOCKS == same)
        assert made.target == first, "history was taken that gives no segment back"


# A volume


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-retention-", dir="/dev/shm"))
    yield made / "v"
    shutil.rmtree(made)


def test_a_slow_volume_keeps_what_is_promised(place: Path) -> None:
    """Much is written at once, then a block every half second. Each moment younger than ``keep`` opens, and so
    does the one exactly so old."""
    clock = SetClock()
    keep_s = 20

    async def play() -> None:
        driver = Driver(clock.host(), place, 4 << 20, replace(SMALL, keep_s=keep_s))
        await driver.open()
        volume = driver.volume
        for piece in range(20):
            await driver.change([(OP_WRITE, piece * 8 * BLOCK, bytes([piece + 1]) * (8 * BLOCK))])
        await volume.cut()
        made = [(clock.passed_ns, volume.write)]
        for step in range(60):
            clock.pass_by(0.5)
            await driver.change([(OP_WRITE, 0, bytes([step + 1]) * BLOCK)])
            made.append((clock.passed_ns, volume.write))
            await volume.cut()
            await volume.folder.step()
            limit = clock.passed_ns - keep_s * SECOND
            needed = [write for at_ns, write in made if at_ns <= limit][-1:] or [made[0][1]]
            assert volume.folder.retired_write <= needed[0], f"half second {step}"
        assert volume.folder.folds == 1, "what is older goes all the same"
        assert len(volume.points()) > 2 * keep_s
        await driver.check_moments(20)
        await volume.close()

    asyncio.run(play())
