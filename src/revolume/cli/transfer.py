"""Copying a volume's content to a file and back, sparse both ways.

``pull`` asks the server what is data, reads only that, and leaves a hole wherever a block is zero. ``push``
asks the file system the same about the file. A few pieces are under way at a time, so memory is bounded by
``_PIECES * _PIECE`` and neither side waits for the other. File work runs in threads: the loop may be
serving the volume at the other end of the same connection.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.cli.progress import Report

_PIECE: Final = 1 << 20
_PIECES: Final = 8
_EXTENTS_ASKED: Final = 1 << 30
_ZEROES: Final = bytes(_PIECE)


class Remote(Protocol):
    """A volume or a moment of it, over NBD."""

    @property
    def size(self) -> int: ...
    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview: ...
    async def write(self, offset: int, data: bytes | memoryview) -> None: ...
    async def zero(self, offset: int, length: int) -> None: ...
    async def flush(self) -> None: ...
    async def data_extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """(length, is data) pairs from ``offset``, at least one; may cover less than asked."""


@dataclass(slots=True)
class Copied:
    """What a copy moved. ``size`` is the whole content, ``data`` the bytes of it that were not zero."""

    size: int
    data: int = 0


async def pull(remote: Remote, file: int, report: Report, *, sparse: bool = True) -> Copied:
    """``remote`` into the open, empty file; where it is not ``sparse`` (a device), zeroes are written too."""
    copied = Copied(remote.size)
    done = 0

    async def piece(offset: int, length: int, is_data: bool) -> None:
        nonlocal done
        if is_data:
            data = await remote.read(offset, length)
            written = await asyncio.to_thread(_write_sparse, file, offset, memoryview(data), sparse)
            copied.data += written
        elif not sparse:
            await asyncio.to_thread(_write_zeroes, file, offset, length)
        done += length
        report("copying", done, remote.size)

    if sparse:
        os.ftruncate(file, remote.size)
    await _all(_remote_pieces(remote), piece)
    await asyncio.to_thread(os.fsync, file)
    return copied


async def push(file: int, size: int, remote: Remote, report: Report, *, overwrite: bool) -> Copied:
    """The open file into ``remote``, flushed. ``overwrite``: where the file is zero, zero is written."""
    copied = Copied(size)
    done = 0

    async def piece(offset: int, length: int, is_data: bool) -> None:
        nonlocal done
        if is_data:
            data, runs = await asyncio.to_thread(_read_runs, file, offset, length)
            for start, end in runs:
                copied.data += end - start
                await remote.write(offset + start, data[start:end])
            holes = _holes(runs, length)
        else:
            holes = [(0, length)]
        if overwrite:
            for start, end in holes:
                await remote.zero(offset + start, end - start)
        done += length
        report("copying", done, remote.size)

    await _all(_file_pieces(file, size, remote.size), piece)
    await remote.flush()
    return copied


async def holds_data(remote: Remote) -> bool:
    """Has anything been written there?"""
    async for _, _, is_data in _remote_pieces(remote):
        if is_data:
            return True
    return False


# --- pieces --------------------------------------------------------------------------------------------

Piece = tuple[int, int, bool]  # offset, length, is data


async def _all(pieces: AsyncIterator[Piece], work: Callable[[int, int, bool], Awaitable[None]]) -> None:
    """``work`` on every piece, a few at a time; the first error ends it."""
    slots = asyncio.Semaphore(_PIECES)

    async def one(piece: Piece) -> None:
        try:
            await work(*piece)
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for piece in pieces:
                await slots.acquire()
                group.create_task(one(piece))
    except ExceptionGroup as several:
        raise several.exceptions[0] from None


async def _remote_pieces(remote: Remote) -> AsyncIterator[Piece]:
    offset = 0
    while offset < remote.size:
        extents = await remote.data_extents(offset, min(_EXTENTS_ASKED, remote.size - offset))
        for length, is_data in extents:
            for piece in _cut(offset, length, is_data):
                yield piece
            offset += length


async def _file_pieces(file: int, size: int, remote_size: int) -> AsyncIterator[Piece]:
    offset = 0
    while offset < size:
        start = await asyncio.to_thread(_seek_data, file, offset, size)
        end = await asyncio.to_thread(_seek_hole, file, start, size) if start < size else start
        for piece in (*_cut(offset, start - offset, False), *_cut(start, end - start, True)):
            yield piece
        offset = end
    for piece in _cut(size, remote_size - size, False):
        yield piece


def _cut(offset: int, length: int, is_data: bool) -> Iterator[Piece]:
    """A stretch in pieces: data in such as fit in memory, holes in large ones."""
    step = _PIECE if is_data else _EXTENTS_ASKED
    for start in range(offset, offset + length, step):
        yield start, min(step, offset + length - start), is_data


# --- blocks of zeroes ----------------------------------------------------------------------------------


def _data_runs(data: memoryview) -> list[tuple[int, int]]:
    """[start, end) of the runs of blocks that are not all zero."""
    whole = len(data) // BLOCK * BLOCK
    filled = np.frombuffer(data[:whole], np.uint64).reshape(-1, BLOCK // 8).any(axis=1)
    if whole < len(data):
        filled = np.append(filled, any(data[whole:]))
    turns = np.flatnonzero(np.diff(np.concatenate(([False], filled, [False])).astype(np.int8))) * BLOCK
    ends = np.minimum(turns[1::2], len(data))
    return list(zip(turns[::2].tolist(), ends.tolist(), strict=True))


def _holes(runs: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """What ``runs`` leave out of ``length``."""
    starts = [0, *(end for _, end in runs)]
    ends = [*(start for start, _ in runs), length]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


# --- the file ------------------------------------------------------------------------------------------


def _read_runs(file: int, offset: int, length: int) -> tuple[memoryview, list[tuple[int, int]]]:
    data = memoryview(_read(file, offset, length))
    return data, _data_runs(data)


def _read(file: int, offset: int, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = os.preadv(file, [view], offset)
        if count == 0:
            break  # the file became shorter: the rest is zero, as the caller was told
        view, offset = view[count:], offset + count
    return data


def _write_sparse(file: int, offset: int, data: memoryview, sparse: bool) -> int:
    """Bytes of ``data`` that are not zero blocks; those are written, the others only where not ``sparse``."""
    written = 0
    for start, end in _data_runs(data):
        written += end - start
        if sparse:
            _write(file, offset + start, data[start:end])
    if not sparse:
        _write(file, offset, data)
    return written


def _write_zeroes(file: int, offset: int, length: int) -> None:
    for start in range(offset, offset + length, _PIECE):
        _write(file, start, memoryview(_ZEROES)[: min(_PIECE, offset + length - start)])


def _write(file: int, offset: int, data: memoryview) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def _seek_data(file: int, offset: int, size: int) -> int:
    try:
        return min(os.lseek(file, offset, os.SEEK_DATA), size)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from here on
            return size
        return offset  # the file system does not say


def _seek_hole(file: int, offset: int, size: int) -> int:
    try:
        return min(os.lseek(file, offset, os.SEEK_HOLE), size)
    except OSError:
        return size
