"""Files of one directory, opened when they are used and closed again when there are many.

A log has thousands of files and a process may have few descriptors. ``OpenFiles`` hands out ``PooledFile``s: each
is a ``File`` that opens its name at its first use and may be closed behind its user's back, to be opened again at
the next. So the name must go on meaning the same file; who gives a file another meaning (a segment that is
recycled) closes the old handle first, and a closed handle stays closed: EBADF, never another use's bytes.

Two kinds of files are not closed behind anybody's back: one that was written to and has not been synced, because
the kernel reports a failed write-back to the descriptors that were open then; and one that is ``held``, because a
write to it must not fail for want of a descriptor.

A descriptor is closed when its last user lets go of it: every call keeps the file that it works on alive, and a
``RealFile`` that nobody has any more closes itself. So threads need no lock to read, and none ever meets a number
that means another file by now. Which file is closed: the second-chance rule, so that a use costs one assignment.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from revolume.host.disk import Buffer, Directory, File

_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def out_of_descriptors(error: OSError) -> bool:
    """Whether this process, or the machine, has no descriptor left. Nothing else has happened then."""
    return error.errno in _OUT_OF_DESCRIPTORS


class OpenFiles:
    """Opens files on use. ``kept_max``: files that stay open at once, those not counted that have to; the
    directory's own number by default. The directory must stay open as long as the files are used."""

    __slots__ = ("_directory", "_lock", "_ring", "_write", "kept_max")

    def __init__(self, directory: Directory, *, write: bool = True, kept_max: int | None = None) -> None:
        self._directory = directory
        self._write = write
        self._lock = threading.Lock()
        self._ring: deque[PooledFile] = deque()
        self.kept_max = directory.files_kept_open if kept_max is None else kept_max

    def file(self, name: str) -> PooledFile:
        """The file of that name, which must be there when it is first used. Close it when it means another."""
        return PooledFile(self, name)

    def opened(self, pooled: PooledFile) -> File:
        """The open file behind ``pooled``, after making room for it."""
        with self._lock:
            if pooled.closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF), pooled.name)
            if pooled.file is not None:
                return pooled.file
            while len(self._ring) >= self.kept_max and self._close_one():
                pass
            pooled.file = file = self._open(pooled.name)
            if pooled.closed:  # meanwhile, without waiting for this lock: the name may mean another file by now
                pooled.file = None
                raise OSError(errno.EBADF, os.strerror(errno.EBADF), pooled.name)
            self._ring.append(pooled)
            return file

    def _open(self, name: str) -> File:
        while True:
            try:
                return self._directory.open(name, write=self._write)
            except OSError as error:
                if not out_of_descriptors(error) or not self._close_one():
                    raise

    def _close_one(self) -> bool:
        """Close a file that has not been used lately and may be closed; False if there is none."""
        for _ in range(2 * len(self._ring)):
            pooled = self._ring.popleft()
            if pooled.file is None:
                return True  # closed by its owner; it still stood in the ring
            if pooled.used or pooled.needed:
                pooled.used = False
                self._ring.append(pooled)
                continue
            pooled.file = None
            return True
        return False


class PooledFile:
    """A ``disk.File`` that is opened on use, and may be closed between two uses."""

    __slots__ = ("_changes", "_files", "_held", "_synced", "closed", "file", "name", "used")

    def __init__(self, files: OpenFiles, name: str) -> None:
        self._files = files
        self._held = False
        self._changes = 0  # counted before and behind each, so that a sync beside one never covers it
        self._synced = 0
        self.name = name
        self.file: File | None = None
        self.used = False
        self.closed = False

    @property
    def needed(self) -> bool:
        """Whether its descriptor has to stay."""
        return self._held or self._changes != self._synced

    def hold(self) -> None:
        """Open it now, and keep it open until ``release``."""
        before, self._held = self._held, True  # first: another thread may close what is not held
        try:
            self._now()
        except OSError:
            self._held = before
            raise

    def release(self) -> None:
        """It may be closed once it is synced."""
        self._held = False

    def _now(self) -> File:
        file = self.file
        if file is None:
            return self._files.opened(self)  # one use is not yet a reason to stay: a scan uses each file once
        self.used = True
        return file

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        file = self._changing()
        file.pwritev(buffers, offset)
        self._changes += 1

    def _changing(self) -> File:
        self._changes += 1
        return self._now()

    def preadv(self, buffers: Sequence[Buffer], offset: int) -> int:
        return self._now().preadv(buffers, offset)

    def preadv_medium(self, buffers: Sequence[Buffer], offset: int) -> int:
        return self._now().preadv_medium(buffers, offset)

    def preadv_nowait(self, buffers: Sequence[Buffer], offset: int) -> bool:
        return self._now().preadv_nowait(buffers, offset)

    def send_to(self, socket_fd: int, offset: int, length: int) -> int:
        return self._now().send_to(socket_fd, offset, length)

    def datasync(self) -> None:
        file, synced = self.syncing()
        file.datasync()
        synced()

    def syncing(self) -> tuple[File, Callable[[], None]]:
        """``datasync`` in two halves: the file to be synced, and what to call once that has succeeded."""
        return self._now(), partial(self._is_synced, self._changes)

    def _is_synced(self, changes: int) -> None:
        self._synced = changes

    def writeback(self, offset: int, length: int) -> None:
        self._now().writeback(offset, length)

    def uncache(self, offset: int, length: int) -> None:
        self._now().uncache(offset, length)

    def size(self) -> int:
        return self._now().size()

    def truncate(self, size: int) -> None:
        self._changing().truncate(size)
        self._changes += 1

    def allocate(self, offset: int, length: int) -> None:
        self._changing().allocate(offset, length)
        self._changes += 1

    def prewrite(self, offset: int, length: int) -> None:
        self._changing().prewrite(offset, length)
        self._changes += 1

    def punch(self, offset: int, length: int) -> None:
        self._changing().punch(offset, length)
        self._changes += 1

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        return self._now().data_extents(offset, length)

    def close(self) -> None:
        """For good. Calls that run in other threads end on the file that they began on."""
        self.closed = True
        self._held = False
        self.file = None
