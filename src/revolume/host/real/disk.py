"""The real disk: descriptors, and names relative to them.

``pwritev`` and ``preadv_nowait`` run once per batch of requests, so their first lines are the whole of
the usual case: one system call, one comparison. What is rare (more vectors than the kernel takes, a
short transfer) is apart, below, and continues with slices of the caller's buffers: payload is never
copied.

A transfer is known to be whole by comparing its result with ``sum(map(len, buffers))``, 0.7 µs for 33
buffers, a third of what asking each buffer for its ``nbytes`` costs. For that a buffer's length must be
its bytes; one with wider items makes more bytes than its length and is refused as the bug that it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence

from revolume.host import descriptors
from revolume.host.disk import Buffer
from revolume.host.owner import like_directory
from revolume.host.real import libc
from revolume.host.real.direct import DirectReads, write_zeroes

VECTORS_MAX = 1024
"""IOV_MAX of Linux: the kernel refuses more buffers in one call."""

_ZEROES = bytes(1 << 20)
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY})

_pwritev = os.pwritev
_preadv = os.preadv
_NOWAIT = os.RWF_NOWAIT


class RealFile:
    """One descriptor. ``close`` forgets it first: a late call meets EBADF, not somebody else's file. Whoever does
    not know when the last call has ended lets go of the object instead: then it closes itself."""

    __slots__ = ("_direct", "_fd", "_nowait", "name")

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._direct: DirectReads | None = None  # made by the first read past the page cache
        self._nowait = True  # until the file system says that it does not know RWF_NOWAIT
        self.name = name

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        if len(buffers) <= VECTORS_MAX:
            written = _pwritev(self._fd, buffers, offset)
            if written == sum(map(len, buffers)):
                return
        else:
            written = 0
        self._write_rest(_rest(buffers, written), offset + written)

    def preadv_nowait(self, buffers: Sequence[Buffer], offset: int) -> bool:
        if not self._nowait:
            return False
        try:
            if len(buffers) <= VECTORS_MAX:
                return _preadv(self._fd, buffers, offset, _NOWAIT) == sum(map(len, buffers))
            return self._read_all(buffers, offset, _NOWAIT) == sum(map(len, buffers))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._nowait = False
            return False

    def preadv(self, buffers: Sequence[Buffer], offset: int) -> int:
        return self._read_all(buffers, offset, 0)

    def preadv_medium(self, buffers: Sequence[Buffer], offset: int) -> int:
        if self._direct is None:
            self._direct = DirectReads(self._fd)
        count = self._direct.read(buffers, offset)
        return self.preadv(buffers, offset) if count is None else count

    def _write_rest(self, rest: list[memoryview], offset: int) -> None:
        while rest:
            written = _pwritev(self._fd, rest[:VECTORS_MAX], offset)
            if written == 0:  # no progress and no reason: not to be repeated for ever
                raise OSError(errno.EIO, "the kernel wrote nothing", self.name)
            offset += written
            rest = _rest(rest, written)

    def _read_all(self, buffers: Sequence[Buffer], offset: int, flags: int) -> int:
        rest = _rest(buffers, 0)
        total = 0
        while rest:
            count = _preadv(self._fd, rest[:VECTORS_MAX], offset + total, flags)
            if count == 0:
                break
            total += count
            rest = _rest(rest, count)
        return total

    def send_to(self, socket_fd: int, offset: int, length: int) -> int:
        return os.sendfile(socket_fd, self._fd, offset, length)

    def datasync(self) -> None:
        os.fdatasync(self._fd)

    def writeback(self, offset: int, length: int) -> None:
        try:
            libc.start_writeback(self._fd, offset, length)
        except OSError:
            return  # a hint; an error of the disk comes back from fdatasync

    def uncache(self, offset: int, length: int) -> None:
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def allocate(self, offset: int, length: int) -> None:
        if length:
            os.posix_fallocate(self._fd, offset, length)

    def prewrite(self, offset: int, length: int) -> None:
        done = write_zeroes(self._fd, offset, length)
        zeroes = memoryview(_ZEROES)
        for at in range(offset + done, offset + length, len(zeroes)):
            self.pwritev([zeroes[: offset + length - at]], at)

    def punch(self, offset: int, length: int) -> None:
        if not length:
            return
        try:
            libc.punch_hole(self._fd, offset, length)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._write_zeroes(offset, length)

    def _write_zeroes(self, offset: int, length: int) -> None:
        """Within the file's size only: a hole would not have grown it either."""
        end = min(offset + length, self.size())
        zeroes = memoryview(_ZEROES)
        while offset < end:
            piece = zeroes[: end - offset]
            self.pwritev([piece], offset)
            offset += len(piece)

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        end = min(offset + length, self.size())
        while offset < end:
            start = self._seek(offset, os.SEEK_DATA, missing=end, unsupported=offset)
            if start >= end:
                return
            stop = min(end, self._seek(start, os.SEEK_HOLE, missing=end, unsupported=end))
            yield start, stop - start
            offset = stop

    def _seek(self, offset: int, whence: int, *, missing: int, unsupported: int) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return missing
            if error.errno in _UNSUPPORTED:
                return unsupported
            raise

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.close()
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def _rest(buffers: Sequence[Buffer], done: int) -> list[memoryview]:
    """What remains after ``done`` bytes: views, no copies; empty buffers fall out."""
    rest = []
    for buffer in buffers:
        view = memoryview(buffer)
        if view.nbytes != len(view):
            raise TypeError(f"a flat buffer of single bytes is needed, not {view.format} {view.shape}")
        if done < len(view):
            rest.append(view[done:])
            done = 0
        else:
            done -= len(view)
    return rest


