"""Zeroes written with O_DIRECT: from one aligned buffer straight to the device.

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
from functools import cache

PIECE_BYTES = 8 << 20
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})


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
