"""The disk as the rest of the project sees it: directories that hold files, nothing by path.

Three narrow protocols. A ``Directory`` is held open, so that what is behind a name cannot be exchanged
under us by renaming a parent, and a ``File`` is only ever read and written at an offset, so that one
descriptor serves the loop and the threads at once. Calls are synchronous: appending and cached reading
happen in the loop, everything that may wait for a disk is passed to ``Work`` by the caller.

Errors are plain ``OSError``: what EIO means is for the caller to say; ``out_of_room`` tells that there is no room.

A ``Buffer`` holds single bytes: a wider view is cast (``view.cast("B")``) by whoever made it, because
lengths here are bytes and a short transfer is told by comparing them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Protocol

Buffer = bytes | bytearray | memoryview


def out_of_room(error: OSError) -> bool:
    """Whether there is no room: on the disk, or in the quota of the user, group or project that the file is of."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class File(Protocol):
    """An open regular file. Positional: no call moves anything that another call sees."""

    @property
    def name(self) -> str:
        """The name within its directory, for messages."""

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Writes all of it or raises OSError; then an unknown part of it has been written."""

    def preadv(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Fills all buffers unless the file ends; returns the bytes read. May wait for the disk."""

    def preadv_nowait(self, buffers: Sequence[Buffer], offset: int) -> bool:
        """True: all filled from memory. False: it would wait, ends early, or cannot be told: use a
        thread; what the buffers hold then is undefined."""

    def preadv_medium(self, buffers: Sequence[Buffer], offset: int) -> int:
        """As ``preadv``, of what the disk itself has, past the page cache, where the file system can and address,
        length and offset are whole pages; what is in the page cache stays there. Else it is ``preadv``."""

    def send_to(self, socket_fd: int, offset: int, length: int) -> int:
        """sendfile to a socket that does not block; the bytes that it took, 0 only where the file has
        ended. BlockingIOError: none now. For wires alone: what is not in memory is waited for."""

    def datasync(self) -> None:
        """fdatasync: what was written before is on the disk. After an error it is *not*, ever."""

    def writeback(self, offset: int, length: int) -> None:
        """Asks the kernel to start writing the range out. A hint: never raises, promises nothing."""

    def uncache(self, offset: int, length: int) -> None:
        """Asks the kernel to forget what it holds of the range in memory, as far as that is on the disk, so that
        the next read asks the disk. A hint: never raises, promises nothing."""

    def size(self) -> int: ...

    def truncate(self, size: int) -> None: ...

    def allocate(self, offset: int, length: int) -> None:
        """Room for the range, which grows the file where it must; ENOSPC comes now, not later."""

    def prewrite(self, offset: int, length: int) -> None:
        """Zeroes, written as data, past the page cache where the file system can. For a file that nobody
        else is using, offset and length in whole blocks of 4 KiB; durable after ``datasync``."""

    def punch(self, offset: int, length: int) -> None:
        """The range reads as zeroes whatever the file system; the size stays as it is."""

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of what may hold data within the range, ascending. Between: zeroes."""

    def close(self) -> None:
        """Closing twice is harmless. No other call may be running: wait for the threads first."""


class Directory(Protocol):
    """An open directory. A name is one component, never a path, and never followed as a link."""

    @property
    def path(self) -> str:
        """Where it was opened, absolute, for messages and for clients that need a path."""

    @property
    def files_kept_open(self) -> int:
        """How many of its files may be open at once without being needed; see ``open_files.py``."""

    def open(self, name: str, *, write: bool = True, create: bool = False, exclusive: bool = False) -> File:
        """FileNotFoundError unless ``create``; ``exclusive`` creates and raises FileExistsError if it is
        there. A created name is durable after ``sync``."""

    def child(self, name: str, *, create: bool = False) -> Directory:
        """A directory within; a created one is durable (its name, too) on return."""

    def names(self) -> list[str]:
        """All names, sorted."""

    def exists(self, name: str) -> bool: ...

    def remove(self, name: str) -> None:
        """FileNotFoundError if it is not there."""

    def remove_child(self, name: str) -> None:
        """Removes an empty directory within. FileNotFoundError if there is none; OSError if it is not empty."""

    def rename(self, old: str, new: str) -> None:
        """Replaces ``new`` in one step if it exists; durable after ``sync``."""

    def sync(self) -> None:
        """fsync: the names are on the disk."""

    def free_bytes(self) -> int:
        """What this process may still fill on the file system."""

    def in_place(self, *, ask: bool = False) -> bool:
        """Whether files made in here are overwritten in place. If not, every change goes to a new place (copy on
        write), and room for a file's content is no promise that it can be changed. ``ask``: ask the file system
        for it first, which has an effect on files that are made later."""

    def lock(self) -> None:
        """Exclusive until ``close`` or the end of the process; BlockingIOError if another holds it."""

    def close(self) -> None: ...


class Disk(Protocol):
    """Where directories come from: the only place where a path means something."""

    def open(self, path: str, *, create: bool = False) -> Directory:
        """FileNotFoundError unless ``create``, which makes missing parents too, each one durable."""
