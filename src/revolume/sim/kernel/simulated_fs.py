"""What a machine's file system holds: in memory, on the disk, and on the way between.

Every file has two contents: the one that programs see (the page cache) and the one that is on the disk; every
directory two lists of names. A change is made to the first and *pending* for the second until a sync covers it. A
sync of a file covers its bytes and its length, a sync of a directory its names; neither covers the other.

A power cut leaves the disk with any subset of what is pending, in the order in which it was made where two changes
touch the same bytes or the same name. Of a write each sector (512 bytes) may be there or not. That is weaker than
ext4 and xfs are (they keep the order of changes of names), and as weak as POSIX allows. ``Cut`` says which subset.

Changes are counted, all over the file system, so that a cut can be placed before any one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import xxhash

from revolume.host.disk import Buffer
from revolume.sim.kernel.chance import Chance

SECTOR = 512
PAGE = 4096
LOST, KEPT, TORN = 0, 1, 2


@dataclass(slots=True)
class Write:
    """Bytes at an offset."""

    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        end = self.offset + len(self.data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        content[self.offset : end] = self.data

    def torn(self, chance: Chance, content: bytearray) -> None:
        """Some of its sectors."""
        whole = chance.random()
        for at in range(self.offset - self.offset % SECTOR, self.offset + len(self.data), SECTOR):
            if chance.random() < whole:
                begin, end = max(at, self.offset), min(at + SECTOR, self.offset + len(self.data))
                Write(begin, self.data[begin - self.offset : end - self.offset]).apply(content)


@dataclass(slots=True)
class Resize:
    """A new length; ``at_least``: only if the file is shorter (allocated room)."""

    size: int
    at_least: bool = False

    def apply(self, content: bytearray) -> None:
        if len(content) < self.size:
            content.extend(bytes(self.size - len(content)))
        elif not self.at_least:
            del content[self.size :]

    def torn(self, chance: Chance, content: bytearray) -> None:
        if chance.hit(0.5):
            self.apply(content)


@dataclass(slots=True)
class Punch:
    """Zeroes within the length."""

    offset: int
    length: int

    def apply(self, content: bytearray) -> None:
        end = min(len(content), self.offset + self.length)
        if end > self.offset:
            content[self.offset : end] = bytes(end - self.offset)

    def torn(self, chance: Chance, content: bytearray) -> None:
        if chance.hit(0.5):
            self.apply(content)


Change = Write | Resize | Punch


class Inode:
    """A file. A copy of it shares the bytes until one of the two changes them: most copies are only looked at, and
    they are large.
    ``memory`` and ``disk`` are for changing, ``in_memory`` and ``on_disk`` for reading."""

    __slots__ = ("_disk", "_memory", "_shares_disk", "_shares_memory", "number", "pages", "pending")

    def __init__(self, number: int) -> None:
        self.number = number
        self.pending: list[Change] = []
        self.pages: set[int] = set()
        self._memory, self._shares_memory = bytearray(), False
        self._disk, self._shares_disk = bytearray(), False

    @property
    def in_memory(self) -> bytearray:
        """What programs see; not to be changed."""
        return self._memory

    @property
    def on_disk(self) -> bytearray:
        """What is on the disk; not to be changed."""
        return self._disk

    @property
    def memory(self) -> bytearray:
        """What programs see, this file's own."""
        if self._shares_memory:
            self._memory, self._shares_memory = bytearray(self._memory), False
        return self._memory

    @property
    def disk(self) -> bytearray:
        """What is on the disk, this file's own."""
        if self._shares_disk:
            self._disk, self._shares_disk = bytearray(self._disk), False
        return self._disk

    def read(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Fill ``buffers`` in order from what is in memory, as far as the file reaches; the bytes read."""
        total = 0
        for buffer in buffers:
            piece = self.in_memory[offset + total : offset + total + len(buffer)]
            memoryview(buffer)[: len(piece)] = piece
            total += len(piece)
            if len(piece) < len(buffer):
                break
        return total

    def as_of_disk(self, content: bytearray) -> Inode:
        """The same file with this content in both places, which may be this one's disk."""
        made = Inode(self.number)
        made._memory = made._disk = content
        made._shares_memory = made._shares_disk = True
        self._shares_disk = self._shares_disk or content is self._disk
        made.pages = self.pages.copy()
        if made.pages and max(made.pages) * PAGE >= len(content):
            made.pages = {page for page in made.pages if page * PAGE < len(content)}
        return made

    def settle(self, changes: list[Change]) -> None:
        """These are on the disk."""
        for change in changes:
            change.apply(self.disk)
        self.forget(changes)

    def forget(self, changes: list[Change]) -> None:
        """These are not pending any more."""
        gone = {id(change) for change in changes}
        self.pending = [change for change in self.pending if id(change) not in gone]

    def use(self, offset: int, length: int) -> int:
        """The range takes room; how many pages of it are new."""
        before = len(self.pages)
        self.pages.update(range(offset // PAGE, -(-(offset + length) // PAGE)))
        return len(self.pages) - before


@dataclass(slots=True)
class Named:
    """A change of names: ``old`` goes (None: none did), ``new`` leads to ``node`` (None: to nothing)."""

    old: str | None
    new: str | None
    node: Inode | Folder | None

    def apply(self, names: dict[str, Inode | Folder]) -> None:
        if self.old is not None:
            names.pop(self.old, None)
        if self.new is not None and self.node is not None:
            names[self.new] = self.node


@dataclass(slots=True, eq=False)
class Folder:
    """A directory."""

    number: int
    memory: dict[str, Inode | Folder] = field(default_factory=dict)
    disk: dict[str, Inode | Folder] = field(default_factory=dict)
    pending: list[Named] = field(default_factory=list)
    holder: object | None = None

    def settle(self, changes: list[Named]) -> None:
        """These are on the disk."""
        for change in changes:
            change.apply(self.disk)
        self.pending = [change for change in self.pending if not any(change is one for one in changes)]


@dataclass(frozen=True, slots=True)
class Cut:
    """Which pending changes the disk has: ``decide`` is asked for each, by its ordinal: LOST, KEPT or TORN."""

    decide: Callable[[int], int]
    chance: Chance

    @classmethod
    def drawn(cls, chance: Chance) -> Cut:
        """At random: nothing, everything, a prefix (as a journal keeps it), or any subset."""
        style, odds = chance.choice(["nothing", "everything", "prefix", "subset", "subset"]), chance.random()
        ended = [False]

        def decide(ordinal: int) -> int:
            if style in ("nothing", "everything"):
                return KEPT if style == "everything" else LOST
            if style == "prefix":
                ended[0] = ended[0] or chance.random() < 0.1
                return LOST if ended[0] else KEPT
            if chance.random() > odds:
                return LOST
            return TORN if chance.hit(0.3) else KEPT

        return cls(decide, chance)


NOTHING: Final = Cut(lambda ordinal: LOST, Chance(0))
"""The disk has got nothing of what is pending."""


class Platter:
    """One machine's file system."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.root = Folder(0)
        self.used_pages = 0
        self.changes = 0
        """Changes so far: each is a place for a power cut."""
        self.before_change: Callable[[int, str], None] = lambda number, what: None
        self._count = 0

    def number(self) -> int:
        """For a new file or directory."""
        self._count += 1
        return self._count

    def changing(self, what: str) -> None:
        """A change is about to be made."""
        self.changes += 1
        self.before_change(self.changes, what)

    def folders(self) -> list[Folder]:
        """All that there are, on the disk or only in memory, in the order of their numbers."""
        found: dict[int, Folder] = {}
        todo = [self.root]
        while todo:
            folder = todo.pop()
            if folder.number not in found:
                found[folder.number] = folder
                todo += [n for n in _nodes(folder) if isinstance(n, Folder)]
        return [found[number] for number in sorted(found)]

    def files(self) -> list[Inode]:
        """All files that there are, on the disk or only in memory, in the order of their numbers."""
        found = {n.number: n for folder in self.folders() for n in _nodes(folder) if isinstance(n, Inode)}
        return [found[number] for number in sorted(found)]

    def pending(self) -> int:
        """How many changes a power cut would decide on."""
        names = sum(len(folder.pending) for folder in self.folders())
        return names + sum(len(file.pending) for file in self.files())

    def after(self, cut: Cut) -> Platter:
        """The file system as it is found after a power cut; this one stays as it is."""
        fresh = Platter(self.capacity)
        fresh._count = self._count
        made: dict[int, Inode | Folder] = {}
        ordinal = 0
        folders, files = self.folders(), self.files()
        for file in files:
            made[file.number], ordinal = _file_after(file, cut, ordinal)
        for folder in folders:
            made[folder.number] = Folder(folder.number)
        for folder in folders:
            names = dict(folder.disk)
            for change in folder.pending:
                if cut.decide(ordinal) != LOST:
                    change.apply(names)
                ordinal += 1
            new = made[folder.number]
            assert isinstance(new, Folder)
            new.disk = {name: made[node.number] for name, node in sorted(names.items())}
            new.memory = dict(new.disk)
        root = made[0]
        assert isinstance(root, Folder)
        fresh.root = root
        fresh.used_pages = sum(len(file.pages) for file in fresh.files())
        return fresh

    def copy(self) -> Platter:
        """A copy with everything that is in memory on the disk: what is found after kill -9."""
        return self.after(Cut(lambda ordinal: KEPT, Chance(0)))


def _file_after(file: Inode, cut: Cut, ordinal: int) -> tuple[Inode, int]:
    content = file.on_disk
    for change in file.pending:
        fate = cut.decide(ordinal)
        ordinal += 1
        if fate != LOST and content is file.on_disk:
            content = bytearray(content)
        if fate == KEPT:
            change.apply(content)
        elif fate == TORN:
            change.torn(cut.chance, content)
    return file.as_of_disk(content), ordinal


def _nodes(folder: Folder) -> list[Inode | Folder]:
    pending = [change.node for change in folder.pending if change.node is not None]
    return [*folder.memory.values(), *folder.disk.values(), *pending]


def state_of(platter: Platter) -> int:
    """A crash state's hash."""
    total = xxhash.xxh3_64()
    for file in platter.files():
        total.update(file.on_disk)
    for folder in platter.folders():
        total.update(repr(list(folder.disk)).encode())
    return total.intdigest()


def hash_of(data: bytes) -> int:
    """For the trace."""
    return xxhash.xxh3_64_intdigest(data)


def component(name: str) -> str:
    """``name``, if it is one within a directory."""
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is not a name within a directory")
    return name
