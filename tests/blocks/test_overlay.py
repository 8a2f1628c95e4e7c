"""The overlay against a dict, with pages so small that they divide all the time."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.block_location import DATA, PARTIAL, ZERO, pack
from revolume.blocks.overlay import LOAD_SURE, Overlay, OverlayFull

U64 = np.uint64
SMALL_PAGE = 4  # buckets: 32 slots, 768 bytes


def small(pages: int, seed: int = 1) -> Overlay:
    return Overlay(pages * SMALL_PAGE * 8 * 24, seed, SMALL_PAGE)


def array(values: list[int]) -> np.ndarray:
    return np.array(values, U64)


def contents(overlay: Overlay) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for blocks, words, digests in overlay.chunks():
        for block, word, digest in zip(blocks.tolist(), words.tolist(), digests.tolist(), strict=True):
            assert block not in found
            found[block] = (word, digest)
    return found


blocks = st.one_of(st.integers(0, 40), st.integers(0, (1 << 52) - 1))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(blocks, min_size=1, max_size=60)),
        st.tuples(st.just("run"), st.integers(0, 1 << 40), st.integers(1, 60)),
        st.tuples(st.just("forget"), st.integers(0, 300)),
        st.tuples(st.just("sweep"), st.integers(1, 20)),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(0, 1 << 64))
def test_it_is_a_dict_that_forgets_only_what_it_may(steps: list[tuple], seed: int) -> None:
    overlay, model, address, floor = small(400, seed), {}, 1, 0
    for step in steps:
        if step[0] in ("put", "run"):
            numbers = step[1] if step[0] == "put" else [*range(step[1], step[1] + step[2])]
            if overlay.room() < len(numbers):
                continue
            words = [pack((DATA, ZERO, PARTIAL)[n % 3], address + n) for n in range(len(numbers))]
            digests = [n * 7919 + address for n in range(len(numbers))]
            address += len(numbers)
            overlay.put(array(numbers), array(words), array(digests))
            model.update(zip(numbers, zip(words, digests, strict=True), strict=True))
        elif step[0] == "forget":
            floor = max(floor, address - step[1])
            overlay.forget_below(floor)
        else:
            overlay.sweep(step[1])
        known = contents(overlay)
        assert len(known) == len(overlay)
        must = {b: v for b, v in model.items() if (v[0] & (1 << 62) - 1) >= floor}
        assert must.items() <= known.items() <= model.items()
    asked, known = [*model, 1 << 60, 12345], contents(overlay)
    for one in ([block] for block in asked[-40:]):  # singly, then together
        assert got(overlay, one) == [known.get(one[0], (0, 0))]
    assert got(overlay, asked) == [known.get(block, (0, 0)) for block in asked]


def got(overlay: Overlay, numbers: list[int]) -> list[tuple[int, int]]:
    words, digests = overlay.get(array(numbers))
    return list(zip(words.tolist(), digests.tolist(), strict=True))


@pytest.mark.parametrize("pages", [16, 17, 40, 100, 257])
@pytest.mark.parametrize("shape", ["random", "sequential", "strided", "powers"])
def test_room_is_a_promise(pages: int, shape: str) -> None:
    for seed in range(4):
        overlay = Overlay(pages * 32 * 8 * 24, seed, 32)
        rng = random.Random(seed)
        promised = overlay.room()
        assert promised == int(pages * 32 * 8 * LOAD_SURE)
        shapes = {
            "random": lambda n, rng=rng: rng.getrandbits(50),
            "sequential": lambda n: n,
            "strided": lambda n: n << 18,
            "powers": lambda n: (n * 0x9E3779B97F4A7C15) & (1 << 52) - 1,
        }
        numbers = array(list(dict.fromkeys(map(shapes[shape], range(promised)))))
        while len(numbers):
            piece, numbers = numbers[:97], numbers[97:]
            assert overlay.room() >= len(piece)
            overlay.put(piece, piece | U64(1 << 62), piece)
        assert overlay.pressure > 0.99


def test_beyond_its_room_it_says_so_and_stays_sound() -> None:
    overlay = small(16)
    with pytest.raises(OverlayFull):
        for first in range(0, 10_000, 20):
            numbers = np.arange(first, first + 20, dtype=U64)
            overlay.put(numbers, numbers + U64(1), numbers)
    known = contents(overlay)
    assert len(known) == len(overlay) > 0
    assert all(value == (block + 1, block) for block, value in known.items())


def test_forgetting_makes_room_again() -> None:
    overlay, address = Overlay(32 * 32 * 8 * 24, 3, 32), 1
    for _ in range(50):
        count = overlay.room()
        numbers = np.arange(address, address + count, dtype=U64)
        overlay.put(numbers, numbers | U64(1 << 62), numbers)
        address += count
        overlay.forget_below(address - count // 4)
        assert overlay.sweep(1000) > 0
        words, _ = overlay.get(numbers[-(count // 4) :])
        assert words.all()
    assert len(contents(overlay)) == len(overlay)


def test_forgotten_entries_give_way_without_a_sweep() -> None:
    overlay = small(16)
    for address in range(1, 20_000, 20):  # 512 slots
        numbers = np.arange(address, address + 20, dtype=U64)
        overlay.put(numbers, numbers | U64(1 << 62), numbers)
        overlay.forget_below(address - 60)
    assert overlay.get(numbers)[0].all()


def test_the_last_of_a_repeated_block_counts() -> None:
    overlay = small(100)
    numbers = array([5, 9, 5, 5, 9, 7])
    for _ in range(2):  # new, then known
        overlay.put(numbers, np.arange(1, 7, dtype=U64), np.arange(11, 17, dtype=U64))
        words, digests = overlay.get(array([5, 7, 9]))
        assert words.tolist() == [4, 6, 5] and digests.tolist() == [14, 16, 15]
        assert len(overlay) == 3


def test_a_walk_meets_everything_once_while_pages_divide() -> None:
    overlay = small(4000)
    old = np.arange(1000, dtype=U64)
    overlay.put(old, old | U64(1 << 62), old)
    fresh, met = 10_000, []
    for blocks_met, _, _ in overlay.chunks():
        met += [block for block in blocks_met.tolist() if block < 1000]
        more = np.arange(fresh, fresh + 300, dtype=U64)
        if overlay.room() > 300:
            overlay.put(more, more | U64(1 << 62), more)
        fresh += 300
    assert sorted(met) == old.tolist()


@pytest.mark.parametrize(("start", "end"), [(0, 10), (100, 300), (0, 1 << 40), (7, 7), (500, 1 << 30)])
def test_within_a_range_of_blocks(start: int, end: int) -> None:
    overlay = small(300)
    numbers = np.arange(0, 4000, 4, dtype=U64)
    overlay.put(numbers, numbers | U64(1 << 62), numbers)
    found = sorted(block for piece in overlay.within(start, end) for block in piece[0].tolist())
    assert found == [block for block in numbers.tolist() if start <= block < end]


def test_memory_stays_near_fifty_bytes_an_entry_at_any_size() -> None:
    overlay = Overlay(64 << 20, seed=99)
    rng = np.random.default_rng(7)
    for _ in range(64):
        numbers = rng.integers(0, 1 << 28, 8192, dtype=U64)
        overlay.put(numbers, numbers | U64(1 << 62), numbers)
        if len(overlay) > 60_000:
            assert overlay.used_bytes < 56 * len(overlay)
    assert overlay.used_bytes < 50 * len(overlay)


def test_nothing_asked_nothing_said() -> None:
    overlay, nothing = small(100), array([])
    overlay.put(nothing, nothing, nothing)
    assert [len(part) for part in overlay.get(nothing)] == [0, 0]
    assert not list(overlay.chunks()) and not len(overlay)
