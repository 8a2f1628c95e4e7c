"""Times across clock steps, as pure arithmetic: against a walk over every write."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.history.label_scale import LabelStretch, in_future, label_stretches, seek_ago, seek_time
from revolume.volume.clocks.label_clock import ClockStep
from revolume.volume.state.status import OldestMoment


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[int, int, int]], list[ClockStep], int, int]:
    """Writes as (number, label, true time), the steps between them, and now: (label, true time)."""
    true, ahead, number = 1_000_000, 0, 0
    writes: list[tuple[int, int, int]] = []
    steps: list[ClockStep] = []
    turns = st.lists(st.tuples(st.sampled_from("wwws"), st.integers(-5000, 5000)), max_size=25)
    for position, (kind, amount) in enumerate(draw(turns), 1):
        true += abs(amount) % 100
        if kind == "w":
            number += 1
            writes.append((number, true + ahead, true))
        else:
            steps.append(ClockStep(number, position, true + ahead, true + ahead + amount))
            ahead += amount
    true += draw(st.integers(0, 200))
    return writes, steps, true + ahead, true


def found(writes: list[tuple[int, int, int]], stretch: LabelStretch, time_ns: int) -> int:
    within = [n for n, label, _ in writes if stretch.after < n <= stretch.upto and label <= time_ns]
    return within[-1] if within else stretch.after


@settings(max_examples=200, deadline=None)
@given(histories(), st.integers(0, 3000))
def test_so_long_ago_is_what_it_truly_was(
    history: tuple[list[tuple[int, int, int]], list[ClockStep], int, int], ago: int
) -> None:
    writes, steps, now, true_now = history
    stretches = label_stretches(steps, OldestMoment(0, 0, 1_000_000), now)
    sought = seek_ago(stretches, ago)
    want = [n for n, _, true in writes if true <= true_now - ago]
    if sought is None:
        assert not want and true_now - ago < 1_000_000
    else:
        assert found(writes, sought.stretch, sought.time_ns) == (want[-1] if want else 0)


@settings(max_examples=200, deadline=None)
@given(histories(), st.integers(990_000, 1_010_000))
def test_a_time_is_looked_up_in_the_newest_stretch_that_has_it(
    history: tuple[list[tuple[int, int, int]], list[ClockStep], int, int], time_ns: int
) -> None:
    _, steps, now, _ = history
    stretches = label_stretches(steps, OldestMoment(0, 0, 1_000_000), now)
    having = [s for s in stretches if s.begin_ns <= time_ns <= s.end_ns]
    sought = seek_time(stretches, time_ns)
    assert in_future(stretches, time_ns) == (time_ns > max(s.end_ns for s in stretches))
    if having:
        assert sought is not None and (sought.stretch, list(sought.others)) == (having[-1], having[:-1])
    else:
        assert sought is None or (sought.stretch.begin_ns <= time_ns and not sought.others)
        assert sought is not None or all(s.begin_ns > time_ns for s in stretches)


def test_a_step_before_the_horizon_does_not_count() -> None:
    steps = [ClockStep(5, 10, 2000, 1000), ClockStep(9, 20, 1500, 1400)]
    stretches = label_stretches(steps, OldestMoment(12, 5, 1001), 1600)
    assert [(s.after, s.begin_ns, s.end_ns, s.shift_ns) for s in stretches] == [
        (5, 1001, 1500, -100), (9, 1400, 1600, 0)
    ]  # fmt: skip
