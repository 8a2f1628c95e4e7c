"""``host.Disk`` on a simulated file system (``simulated_fs.py``), as one process sees it.

Handles belong to the process that opened them: when it dies they are worth nothing, and its locks are let go.
Each operation may fail as the plan of faults says, and adds what it took to the cost of the call that it is in.
Whoever ``watch``es is told of every call before it is made, and may let it fail.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Callable, Iterator, Sequence

from revolume.host.disk import Buffer
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.disk_faults import DiskFaults, drawn_delay, failure, io_error, no_space
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import (
    PAGE,
    SECTOR,
    Change,
    Folder,
    Inode,
    Named,
    Platter,
    Punch,
    Resize,
    Write,
    component,
    hash_of,
)
from revolume.sim.kernel.trace import Trace

READ_S, WRITE_S, SYNC_S = 0.0002, 0.00005, 0.001
FILES_KEPT_OPEN = 12
"""So few that every world closes segments and opens them again."""
Watch = Callable[[str, str, int, int], None]
"""Call, name, offset, length. What it raises the call fails with."""


class SimDisk:
    """The directories of one process, and what its calls cost and meet."""

    def __init__(
        self, platter: Platter, process: Process, faults: DiskFaults, chance: Chance, trace: Trace
    ) -> None:
        self.platter = platter
        self.process = process
        self.faults = faults
        self.chance = chance
        self.trace = trace
        self.watch: Watch = _unwatched
        self._cost_s = 0.0

    def take_cost(self) -> float:
        """Seconds that the operations since the last question took."""
        cost, self._cost_s = self._cost_s, 0.0
        return cost

    def took(self, typical_s: float) -> None:
        """One operation more."""
        self.process.require_alive()
        self._cost_s += drawn_delay(self.chance, self.faults, typical_s)

    def changing(self, what: str, name: str, *facts: object) -> None:
        """One operation more, that changes something. Gone: it does not come to that."""
        self.took(WRITE_S)
        self.platter.changing(what)
        self.process.require_alive()
        self.trace.note(what, self.process.name, name, *facts)

    def room(self, pages: int, name: str) -> None:
        """ENOSPC where the file system would grow beyond its size."""
        if pages > 0 and (self.platter.used_pages + pages) * PAGE > self.platter.capacity:
            self.faults.happened()
            raise no_space(name)
        self.platter.used_pages += pages

    # Paths

    def open(self, path: str, *, create: bool = False) -> SimDirectory:
        """The directory at ``path``; ``create`` makes those that are missing, each durable at once."""
        self.process.require_alive()
        self.watch("opendir", path, 0, 0)
        path, folder = posixpath.normpath(path), self.platter.root
        for part in path.strip("/").split("/") if path != "/" else []:
            node = folder.memory.get(part)
            if node is None and create:
                node = Folder(self.platter.number())
                self.changing("mkdir", part)
                _name(folder, Named(None, part, node))
                folder.settle(list(folder.pending))
            if node is None:
                raise failure(errno.ENOENT, path)
            if not isinstance(node, Folder):
                raise failure(errno.ENOTDIR, path)
            folder = node
        return SimDirectory(self, folder, path)


def _unwatched(call: str, name: str, offset: int, length: int) -> None:
    """Nobody looks."""


def _name(folder: Folder, change: Named) -> None:
    change.apply(folder.memory)
    folder.pending.append(change)


class SimDirectory:
    """``host.Directory``."""

    def __init__(self, disk: SimDisk, folder: Folder, path: str) -> None:
        self._disk = disk
        self._folder = folder
        self._closed = False
        self.path = path
        self.files_kept_open = FILES_KEPT_OPEN

    def _use(self, call: str, name: str = "") -> dict[str, Inode | Folder]:
        self._disk.process.require_alive()
        if self._closed:
            raise failure(errno.EBADF, self.path)
        self._disk.watch(call, name or self.path, 0, 0)
        return self._folder.memory

    def open(self, name: str, *, write: bool = True, create: bool = False, exclusive: bool = False) -> SimFile:
        """The file; one that is created has its name on the disk after ``sync``."""
        node = self._use("create" if create or exclusive else "open", name).get(component(name))
        if node is None:
            if not (create or exclusive):
                raise failure(errno.ENOENT, name)
            self._disk.changing("create", name)
            node = Inode(self._disk.platter.number())
            _name(self._folder, Named(None, name, node))
        elif exclusive:
            raise failure(errno.EEXIST, name)
        if not isinstance(node, Inode):
            raise failure(errno.EISDIR, name)
        return SimFile(self._disk, node, name, write)

    def child(self, name: str, *, create: bool = False) -> SimDirectory:
        """The directory within; one that is created is durable on return."""
        node = self._use("mkdir" if create else "opendir", name).get(component(name))
        if create:
            if node is None:
                self._disk.changing("mkdir", name)
                node = Folder(self._disk.platter.number())
                _name(self._folder, Named(None, name, node))
            self.sync()
        if node is None:
            raise failure(errno.ENOENT, name)
        if not isinstance(node, Folder):
            raise failure(errno.ENOTDIR, name)
        return SimDirectory(self._disk, node, posixpath.join(self.path, name))

    def names(self) -> list[str]:
        """All names in memory, sorted."""
        return sorted(self._use("list"))

    def exists(self, name: str) -> bool:
        """Whether the name is there in memory."""
        return component(name) in self._use("stat", name)

    def remove(self, name: str) -> None:
        """Take the name away; on the disk it is gone after ``sync``."""
        node = self._use("remove", name).get(component(name))
        if node is None:
            raise failure(errno.ENOENT, name)
        self._disk.changing("remove", name)
        _name(self._folder, Named(name, None, node))
        if isinstance(node, Inode):
            self._disk.platter.used_pages -= len(node.pages)

    def remove_child(self, name: str) -> None:
        """Take the name of an empty directory away."""
        if self.child(name).names():
            raise failure(errno.ENOTEMPTY, name)
        self.remove(name)

    def rename(self, old: str, new: str) -> None:
        """Replace ``new`` in one step; on the disk after ``sync``."""
        names = self._use("rename", old)
        node, gone = names.get(component(old)), names.get(component(new))
        if node is None:
            raise failure(errno.ENOENT, old)
        self._disk.changing("rename", old, new)
        _name(self._folder, Named(old, new, node))
        if isinstance(gone, Inode):
            self._disk.platter.used_pages -= len(gone.pages)

    def sync(self) -> None:
        """Bring the changes of names to the disk, unless the sync fails or lies."""
        self.begin_sync()()

    def begin_sync(self) -> Callable[[], None]:
        """A sync begins; it ends, or fails, when the function that is returned is called."""
        self._use("dirsync")
        disk, folder, changes = self._disk, self._folder, list(self._folder.pending)
        disk.took(SYNC_S)
        if disk.chance.hit(disk.faults.sync_error):
            disk.faults.happened()
            raise io_error(self.path)

        def finish() -> None:
            disk.changing("dirsync", self.path, len(changes))
            if disk.chance.hit(disk.faults.lying_sync):
                disk.faults.happened()
                return
            folder.settle(changes)

        return finish

    def free_bytes(self) -> int:
        """Bytes that all of the simulated file system has left."""
        self._use("statfs")
        platter = self._disk.platter
        return max(0, platter.capacity - platter.used_pages * PAGE)

    def in_place(self, *, ask: bool = False) -> bool:
        return True

    def lock(self) -> None:
        """BlockingIOError while another living process holds it."""
        self._use("lock")
        holder = self._folder.holder
        if isinstance(holder, SimDirectory) and holder is not self and holder._disk.process.alive:
            raise BlockingIOError(errno.EAGAIN, "held", self.path)
        self._folder.holder = self

    def close(self) -> None:
        """Let go of the directory and of its lock."""
        self._closed = True
        if self._folder.holder is self:
            self._folder.holder = None


class SimFile:
    """``host.File``."""

    def __init__(self, disk: SimDisk, inode: Inode, name: str, writable: bool) -> None:
        self._disk = disk
        self._inode = inode
        self._writable = writable
        self._closed = False
        self.name = name

    def _use(self, call: str = "", offset: int = 0, length: int = 0) -> Inode:
        self._disk.process.require_alive()
        if self._closed:
            raise failure(errno.EBADF, self.name)
        if call:
            self._disk.watch(call, self.name, offset, length)
        return self._inode

    def _change(self, change: Change) -> None:
        inode = self._use()
        if not self._writable:
            raise failure(errno.EBADF, self.name)
        change.apply(inode.memory)
        inode.pending.append(change)

    # Writing

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Change what is in memory: all of it, or, as faults say, a part, nothing, or another place."""
        data, disk = b"".join(buffers), self._disk
        inode = self._use("write", offset, len(data))
        disk.changing("write", self.name, offset, len(data), hash_of(data))
        faults, chance = disk.faults, disk.chance
        if chance.hit(faults.write_error):
            faults.happened()
            part = chance.randrange(len(data) + 1) // SECTOR * SECTOR
            disk.room(self._new_pages(inode, offset, part), self.name)
            inode.use(offset, part)
            self._change(Write(offset, data[:part]))
            raise io_error(self.name)
        disk.room(self._new_pages(inode, offset, len(data)), self.name)
        inode.use(offset, len(data))
        if chance.hit(faults.dropped):
            faults.happened()
            return
        if chance.hit(faults.misdirected) and len(inode.in_memory) > len(data):
            faults.happened()
            offset = chance.randrange(len(inode.in_memory) - len(data)) // SECTOR * SECTOR
        self._change(Write(offset, data))

    def datasync(self) -> None:
        """Bring the changes to the disk, unless the sync fails, then some are lost, or lies."""
        self.begin_sync()()

    def begin_sync(self) -> Callable[[], None]:
        """A sync begins; it ends, or fails, when the function that is returned is called."""
        disk, inode = self._disk, self._use()
        changes = list(inode.pending)
        disk.took(SYNC_S)

        def finish() -> None:
            disk.watch("datasync", self.name, 0, 0)
            disk.changing("datasync", self.name, len(changes))
            if disk.chance.hit(disk.faults.sync_error):
                disk.faults.happened()
                lost = [change for change in changes if disk.chance.hit(0.7)]
                inode.settle([change for change in changes if all(change is not one for one in lost)])
                inode.forget(lost)
                raise io_error(self.name)
            if disk.chance.hit(disk.faults.lying_sync):
                disk.faults.happened()
                return
            inode.settle(changes)

        return finish

    def writeback(self, offset: int, length: int) -> None:
        """Nothing to do: a power cut may keep any unsynced write, whether writing it back has begun or not."""
        self._use()

    uncache = writeback  # nothing to do either: faults strike memory and disk alike

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes, or let it grow with zeroes."""
        inode = self._use("truncate", size)
        self._disk.changing("truncate", self.name, size)
        gone = {page for page in inode.pages if page * PAGE >= size}
        inode.pages -= gone
        self._disk.platter.used_pages -= len(gone)
        self._change(Resize(size))

    def allocate(self, offset: int, length: int) -> None:
        """Take the room for a range now, and grow the file to its end."""
        inode = self._use("allocate", offset, length)
        if length:
            self._disk.changing("allocate", self.name, offset, length)
            self._disk.room(self._new_pages(inode, offset, length), self.name)
            inode.use(offset, length)
            self._change(Resize(offset + length, at_least=True))

    def prewrite(self, offset: int, length: int) -> None:
        """Write zeroes as data; here through memory like every write."""
        self.pwritev([bytes(length)], offset)

    @staticmethod
    def _new_pages(inode: Inode, offset: int, length: int) -> int:
        return sum(page not in inode.pages for page in range(offset // PAGE, -(-(offset + length) // PAGE)))

    def punch(self, offset: int, length: int) -> None:
        """Make a range read as zeroes; whole pages of it give their room back."""
        inode = self._use("punch", offset, length)
        self._disk.changing("punch", self.name, offset, length)
        gone = inode.pages & set(range(-(-offset // PAGE), (offset + length) // PAGE))
        inode.pages -= gone
        self._disk.platter.used_pages -= len(gone)
        self._change(Punch(offset, length))

    # Reading

    def preadv(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Read what is in memory, or fail as faults say; the bytes read."""
        inode, disk = self._use("read", offset, sum(map(len, buffers))), self._disk
        disk.took(READ_S)
        if disk.chance.hit(disk.faults.read_error):
            disk.faults.happened()
            raise io_error(self.name)
        return inode.read(buffers, offset)

    preadv_medium = preadv  # there is one truth about memory and disk

    def preadv_nowait(self, buffers: Sequence[Buffer], offset: int) -> bool:
        """Read without waiting; False as often as ``not_in_memory`` says, as if the page cache did not have it."""
        inode = self._use()
        if self._disk.chance.hit(self._disk.faults.not_in_memory):
            return False
        self._disk.watch("glance", self.name, offset, sum(map(len, buffers)))
        return inode.read(buffers, offset) == sum(map(len, buffers))

    def send_to(self, socket_fd: int, offset: int, length: int) -> int:
        """There are no descriptors here: simulated wires read."""
        raise failure(errno.EBADF, self.name)

    def size(self) -> int:
        """Bytes in memory."""
        return len(self._use("size").in_memory)

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of the pages that have room of their own, clipped to the range, ascending."""
        inode = self._use("extents", offset, length)
        end = min(offset + length, len(inode.in_memory))
        for page in sorted(inode.pages):
            begin, stop = max(offset, page * PAGE), min(end, (page + 1) * PAGE)
            if begin < stop:
                yield begin, stop - begin

    def close(self) -> None:
        """Any later call on this handle is EBADF."""
        self._closed = True