class RealDirectory:
    """A directory's descriptor; every name is resolved from it."""

    __slots__ = ("_fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path

    @property
    def files_kept_open(self) -> int:
        return descriptors.files_kept_open()

    def open(self, name: str, *, write: bool = True, create: bool = False, exclusive: bool = False) -> RealFile:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_RDWR if write else os.O_RDONLY)
        fd = self._made(_component(name), flags, exclusive) if create or exclusive else -1
        if fd < 0:
            fd = os.open(_component(name), flags, dir_fd=self._fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", name)
        return RealFile(fd, name)

    def _made(self, name: str, flags: int, exclusive: bool) -> int:
        """A new file, for its owner alone; -1 if there was one already, unless it had to be new."""
        try:
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._fd)
        except FileExistsError:
            if exclusive:
                raise
            return -1
        like_directory(self._fd, name)
        return fd

    def child(self, name: str, *, create: bool = False) -> RealDirectory:
        if create:
            self._make(_component(name))
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return RealDirectory(os.open(_component(name), flags, dir_fd=self._fd), os.path.join(self.path, name))

    def _make(self, name: str) -> None:
        """Synced even if it was there: whoever made it may have crashed before the sync."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._fd)
            like_directory(self._fd, name)
        self.sync()

    def names(self) -> list[str]:
        return sorted(os.listdir(self._fd))

    def exists(self, name: str) -> bool:
        try:
            os.stat(_component(name), dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        os.unlink(_component(name), dir_fd=self._fd)

    def remove_child(self, name: str) -> None:
        os.rmdir(_component(name), dir_fd=self._fd)

    def rename(self, old: str, new: str) -> None:
        os.rename(_component(old), _component(new), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def sync(self) -> None:
        os.fsync(self._fd)

    def free_bytes(self) -> int:
        status = os.fstatvfs(self._fd)
        return status.f_bavail * status.f_frsize

    def in_place(self, *, ask: bool = False) -> bool:
        kind = libc.file_system_type(self._fd)
        if kind not in libc.COPYING_ON_WRITE:
            return True
        if kind != libc.BTRFS:
            return False
        with contextlib.suppress(OSError):
            if ask:
                libc.set_no_copy_on_write(self._fd)
            return libc.no_copy_on_write(self._fd)
        return False

    def lock(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _component(name: str) -> str:
    """A bug if it is a path: the no-follow promise covers the last component only."""
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is not a name within a directory")
    return name


class RealDisk:
    """Paths as the user gives them: links in them are followed, they are the user's."""

    __slots__ = ()

    def open(self, path: str, *, create: bool = False) -> RealDirectory:
        path = os.path.abspath(path)
        if create:
            _make_all(path)
        return RealDirectory(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path)


def _make_all(path: str) -> None:
    """Each missing parent from the top down, each made durable in its own parent."""
    if os.path.isdir(path):
        return
    parent, name = os.path.split(path)
    _make_all(parent)
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=fd)
        os.fsync(fd)
    finally:
        os.close(fd)
