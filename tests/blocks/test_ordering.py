"""Orders and choices of sorted columns against plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.ordering import (
    FEW,
    among,
    ascends,
    distinct,
    first_of_each,
    last_in_runs,
    last_of_each,
    stable_order,
)

U64 = np.uint64
keys = st.lists(st.integers(0, 12), max_size=40)


def column(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, U64)


@settings(max_examples=60, deadline=None)
@given(keys, keys)
def test_first_and_last_of_each(numbers: list[int], known: list[int]) -> None:
    firsts = {n: at for at, n in reversed(list(enumerate(numbers)))}
    lasts = {n: at for at, n in enumerate(numbers)}
    assert first_of_each(column(numbers)).tolist() == [firsts[n] for n in sorted(firsts)]
    assert last_of_each(column(numbers)).tolist() == [lasts[n] for n in sorted(lasts)]
    assert last_in_runs(column(numbers)).tolist() == last_of_each(column(numbers)).tolist()
    assert distinct(column(numbers)).tolist() == sorted(set(numbers))
    assert ascends(column(numbers)) == (numbers == sorted(set(numbers)))
    assert among(column(numbers), column(sorted(set(known)))).tolist() == [n in known for n in numbers]


@pytest.mark.parametrize("top", [50, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("count", [0, 1, FEW - 1, FEW, 5000])
def test_equal_keys_stay_in_their_order(top: int, count: int) -> None:
    """Also where key and index do not fit one number."""
    drawn = np.random.default_rng(count).integers(0, top, count, U64, endpoint=True)
    drawn[::3] = top
    assert stable_order(drawn).tolist() == sorted(range(count), key=lambda at: int(drawn[at]))
