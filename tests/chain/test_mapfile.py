"""Map files against a dict, and every way in which one can be wrong."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.block_location import ADDRESS_MASK, DATA, ZERO, pack
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import PER_PAGE, MapFile, MapMeta, write_map
from revolume.chain.page_cache import PAGE
from revolume.errors import Damaged
from revolume.host.real.disk import RealDirectory

VOLUME = bytes(range(16))
META = MapMeta(write=77, address=88, point=9)
Contents = dict[int, tuple[int, int]]
U64 = np.uint64
_numbers = itertools.count()


def delta_map(contents: Contents) -> DeltaMap:
    rows = np.array([(block, *value) for block, value in sorted(contents.items())], U64).reshape(-1, 3)
    return DeltaMap(rows[:, 0], rows[:, 1], rows[:, 2])


def pieces(contents: Contents, size: int) -> Iterator[DeltaMap]:
    whole = delta_map(contents)
    return (whole.entries(slice(at, at + size)) for at in range(0, len(whole), size))


def all_entries(found: Iterator[DeltaMap]) -> list[tuple[int, int, int]]:
    columns = ((piece.blocks.tolist(), piece.locations.tolist(), piece.digests.tolist()) for piece in found)
    return [entry for piece in columns for entry in zip(*piece, strict=True)]


def listed(contents: Contents) -> list[tuple[int, int, int]]:
    return [(block, *value) for block, value in sorted(contents.items())]


def made(directory: RealDirectory, contents: Contents, ranges: Ranges | None = None, size: int = 1000) -> str:
    name = f"{next(_numbers)}.map"
    file = directory.open(name, create=True, exclusive=True)
    assert write_map(file, VOLUME, META, pieces(contents, size), ranges) == len(contents)
    file.close()
    return name


def opened(directory: RealDirectory, name: str, volume: bytes = VOLUME) -> MapFile:
    return MapFile.open(directory.open(name), volume)


def sample(count: int, step: int = 3) -> Contents:
    return {step * n + 5: (pack(DATA, n + 1), n * 7919 + 1) for n in range(count)}


@pytest.mark.parametrize("count", [1, PER_PAGE, 3 * PER_PAGE + 1])
def test_neighbours_are_looked_up_together(directory: RealDirectory, count: int) -> None:
    """Also those before, between and behind all entries of their page."""
    contents = sample(count)
    map_file = opened(directory, made(directory, contents))
    for start in (0, 3 * count - 9, 3 * count + 100):
        asked = np.arange(max(0, start), max(0, start) + 5000, dtype=U64)
        for few in (asked, asked[:7]):
            words, digests = map_file.get(few, nowait=False) or pytest.fail()
            found = list(zip(words.tolist(), digests.tolist(), strict=True))
            assert found == [contents.get(block, (0, 0)) for block in few.tolist()]
    map_file.close()


@pytest.mark.parametrize("count", [0, 1, PER_PAGE - 1, PER_PAGE, PER_PAGE + 1, 3000, 100_000])
@pytest.mark.parametrize("size", [7, 100_000])
def test_what_was_written_is_found(directory: RealDirectory, count: int, size: int) -> None:
    contents = sample(count)
    ranges = Ranges().with_range(1, 10, pack(ZERO, 3)).with_range(1 << 40, 1 << 50, pack(ZERO, 4))
    map_file = opened(directory, made(directory, contents, ranges, size))
    assert map_file.meta == META and len(map_file) == count
    assert list(map_file.ranges()) == list(ranges)
    assert all_entries(map_file.pieces()) == listed(contents)
    assert map_file.verify() == count
    asked = np.random.default_rng(1).permutation(np.arange(0, 3 * count + 20, 1 + count // 5000, dtype=U64))
    asked = np.concatenate((asked, np.array([1 << 45, 1 << 55], U64)))
    words, digests = map_file.get(asked, nowait=False) or pytest.fail()
    for block, word, digest in zip(asked.tolist(), words.tolist(), digests.tolist(), strict=True):
        covered = (int(ranges.get(np.array([block], U64))[0]), 0)
        assert (word, digest) == contents.get(block, covered)
    map_file.close()


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 3000), max_size=800), st.integers(0, 3100), st.integers(0, 3100))
def test_within(tmp_path_factory: pytest.TempPathFactory, blocks: set[int], start: int, end: int) -> None:
    directory = _directory(tmp_path_factory)
    contents = {block: (pack(DATA, block + 1), block + 2) for block in blocks}
    map_file = opened(directory, made(directory, contents))
    found = all_entries(map_file.within(start, end))
    assert found == [entry for entry in listed(contents) if start <= entry[0] < end]
    map_file.close()


class Slow:
    """A file of which nothing is in memory."""

    def __init__(self, file: object) -> None:
        self._file = file
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def preadv_nowait(self, buffers: object, offset: int) -> bool:
        self.asked += 1
        return False


def test_memory_answers_and_the_disk_makes_wait(directory: RealDirectory) -> None:
    file = Slow(directory.open(made(directory, sample(5000))))
    map_file = MapFile.open(file, VOLUME)  # type: ignore[arg-type]
    asked = np.array([5, 8, 11, 9_005], U64)
    assert map_file.get(asked, nowait=True) is None
    expected = map_file.get(asked, nowait=False) or pytest.fail()
    assert file.asked == 1
    found = map_file.get(asked, nowait=True) or pytest.fail()
    assert file.asked == 1
    assert [a.tolist() for a in found] == [a.tolist() for a in expected]
    missing = map_file.get(np.array([1, 4], U64), nowait=True)
    assert missing is not None and not missing[0].any()


def test_threads_and_the_loop_may_ask_together(directory: RealDirectory) -> None:
    contents = sample(400_000)  # more pages than the cache holds
    map_file = opened(directory, made(directory, contents))
    wrong: list[int] = []

    def ask(seed: int) -> None:
        chance = np.random.default_rng(seed)
        for _ in range(150):
            asked = chance.integers(0, 400_000, 64).astype(U64) * U64(3) + U64(5)
            words, digests = map_file.get(asked, nowait=False)  # type: ignore[misc]
            good = (words & U64(ADDRESS_MASK)) == (asked - U64(5)) // U64(3) + U64(1)
            wrong.extend(asked[~good | (digests != (asked - U64(5)) // U64(3) * U64(7919) + U64(1))].tolist())

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def flip(directory: RealDirectory, name: str, offset: int) -> None:
    file = directory.open(name)
    byte = bytearray(1)
    file.preadv([byte], offset)
    file.pwritev([bytes([byte[0] ^ 1])], offset)
    file.close()


def cut(directory: RealDirectory, name: str) -> None:
    file = directory.open(name)
    file.truncate(file.size() - PAGE)
    file.close()


def no_header(directory: RealDirectory, name: str) -> None:
    file = directory.open(name)
    file.pwritev([bytes(PAGE)], 0)
    file.close()


def last_page(directory: RealDirectory, name: str) -> int:
    file = directory.open(name)
    size = file.size()
    file.close()
    return size - PAGE


OPENING: dict[str, Callable[[RealDirectory, str], None]] = {
    "cut short": cut,
    "never finished": no_header,
    "header flipped": lambda d, n: flip(d, n, 8 * 8),
    "header's rest flipped": lambda d, n: flip(d, n, PAGE - 1),
    "format unknown": lambda d, n: flip(d, n, 16),
    "fence flipped": lambda d, n: flip(d, n, last_page(d, n) + 100),
    "range flipped": lambda d, n: flip(d, n, last_page(d, n) - PAGE + 100),
}


@pytest.mark.parametrize("case", OPENING)
def test_a_map_that_is_not_whole_does_not_open(directory: RealDirectory, case: str) -> None:
    name = made(directory, sample(1000), Ranges().with_range(1, 2, pack(ZERO, 1)))
    OPENING[case](directory, name)
    with pytest.raises(Damaged) as caught:
        opened(directory, name)
    assert name in caught.value.cause


def test_another_volumes_map_does_not_open(directory: RealDirectory) -> None:
    with pytest.raises(Damaged, match="another volume"):
        opened(directory, made(directory, sample(10)), bytes(16))


def test_damage_names_file_and_page(directory: RealDirectory) -> None:
    name = made(directory, sample(1000))
    flip(directory, name, 3 * PAGE + 2000)
    map_file = opened(directory, name)
    asked = np.array([5 + 3 * 2 * PER_PAGE], U64)
    for ask in (lambda: map_file.get(asked, False), map_file.verify, lambda: list(map_file.pieces())):
        with pytest.raises(Damaged, match=f"Page 3 of {name}"):
            ask()
    assert map_file.get(np.array([5], U64), False) is not None


@pytest.mark.parametrize("case", ["exchanged pages", "a page of an older map", "a lost page"])
def test_pages_in_the_wrong_place(directory: RealDirectory, case: str) -> None:
    name = made(directory, sample(1000))
    file, page = directory.open(name), bytearray(PAGE)
    if case == "exchanged pages":
        file.preadv([page], 2 * PAGE)
    elif case == "a page of an older map":
        older = directory.open("older", create=True)
        write_map(older, VOLUME, MapMeta(76, 88, 9), [delta_map(sample(1000))])
        older.preadv([page], 4 * PAGE)
    file.pwritev([page], 4 * PAGE)
    with pytest.raises(Damaged, match="Page 4"):
        opened(directory, name).verify()


def _directory(factory: pytest.TempPathFactory) -> RealDirectory:
    from revolume.host.real.disk import RealDisk

    return RealDisk().open(str(factory.mktemp("maps")))
