"""The fold planner alone: what it tells the policy of its volume, and the job that it makes of the answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from revolume.chain.point import Point
from revolume.volume.context import VolumeContext
from revolume.volume.metadata.keep_policy import KeepPolicy
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.open.options import OpenOptions
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.size_history import SizeHistory
from revolume.volume.space.fold_planner import FoldPlanner
from revolume.volume.space.retention import FILLS_ITS_BUDGET, OLDER_THAN_KEEP

BLOCKS = 16
SEGMENT = BLOCKS * 4096


def point(number: int, segments: float, lived_s: float) -> Point:
    """Its cut lies so many segments behind the horizon, its record a block later; made at that lived time."""
    address = int(segments * BLOCKS)
    return Point(
        number, number - 1, number, 10 * number, 0, 1, 0, (0, 0), b"", 0, address, address + 1, int(lived_s * 1000)
    )


def planner(
    *points: Point, used: int = 2, budget: int = 100, held: int | None = None, pinned: tuple[int, ...] = ()
) -> FoldPlanner:
    nothing: Any = None
    directory: Any = SimpleNamespace(path="/v")
    context = VolumeContext(
        host=nothing,
        options=OpenOptions(),
        volume_id=b"v" * 16,
        name="v",
        directory=directory,
        log_directory=directory,
        maps_directory=directory,
    )
    pool = SimpleNamespace(
        segment_blocks=BLOCKS,
        by_use=dict.fromkeys(range(used)),
        ready=(),
        limits=SimpleNamespace(budget_bytes=budget * SEGMENT),
    )
    parts: dict[str, Any] = {
        "log": SimpleNamespace(pool=pool),
        "image": SimpleNamespace(horizon=Horizon(write=3, pages_generation=6)),
        "ranges": SimpleNamespace(up_to_point=lambda base, target: (base, target.number)),
        "holders": SimpleNamespace(
            oldest_write=lambda: held, pinned_writes=lambda: list(pinned), firmly_pinned=lambda: set(pinned)
        ),
        "policy": SimpleNamespace(
            policy=KeepPolicy(60_000),
            now_ms=100_000,
            rescued_bytes=0,
            crowded=False,
            shrinks=True,
            next_stop=lambda: None,
        ),
        "room": SimpleNamespace(for_image=1 << 40),
    }
    sizes = SizeHistory(1000, [(15, 2000)])
    return FoldPlanner(context, retained=RetainedPoints(points), sizes=sizes, **parts)


OLD, YOUNG = point(1, 20, 10), point(2, 40, 90)


def test_only_what_is_older_than_keep_goes_by_itself() -> None:
    plan = planner(OLD, YOUNG).plan(0, pressed=False)
    assert plan is not None and (plan.target, plan.reason) == (OLD, OLDER_THAN_KEEP)
    assert planner(YOUNG).plan(0, pressed=False) is None


def test_a_full_log_goes_farther_and_a_holder_stops_it() -> None:
    plan = planner(YOUNG, used=99).plan(0, pressed=False)
    assert plan is not None and (plan.target, plan.reason) == (YOUNG, FILLS_ITS_BUDGET)
    assert planner(YOUNG, used=99, held=19).plan(0, pressed=False) is None
    assert planner(YOUNG).plan(0, pressed=True) is not None, "a writer waits"
    assert planner(YOUNG).plan(21, pressed=True) is None, "that moment is retired already"


def test_a_fold_stops_at_a_pinned_moment_although_no_segment_comes_back() -> None:
    near = point(1, 0.5, 10)
    plan = planner(near, YOUNG, used=99, pinned=(10,)).plan(0, pressed=False)
    assert plan is not None and (plan.target, plan.last) == (near, near)
    plan = planner(near, YOUNG, used=99, pinned=(3, 20)).plan(0, pressed=False)
    assert plan is not None and plan.target == YOUNG, "the horizon stands at the one, and goes to the other"
    assert planner(YOUNG, used=99, pinned=(10,)).plan(0, pressed=False) is None, "no point is there to stop at"


def test_a_fold_is_allowed_as_long_as_nobody_has_come_meanwhile() -> None:
    """Between plan and fold a mirror may have learnt of a name, and somebody may have opened a moment."""
    assert planner(OLD, YOUNG).allows(YOUNG)
    assert not planner(OLD, YOUNG, pinned=(10,)).allows(YOUNG) and planner(OLD, YOUNG, pinned=(10,)).allows(OLD)
    assert planner(YOUNG, pinned=(1, 3, 20, 30)).allows(YOUNG), "behind, at either end, and farther"
    assert planner(YOUNG, held=20).allows(YOUNG) and not planner(YOUNG, held=19).allows(YOUNG)


def test_the_job_folds_from_the_horizon_to_the_point() -> None:
    made = planner(OLD, YOUNG)
    job = made.job(YOUNG)
    assert (job.path, job.volume, job.log_range) == ("/v", b"v" * 16, (None, 2))
    assert (job.after, job.upto, job.point, job.size, job.pages_generation) == (3, 20, 2, 2000, 7)
    assert made.log_bytes(OLD) == (20 * BLOCKS + 2) * 4096
