"""Past the page cache: zeroes written with O_DIRECT, from one aligned buffer straight to the device, and reads of
what the device has.

Through the page cache the same zeroes are copied, kept in memory and written back later, which takes a processor
and the memory away from whoever is writing at that time. Measured for files of 64 MiB: 0.4 to 1 GB/s through the
page cache, 2.5 GB/s directly.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from revolume.host.disk import Buffer

PIECE_BYTES = 8 << 20
_READ_BYTES = 1 << 20
_READERS = 4
"""Measured on a virtual disk: 0.65 GB/s with one read of a mebibyte at a time, 1.2 with four."""
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})


@cache
def _readers() -> ThreadPoolExecutor:
    """Of this process, for reads past the page cache."""
    return ThreadPoolExecutor(_READERS, thread_name_prefix="revolume-direct")


@cache
def _zeroes() -> memoryview:
    """One piece of zeroes. In huge pages, where there are any: the device then takes it in few segments."""
    memory = mmap.mmap(-1, PIECE_BYTES)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    memory[:] = bytes(PIECE_BYTES)
    return memoryview(memory)


def write_zeroes(fd: int, offset: int, length: int) -> int:
    """Write zeroes with O_DIRECT; returns how many of the ``length`` bytes it wrote, fewer where the file system
    refuses O_DIRECT, or the range is not aligned for the device. Nobody else may be using the descriptor."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno in _REFUSED:
            return 0
        raise
    try:
        return _write(fd, offset, length)
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _write(fd: int, offset: int, length: int) -> int:
    done = 0
    while done < length:
        try:
            written = os.pwrite(fd, _zeroes()[: length - done], offset + done)
        except OSError as error:
            if error.errno in _REFUSED:
                return done
            raise
        if written == 0:  # no progress and no reason: the caller's way of writing shall say why
            return done
        done += written
    return done


class DirectReads:
    """Reads of one file with O_DIRECT, through a descriptor of its own: what the kernel holds of the file is
    neither asked nor thrown out, and what is newer there is written to the device first."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        """``fd``: the file's, which stays the caller's."""
        self._fd = -1
        with contextlib.suppress(OSError):  # a file system that has no such reads
            self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)

    def read(self, buffers: Sequence[Buffer], offset: int) -> int | None:
        """Bytes read. None: not in this way, because the file system has none such, or buffers or offset are not
        as the device wants them. OSError: the device failed."""
        if self._fd < 0:
            return None
        try:
            if len(buffers) == 1 and len(buffers[0]) > _READ_BYTES:
                return self._at_once(memoryview(buffers[0]), offset)
            return os.preadv(self._fd, buffers, offset)
        except OSError as error:
            if error.errno in _REFUSED:
                return None
            raise

    def _at_once(self, view: memoryview, offset: int) -> int:
        """Nothing reads ahead here: so several pieces are asked for at the same time."""
        starts = range(0, len(view), _READ_BYTES)
        pieces = [view[at : at + _READ_BYTES] for at in starts]
        counts = list(_readers().map(lambda at, piece: os.preadv(self._fd, [piece], offset + at), starts, pieces))
        total = 0
        for count, piece in zip(counts, pieces, strict=True):
            total += count
            if count < len(piece):
                break
        return total

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
