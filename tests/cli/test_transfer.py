"""Copies are equal, sparse, and bounded, whatever the content."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.cli.transfer import Copied, holds_data, pull, push

BLOCK = 4096


class MemoryRemote:
    """A remote volume as a bytearray that knows what was written."""

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)
        self.size = size
        self.flushed = False
        self.read_bytes = 0
        self.data_blocks: set[int] = set()

    async def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return bytes(self.content[offset : offset + length])

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        self.content[offset : offset + len(data)] = data
        self.data_blocks |= set(range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)))

    async def zero(self, offset: int, length: int) -> None:
        self.content[offset : offset + length] = bytes(length)

    async def flush(self) -> None:
        self.flushed = True

    async def data_extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        here = offset // BLOCK in self.data_blocks
        end = min(offset + length, (offset // BLOCK + 1) * BLOCK)
        while end < offset + length and (end // BLOCK in self.data_blocks) == here:
            end = min(offset + length, end + BLOCK)
        return [(end - offset, here)]


def silent(stage: str, done: int, total: int) -> None:
    assert done <= total


contents = st.lists(st.tuples(st.integers(0, 600), st.integers(1, 40), st.sampled_from([b"\0", b"x"])), max_size=8)


@settings(max_examples=25)
@given(contents, st.integers(1, 4095))
def test_there_and_back_is_equal(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int, bytes]], odd: int
) -> None:
    directory = tmp_path_factory.mktemp("copy")
    size = 700 * BLOCK + odd
    content = bytearray(size)
    with open(directory / "in", "wb") as file:
        file.truncate(size)
        for block, count, byte in runs:
            file.seek(block * BLOCK)
            file.write(byte * count * BLOCK)
            content[block * BLOCK : (block + count) * BLOCK] = byte * count * BLOCK

    async def there_and_back() -> tuple[Copied, Copied]:
        remote = MemoryRemote(size)
        with open(directory / "in", "rb") as source, open(directory / "out", "wb") as target:
            pushed = await push(source.fileno(), size, remote, silent, overwrite=False)
            assert remote.flushed and remote.content == content
            assert await holds_data(remote) == any(content)
            return pushed, await pull(remote, target.fileno(), silent)

    pushed, pulled = asyncio.run(there_and_back())
    assert pushed == pulled
    assert (directory / "out").read_bytes() == content


def test_a_large_hole_costs_nothing(tmp_path: Path) -> None:
    size = 1 << 40
    with open(tmp_path / "in", "wb") as file:
        file.truncate(size)

    class Sparse(MemoryRemote):
        def __init__(self) -> None:
            super().__init__(0)
            self.size = size

        async def data_extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
            return [(length, False)]

    async def run() -> None:
        remote = Sparse()
        with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
            assert (await push(source.fileno(), size, remote, silent, overwrite=False)).data == 0
            assert (await pull(remote, target.fileno(), silent)).data == 0
        assert remote.read_bytes == 0

    asyncio.run(run())
    assert os.stat(tmp_path / "out").st_size == size
    assert os.stat(tmp_path / "out").st_blocks == 0


def test_overwriting_leaves_nothing_of_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a" * BLOCK + bytes(2 * BLOCK) + b"b" * 100)

    async def run() -> MemoryRemote:
        remote = MemoryRemote(8 * BLOCK)
        await remote.write(0, b"old" * (8 * BLOCK // 3))
        with open(tmp_path / "in", "rb") as source:
            await push(source.fileno(), 3 * BLOCK + 100, remote, silent, overwrite=True)
        return remote

    whole = (tmp_path / "in").read_bytes()
    assert asyncio.run(run()).content == whole + bytes(8 * BLOCK - len(whole))


def test_a_device_gets_its_zeroes(tmp_path: Path) -> None:
    (tmp_path / "device").write_bytes(b"old" * BLOCK)

    async def run() -> None:
        remote = MemoryRemote(3 * BLOCK)
        await remote.write(BLOCK, b"new")
        with open(tmp_path / "device", "r+b") as target:
            await pull(remote, target.fileno(), silent, sparse=False)

    asyncio.run(run())
    assert (tmp_path / "device").read_bytes() == bytes(BLOCK) + b"new" + bytes(2 * BLOCK - 3)


def test_the_first_error_ends_it(tmp_path: Path) -> None:
    class Broken(MemoryRemote):
        async def read(self, offset: int, length: int) -> bytes:
            raise ConnectionResetError("gone")

    async def run() -> None:
        remote = Broken(64 * BLOCK)
        await remote.write(0, b"x" * 64 * BLOCK)
        with open(tmp_path / "out", "wb") as target:
            await pull(remote, target.fileno(), silent)

    with pytest.raises(ConnectionResetError):
        asyncio.run(run())
