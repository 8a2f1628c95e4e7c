"""The search for the last good moment, on histories of every shape."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from revolume.cli.bisect_search import bracket, narrow


def probe_of(history: list[bool], asked: list[int]) -> Callable[[int], Awaitable[bool]]:
    async def probe(index: int) -> bool:
        asked.append(index)
        return history[index]

    return probe


def search(history: list[bool], tries_max: int = 10**9) -> tuple[int | None, int | None, list[int]]:
    asked: list[int] = []
    probe = probe_of(history, asked)

    async def run() -> tuple[int | None, int | None]:
        good, bad = await bracket(len(history), tries_max, probe)
        return (good, bad) if good is None or bad is None else await narrow(good, bad, probe)

    return *asyncio.run(run()), asked


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_what_is_said_about_two_neighbours_is_true(history: list[bool]) -> None:
    good, bad, asked = search(history)
    assert len(asked) == len(set(asked)), "nothing is tried twice"
    if good is None:
        assert not any(history), "good nowhere is said only when everything was tried"
    elif bad is None:
        assert good == len(history) - 1 and history[good]
    else:
        assert history[good] and not history[bad] and bad == good + 1


@given(st.integers(0, 200), st.integers(1, 200), st.integers(1, 200))
def test_the_last_good_one_of_a_history_that_went_bad_once(empty: int, good: int, bad: int) -> None:
    """Bad before there was anything, then good, then bad: what a file system's history looks like."""
    history = [False] * empty + [True] * good + [False] * bad
    found, after, asked = search(history)
    assert (found, after) == (empty + good - 1, empty + good)
    if good >= bad:
        assert len(asked) <= 6 * len(history).bit_length()


@given(st.integers(0, 300), st.integers(0, 400))
def test_a_good_stretch_near_the_end_is_not_leapt_over(bad_after: int, more: int) -> None:
    """Mounted (bad), clean, mounted: the clean stretch is found if it is a quarter of its distance long."""
    good = bad_after // 4 + 1
    history = [True] * more + [False] * more + [True] * good + [False] * bad_after
    found, _, _ = search(history)
    assert found == 2 * more + good - 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 8), st.data())
def test_gaps_in_the_numbers_are_stepped_over(lengths: list[int], room: int, data: st.DataObject) -> None:
    """Stretches of numbers with one gap: what is said is about numbers that exist, next to each other."""
    before, after = sum(lengths), data.draw(st.integers(1, 9))
    there = [*range(before), *range(before + room, before + room + after)]
    turn = data.draw(st.integers(1, len(there) - 1))

    async def probe(number: int) -> bool | None:
        return there.index(number) < turn if number in there else None

    async def exists(number: int) -> bool:
        return number in there

    assert asyncio.run(narrow(there[0], there[-1], probe, exists)) == (there[turn - 1], there[turn])


def test_tries_are_bounded() -> None:
    good, _, asked = search([False] * 1000, tries_max=30)
    assert good is None and len(asked) == 30


def test_no_candidates() -> None:
    assert search([]) == (None, None, [])
