"""A disk over another that is only read: what is written goes to a directory of our own, and is gone with it.

A volume that is opened on it recovers the end of its log, begins an epoch and makes maps as on any disk; nothing
of that reaches the volume's directory. So a stopped volume can be read through the same code that serves it, also
from a medium that can't be written, and reading never changes it.

Each file is its content on the disk below, with blocks of 4 KiB that were written since in a sparse file on top.
Nothing is ever durable: syncs do nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from revolume.host.disk import Buffer, Disk
from revolume.host.real.disk import RealDirectory, RealDisk, RealFile
from revolume.host.work import Arguments, Result, Work

BLOCK = 4096
"""What of a file is kept apart; of this disk alone, not a volume's block."""


@dataclass
class _Inode:
    """A file's state, whatever name it has: ``base`` bytes of it are still those below, but for ``mine``."""

    below: tuple[RealDirectory, str] | None
    base: int
    size: int
    top: str = ""
    mine: set[int] = field(default_factory=set)


class _Room:
    """Where everything lies that was written."""

    def __init__(self, path: str) -> None:
        self.directory = RealDisk().open(path)
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"top-{self._count}"


class ShadowFile:
    """A ``disk.File`` whose changed blocks lie in a file on top of the one below."""

    def __init__(self, room: _Room, inode: _Inode, name: str) -> None:
        self.name = name
        self._inode = inode
        self._room = room
        self._below: RealFile | None = None
        self._top: RealFile | None = None
        if inode.below is not None:
            directory, below = inode.below
            self._below = directory.open(below, write=False)

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        data = b"".join(buffers)
        end = offset + len(data)
        self._grow(end)
        if not any(data) and self._absent(offset, end):
            return
        for edge in {offset // BLOCK, max(offset, end - 1) // BLOCK}:
            self._take(edge)
        self._on_top().pwritev([data], offset)
        self._inode.mine.update(range(offset // BLOCK, -(-end // BLOCK)))

    def preadv(self, buffers: Sequence[Buffer], offset: int) -> int:
        total = 0
        for buffer in buffers:
            view = memoryview(buffer)[: max(0, self._inode.size - offset)]
            self._read(view, offset)
            total, offset = total + len(view), offset + len(view)
        return total

    def preadv_nowait(self, buffers: Sequence[Buffer], offset: int) -> bool:
        """Only of a file that is still as it is below: most of what is read."""
        inode, below = self._inode, self._below
        if inode.mine or below is None or offset + sum(map(len, buffers)) > inode.base:
            return False
        return below.preadv_nowait(buffers, offset)

    def preadv_medium(self, buffers: Sequence[Buffer], offset: int) -> int:
        return self.preadv(buffers, offset)

    def send_to(self, socket_fd: int, offset: int, length: int) -> int:
        raise OSError(errno.EOPNOTSUPP, "a shadow is not sent", self.name)

    def datasync(self) -> None:
        """Nothing is durable."""

    def writeback(self, offset: int, length: int) -> None:
        """Nothing is durable."""

    def uncache(self, offset: int, length: int) -> None:
        """All of it is in memory."""

    def size(self) -> int:
        return self._inode.size

    def truncate(self, size: int) -> None:
        inode = self._inode
        if size < inode.size:
            if size % BLOCK:
                self._take(size // BLOCK)
            inode.base = min(inode.base, size)
            inode.mine = {block for block in inode.mine if block * BLOCK < size}
            if self._top is not None or inode.top:
                self._on_top().truncate(size)
        inode.size = size

    def allocate(self, offset: int, length: int) -> None:
        self._grow(offset + length)

    def prewrite(self, offset: int, length: int) -> None:
        self._grow(offset + length)
        self.punch(offset, length)

    def punch(self, offset: int, length: int) -> None:
        end = min(offset + length, self._inode.size)
        for at in range(offset, end, 1 << 20):
            self.pwritev([bytes(min(1 << 20, end - at))], at)

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        if not self._inode.mine and self._below is not None:
            yield from self._below.data_extents(offset, min(length, max(0, self._inode.base - offset)))
        elif offset < self._inode.size:
            yield offset, min(length, self._inode.size - offset)

    def close(self) -> None:
        for file in (self._below, self._top):
            if file is not None:
                file.close()

    # What lies where

    def _on_top(self) -> RealFile:
        if self._top is None:
            if not self._inode.top:
                self._inode.top = self._room.name()
            self._top = self._room.directory.open(self._inode.top, create=True)
        return self._top

    def _grow(self, size: int) -> None:
        self._inode.size = max(self._inode.size, size)

    def _absent(self, begin: int, end: int) -> bool:
        """Nothing has ever been there: it reads as zeroes."""
        inode = self._inode
        return begin >= inode.base and not any(b in inode.mine for b in range(begin // BLOCK, -(-end // BLOCK)))

    def _take(self, block: int) -> None:
        """A block that will be written in part comes up whole first."""
        if block in self._inode.mine:
            return
        content = bytearray(BLOCK)
        self._below_into(memoryview(content), block * BLOCK)
        self._on_top().pwritev([content], block * BLOCK)
        self._inode.mine.add(block)

    def _below_into(self, view: memoryview, offset: int) -> None:
        count = min(len(view), max(0, self._inode.base - offset))
        read = self._below.preadv([view[:count]], offset) if self._below is not None and count else 0
        view[read:] = bytes(len(view) - read)

    def _read(self, view: memoryview, offset: int) -> None:
        at, end, mine = offset, offset + len(view), self._inode.mine
        if not mine:
            return self._below_into(view, offset)
        while at < end:
            top, stop = at // BLOCK in mine, (at // BLOCK + 1) * BLOCK
            while stop < end and (stop // BLOCK in mine) == top:
                stop += BLOCK
            part = view[at - offset : min(stop, end) - offset]
            if top:
                read = self._on_top().preadv([part], at)
                part[read:] = bytes(len(part) - read)
            else:
                self._below_into(part, at)
            at = stop
        return None


class ShadowDirectory:
    """A ``disk.Directory``: the names of the one below, with what was made, renamed or removed since."""

    def __init__(self, room: _Room, below: RealDirectory | None, path: str) -> None:
        self.path = path
        self._room = room
        self._below = below
        self._files: dict[str, _Inode] = {}
        self._children: dict[str, ShadowDirectory] = {}
        self._removed: set[str] = set()

    def open(self, name: str, *, write: bool = True, create: bool = False, exclusive: bool = False) -> ShadowFile:
        there = self.exists(name)
        if exclusive and there:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        if not there and not (create or exclusive):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if name not in self._files:
            self._files[name] = self._found(name) if there else _Inode(None, 0, 0)
            self._removed.discard(name)
        return ShadowFile(self._room, self._files[name], name)

    def _found(self, name: str) -> _Inode:
        assert self._below is not None
        file = self._below.open(name, write=False)
        size = file.size()
        file.close()
        return _Inode((self._below, name), size, size)

    def child(self, name: str, *, create: bool = False) -> ShadowDirectory:
        if name not in self._children:
            below = None
            if self._below is not None and (not create or self._below.exists(name)):
                below = self._below.child(name)
            elif not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            self._children[name] = ShadowDirectory(self._room, below, os.path.join(self.path, name))
        return self._children[name]

    def names(self) -> list[str]:
        below = set(self._below.names()) - self._removed if self._below is not None else set()
        return sorted(below | self._files.keys() | self._children.keys())

    def exists(self, name: str) -> bool:
        if name in self._files or name in self._children:
            return True
        return self._below is not None and name not in self._removed and self._below.exists(name)

    def remove(self, name: str) -> None:
        if not self.exists(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        self._files.pop(name, None)
        self._removed.add(name)

    def remove_child(self, name: str) -> None:
        if self.child(name).names():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
        del self._children[name]
        self._removed.add(name)

    def rename(self, old: str, new: str) -> None:
        self.open(old).close()
        self._files[new] = self._files.pop(old)
        self._removed |= {old, new}

    def sync(self) -> None:
        """Nothing is durable."""

    @property
    def files_kept_open(self) -> int:
        return self._room.directory.files_kept_open // 2

    def free_bytes(self) -> int:
        return self._room.directory.free_bytes()

    def in_place(self, *, ask: bool = False) -> bool:
        return True

    def lock(self) -> None:
        if self._below is not None:
            self._below.lock()

    def close(self) -> None:
        """The one below stays open for the files and children that may still be opened; the process ends soon."""


class ShadowDisk:
    """``room``: the path of an empty directory that can be written."""

    def __init__(self, room: str) -> None:
        self._room = _Room(room)
        self._opened: dict[str, ShadowDirectory] = {}

    def open(self, path: str, *, create: bool = False) -> ShadowDirectory:
        """The same directory has the same shadow, by whatever path within an opened one it is asked for."""
        path = os.path.abspath(path)
        for known, opened in self._opened.items():
            if path == known:
                return opened
            if path.startswith(known + os.sep):
                for part in path[len(known) + 1 :].split(os.sep):
                    opened = opened.child(part)
                return opened
        self._opened[path] = ShadowDirectory(self._room, RealDisk().open(path), path)
        return self._opened[path]

    def close(self) -> None:
        """Lets go of the directories below, and of their locks."""
        for opened in self._opened.values():
            _close_below(opened)
        self._room.directory.close()


def _close_below(directory: ShadowDirectory) -> None:
    for child in directory._children.values():
        _close_below(child)
    if directory._below is not None:
        directory._below.close()


class ShadowWork:
    """Work on such a disk: what the helper process would do, which does not see it, is done in a thread."""

    def __init__(self, work: Work, disk: Disk) -> None:
        self._work = work
        self._disk = disk
        self.call = work.call
        self.call_sync = work.call_sync
        self.close = work.close

    async def job(self, fn: Callable[[Disk, *Arguments], Result], *args: *Arguments) -> Result:
        return await self._work.call(fn, self._disk, *args)
