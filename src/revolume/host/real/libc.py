"""The system calls that Python's ``os`` leaves out.

Each is a function that raises ``OSError`` like its neighbours in ``os``; ctypes lets go of the
interpreter lock while they run. Names are looked up once, at import; a libc that lacks one answers
EOPNOTSUPP, which every caller must cope with anyway.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

BTRFS = 0x9123683E
BCACHEFS = 0xCA451A4E
ZFS = 0x2FC12FC1
COPYING_ON_WRITE = frozenset({BTRFS, BCACHEFS, ZFS})
"""File systems, by their magic numbers, that write what is changed to a new place."""

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_NOCOW_FL = 0x00800000
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
SYNC_FILE_RANGE_WRITE = 2
PR_SET_PDEATHSIG = 1


def _function(argument_types: list[Any], *names: str) -> Callable[..., int]:
    """The first of these names that the libc has, returning int."""
    for name in names:
        function = getattr(_libc, name, None)
        if function is not None:
            function.argtypes = argument_types
            function.restype = ctypes.c_int
            return _raising(function)
    return _missing


def _raising(function: Callable[..., int]) -> Callable[..., int]:
    def call(*arguments: int) -> int:
        while (result := function(*arguments)) < 0:
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))
        return result

    return call


def _missing(*_arguments: int) -> int:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


_fallocate = _function([ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64], "fallocate64", "fallocate")
_sync_file_range = _function([ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint], "sync_file_range")
_fstatfs = _function([ctypes.c_int, ctypes.c_char_p], "fstatfs64", "fstatfs")
_malloc_trim = getattr(_libc, "malloc_trim", None)
_prctl = _function([ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong], "prctl")


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Frees the range; it reads as zeroes; the size stays."""
    _fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


def file_system_type(fd: int) -> int:
    """The magic number of the file system that a file lies on; 0 where that can't be told."""
    found = ctypes.create_string_buffer(256)
    try:
        _fstatfs(fd, found)
    except OSError:
        return 0
    return int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF


def no_copy_on_write(fd: int) -> bool:
    """Whether this file is overwritten in place, or, of a directory, those that are made in it."""
    return bool(_flags(fd) & FS_NOCOW_FL)


def set_no_copy_on_write(fd: int) -> None:
    """For a directory: files that are made in it from now on are overwritten in place (btrfs)."""
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", _flags(fd) | FS_NOCOW_FL))


def _flags(fd: int) -> int:
    return int(struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, struct.pack("l", 0)))[0])


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Starts writing dirty pages out. With this flag alone it does not wait for them and does not
    consume the error that a later fdatasync has to report."""
    _sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE)


def trim() -> None:
    """Gives what is free in the C library's heap back to the machine, wherever it lies. For a libc without that:
    nothing."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def die_with_parent(signal_number: int) -> None:
    """The kernel sends us this signal when the *thread* that started us ends."""
    _prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
