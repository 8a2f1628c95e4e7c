"""Reads of the medium: the same bytes whatever the windows are, and one bad sector costs its block alone."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from revolume.host.disk import File
from revolume.host.medium_file import NARROW, WINDOW, MediumFile
from revolume.host.real.disk import RealDisk

SIZE = (6 << 20) + 8192
CONTENT = random.Random(3).randbytes(SIZE)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    (tmp_path / "f").write_bytes(CONTENT)
    directory = RealDisk().open(str(tmp_path))
    opened = directory.open("f")
    yield opened
    opened.close()
    directory.close()


class BadSector:
    """A file of which one block of 4096 bytes can't be read."""

    def __init__(self, file: File, bad: int) -> None:
        self._file, self._bad = file, bad
        self.name = file.name

    def preadv_medium(self, buffers: Sequence[memoryview], offset: int) -> int:
        if offset <= self._bad * 4096 < offset + sum(map(len, buffers)):
            raise OSError(errno.EIO, "Input/output error")
        return self._file.preadv_medium(buffers, offset)


@pytest.mark.parametrize("window", [NARROW, WINDOW])
@pytest.mark.parametrize("end", [None, 1 << 20, 5 << 20])
def test_any_read_is_what_the_file_has(file: File, window: int, end: int | None) -> None:
    chance, medium = random.Random(5), MediumFile(file, window, end)
    for _ in range(200):
        offset, size = chance.randrange(SIZE), chance.choice((1, 64, 4096, 70000, 300000))
        wanted = CONTENT[offset : offset + size]
        assert medium.read(offset, size) == wanted + bytes(size - len(wanted))
        buffers = [memoryview(bytearray(100)), memoryview(bytearray(size))]
        count = medium.preadv(buffers, offset)
        assert b"".join(buffers)[:count] == CONTENT[offset : offset + 100 + size]


def test_what_is_read_in_order_is_read_once(file: File) -> None:
    medium = MediumFile(file, WINDOW, SIZE)
    for offset in range(0, SIZE, 4096):
        assert medium.read(offset, 4096) == CONTENT[offset : offset + 4096]
    assert medium.bytes_read == SIZE


def test_a_sector_that_cannot_be_read_costs_its_block_alone(file: File) -> None:
    medium = MediumFile(cast(File, BadSector(file, 70)), NARROW)
    for block in range(128):
        wanted = bytes(4096) if block == 70 else CONTENT[block * 4096 : (block + 1) * 4096]
        assert medium.read(block * 4096, 4096) == wanted


def test_what_the_page_cache_has_not_written_yet_is_read_too(file: File) -> None:
    file.pwritev([bytes(4096)], 8192)
    aligned = MediumFile(file)
    assert aligned.read(8192, 4096) == bytes(4096)
    large = bytearray(3 << 20)  # longer than one piece, and not aligned: as ``preadv`` then
    assert file.preadv_medium([large], 0) == len(large)
    assert large[:8192] == CONTENT[:8192] and not any(large[8192:12288])
