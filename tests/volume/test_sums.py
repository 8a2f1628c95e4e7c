"""The image's digests against a dict, through crashes and through every kind of wrong page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.chain.page_cache import PAGE
from revolume.errors import Damaged
from revolume.host.real.disk import RealDirectory, RealDisk
from revolume.volume.image.block_digests import SUMS_NAME
from revolume.volume.image.digest_pages import PAGES_NAME, PER_PAGE, Facts
from revolume.volume.image.digest_writer import DigestWriter

VOLUME = bytes(range(16))
U64 = np.uint64
BLOCKS = 20 * PER_PAGE + 100


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RealDirectory]:
    opened = RealDisk().open(str(tmp_path))
    yield opened
    opened.close()


def put(sums: DigestWriter, digests: dict[int, int]) -> None:
    ordered = sorted(digests.items())
    sums.put(np.array([b for b, _ in ordered], U64), np.array([d for _, d in ordered], U64))


def got(sums: DigestWriter, blocks: list[int]) -> list[int]:
    found = sums.get(np.array(blocks, U64), nowait=False)
    assert found is not None
    return found.tolist()


def listed(sums: DigestWriter) -> dict[int, int]:
    return {
        b: d for blocks, digests in sums.chunks() for b, d in zip(blocks.tolist(), digests.tolist(), strict=True)
    }


def folded(directory: RealDirectory, digests: dict[int, int], generation: int, commit: bool = True) -> None:
    """A fold by another process: an object of its own."""
    writer = DigestWriter.open(directory, VOLUME)
    put(writer, digests)
    if commit:
        writer.commit(10 * generation, 100 * generation, generation, generation)
    writer.close()


blocks = st.integers(0, BLOCKS - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.dictionaries(blocks, st.sampled_from([0, 0, 5, 1 << 63]), max_size=40)),
        st.tuples(st.just("zero"), blocks, st.integers(0, 3 * PER_PAGE)),
        st.tuples(st.just("commit")),
        st.tuples(st.just("crash")),
        st.tuples(st.just("resize"), st.integers(1, BLOCKS)),
    ),
    max_size=20,
)


@settings(max_examples=80, deadline=None)
@given(steps)
def test_a_commit_is_all_or_nothing(steps: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as path:
        directory = RealDisk().open(path)
        DigestWriter.create(directory, VOLUME, BLOCKS).close()
        reader, writer = DigestWriter.open(directory, VOLUME), DigestWriter.open(directory, VOLUME)
        committed: dict[int, int] = {}
        size, committed_size, generation = BLOCKS, BLOCKS, 0
        model: dict[int, int] = {}
        for step in steps:
            if step[0] == "put":
                digests = {b: d for b, d in step[1].items() if b < size}
                put(writer, digests)
                model |= digests
            elif step[0] == "zero":
                writer.zero(step[1], step[1] + step[2])
                model = {b: d for b, d in model.items() if not step[1] <= b < step[1] + step[2]}
            elif step[0] == "resize":
                size = step[1]
                writer.resize(size)
                model = {b: d for b, d in model.items() if b < size}
            elif step[0] == "commit":
                generation += 1
                writer.commit(1, 2, 3, generation)
                reader.adopt(reader.committed(generation))
                committed, committed_size = dict(model), size
            else:
                writer.close()
                writer = DigestWriter.open(directory, VOLUME, generation)
                model, size = dict(committed), committed_size
            assert listed(writer) == {b: d for b, d in model.items() if d}
            asked = [*model, 0, BLOCKS - 1, 1 << 50]
            assert got(writer, asked) == [model.get(b, 0) for b in asked]
            assert listed(reader) == {b: d for b, d in committed.items() if d}
            assert reader.blocks == committed_size
        pages = {b // PER_PAGE for b, d in committed.items() if d}
        assert reader.verify() == len(pages)
        reader.close()
        writer.close()
        directory.close()


def test_facts_and_generations(directory: RealDirectory) -> None:
    sums = DigestWriter.create(directory, VOLUME, 1000)
    assert sums.facts == Facts(blocks=1000)
    folded(directory, {7: 8}, 4)
    assert got(sums, [7]) == [0]  # until it is told
    sums.adopt(sums.committed(4))
    assert got(sums, [7]) == [8] and sums.facts == Facts(4, 1000, 40, 400, 4)
    assert DigestWriter.open(directory, VOLUME, 3).facts.generation == 4
    with pytest.raises(Damaged, match="generation 4"):
        DigestWriter.open(directory, VOLUME, 5)
    with pytest.raises(Damaged, match="generation 4"):
        sums.adopt(sums.committed(5))


def test_a_reader_is_not_disturbed_by_folds_that_do_not_come_to_their_flip(directory: RealDirectory) -> None:
    reader = DigestWriter.create(directory, VOLUME, 3000)
    folded(directory, dict.fromkeys(range(0, 3000, 3), 7), 1)
    reader.adopt(reader.committed(1))
    for attempt in range(5):
        folded(directory, dict.fromkeys(range(1, 3000, 3), attempt + 1), 2, commit=attempt % 2 == 1)
        fresh = DigestWriter.open(directory, VOLUME, 1)
        for sums in (reader, fresh):  # blocks that no fold has changed
            assert got(sums, [*range(0, 3000, 3)]) == [7] * 1000
        fresh.close()


def test_pages_that_became_zero_give_their_room_back(directory: RealDirectory, tmp_path: Path) -> None:
    reader = DigestWriter.create(directory, VOLUME, 1000 * PER_PAGE)
    folded(directory, dict.fromkeys(range(0, 1000 * PER_PAGE, 50), 1), 1)
    reader.adopt(reader.committed(1))
    full = (tmp_path / SUMS_NAME).stat().st_blocks
    assert full * 512 > 900 * PAGE
    writer = DigestWriter.open(directory, VOLUME)
    writer.zero(PER_PAGE, 1000 * PER_PAGE)
    writer.commit(2, 2, 2, 2)
    assert got(reader, [5000]) == [1]
    reader.adopt(reader.committed(2))
    assert got(reader, [0, 5000]) == [1, 0]
    assert (tmp_path / SUMS_NAME).stat().st_blocks * 512 <= 64 << 10


def current(directory: RealDirectory, page: int) -> int:
    sums = DigestWriter.open(directory, VOLUME)
    tag = int(sums._now.tags[page])
    sums.close()
    return (2 + 2 * page + (tag >> 31)) * PAGE


def overwrite(directory: RealDirectory, name: str, data: bytes, offset: int) -> None:
    file = directory.open(name)
    file.pwritev([data], offset)
    file.close()


def read(directory: RealDirectory, offset: int) -> bytes:
    file, page = directory.open(SUMS_NAME), bytearray(PAGE)
    file.preadv([page], offset)
    file.close()
    return bytes(page)


@pytest.mark.parametrize("case", ["lost", "flipped", "exchanged", "an old version of itself"])
def test_a_wrong_page_is_damage_and_never_zeroes(directory: RealDirectory, case: str) -> None:
    DigestWriter.create(directory, VOLUME, BLOCKS).close()
    folded(directory, {0: 1, PER_PAGE: 2}, 1)
    first = read(directory, current(directory, 0))
    for generation in (2, 3):  # two folds on, the page is again where it was
        folded(directory, {1: generation, PER_PAGE + 1: generation}, generation)
    at = current(directory, 0)
    page = bytearray(read(directory, at))
    page[1000] ^= 4
    wrong = {
        "lost": bytes(PAGE),
        "flipped": bytes(page),
        "exchanged": read(directory, current(directory, 1)),
        "an old version of itself": first,
    }
    overwrite(directory, SUMS_NAME, wrong[case], at)
    sums = DigestWriter.open(directory, VOLUME, 3)
    for ask in (lambda: sums.get(np.array([5], U64), False), sums.verify, lambda: listed(sums)):
        with pytest.raises(Damaged, match=f"Page {at // PAGE} of {SUMS_NAME}"):
            ask()
    assert got(sums, [PER_PAGE]) == [2]


def test_pages_that_a_fold_has_overtaken_are_listed_too(directory: RealDirectory) -> None:
    """It committed twice and was not flipped: what it did not change is the same in its pages."""
    DigestWriter.create(directory, VOLUME, BLOCKS).close()
    folded(directory, {0: 1, PER_PAGE: 2}, 1)
    sums = DigestWriter.open(directory, VOLUME, 1)
    for generation in (2, 3):
        folded(directory, {1: generation}, generation)
    found = listed(sums)
    assert found[0] == 1 and found[PER_PAGE] == 2
    sums.close()


@pytest.mark.parametrize(
    ("name", "offset"), [(PAGES_NAME, 0), (PAGES_NAME, 40), (PAGES_NAME, 85), (PAGES_NAME, 89), (SUMS_NAME, 3)]
)
def test_damaged_beginnings_are_told(directory: RealDirectory, name: str, offset: int) -> None:
    DigestWriter.create(directory, VOLUME, BLOCKS).close()
    overwrite(directory, name, b"\xa5", offset)
    with pytest.raises(Damaged, match=name):
        DigestWriter.open(directory, VOLUME)


@pytest.mark.parametrize("name", [PAGES_NAME, SUMS_NAME])
def test_missing_or_foreign_files_are_told(directory: RealDirectory, name: str) -> None:
    DigestWriter.create(directory, VOLUME, BLOCKS).close()
    with pytest.raises(Damaged, match="another volume"):
        DigestWriter.open(directory, bytes(16))
    directory.remove(name)
    with pytest.raises(Damaged, match=f"{name} is missing"):
        DigestWriter.open(directory, VOLUME)
