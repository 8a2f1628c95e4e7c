"""The manifest: the few facts about a volume that its log can't tell, as checksummed edits.

Two files, ``manifest.a`` and ``manifest.b``. Each is a header and then edits; the one with the higher
generation that holds is the manifest. Edits are appended and synced. When the file has grown, or on a
clean stop, the whole state is written anew as edits into the other one (a temporary file, synced, renamed,
directory synced), so at every instant one whole manifest exists. A clean stop renews both, so that
a flipped bit in either is survived.

Every transfer names the last edit that was durable when it was written. A log that names a later edit than
the manifest holds has lost its manifest's end: that is damage, not an older state.

File header (64 bytes, little endian)
     0  8s  magic "RVMANIF1"     8 I format 1     12 I zero     16 16s volume id     32 Q generation
    40  16x zero     56 Q XXH3-64 of bytes 0..56
Edit
     0  I   bytes of the body     4 H kind     6 H zero     8 Q number     16 body
     …  Q   XXH3-64 of everything before, seeded by the volume
Bodies: see ``manifest_edits.py``.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from revolume.errors import Damaged, NotFound
from revolume.host.disk import Directory, File
from revolume.log.format.transfer import volume_seed
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_edits import EditKind, apply, state_edits
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.node_edits import newer_format

HEADER = struct.Struct("<8sII16sQ16xQ")
MAGIC = b"RVMANIF1"
FORMAT = 1
EDIT = struct.Struct("<IHHQ")
NAMES = ("manifest.a", "manifest.b")
RENEW_BYTES = 1 << 20
BODY_MAX = 64 << 20
CHECKSUM = struct.Struct("<Q")
_KINDS = {int(kind): kind for kind in EditKind}


def pack_edit(seed: int, number: int, kind: EditKind, body: bytes) -> bytes:
    """One edit, framed and checksummed."""
    framed = EDIT.pack(len(body), kind, 0, number) + body
    return framed + CHECKSUM.pack(xxhash.xxh3_64_intdigest(framed, seed))


def pack_header(volume: bytes, generation: int) -> bytes:
    """The file header."""
    head = HEADER.pack(MAGIC, FORMAT, 0, volume, generation, 0)[:56]
    return head + CHECKSUM.pack(xxhash.xxh3_64_intdigest(head))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A manifest file that holds."""

    name: str
    generation: int
    first: int
    """Number of its first edit; ``number``: of its last."""
    number: int
    state: State
    size: int
    torn: bool


def parse(name: str, data: bytes) -> Loaded | None:
    """The manifest in ``data``: every edit up to the first that does not hold. None: no whole state."""
    if len(data) < HEADER.size:
        return None
    magic, version, _, volume, generation, checksum = HEADER.unpack_from(data)
    if magic != MAGIC or xxhash.xxh3_64_intdigest(data[:56]) != checksum:
        return None
    if version != FORMAT:
        raise newer_format(f"{name} is of format {version}; this version reads format {FORMAT}.")
    state, first, number, at, whole = State(volume=volume), 0, 0, HEADER.size, False
    for kind, body, edit, end in _edits(name, data, volume_seed(volume)):
        state, first, number, at = apply(state, kind, body), first or edit, edit, end
        whole = whole or kind == EditKind.STATE_END
    return Loaded(name, generation, first, number, state, at, at != len(data)) if whole else None


def _edits(name: str, data: bytes, seed: int) -> Iterator[tuple[EditKind, bytes, int, int]]:
    at, last = HEADER.size, 0
    while at + EDIT.size <= len(data):
        size, kind, _, number = EDIT.unpack_from(data, at)
        end = at + EDIT.size + size
        if size > BODY_MAX or end + 8 > len(data) or (last and number != last + 1):
            return
        if xxhash.xxh3_64_intdigest(data[at:end], seed) != CHECKSUM.unpack_from(data, end)[0]:
            return
        if kind not in _KINDS:
            raise newer_format(f"{name} holds an edit of kind {kind}, which this version does not know.")
        yield _KINDS[kind], data[at + EDIT.size : end], number, end + 8
        at, last = end + 8, number


def read_file(directory: Directory, name: str) -> bytes:
    """The whole of a small file."""
    file = directory.open(name, write=False)
    try:
        data = bytearray(file.size())
        got = file.preadv([data], 0) if data else 0
        return bytes(data[:got])
    finally:
        file.close()


def load(directory: Directory) -> Loaded:
    """The newest manifest that holds. NotFound if there is none at all, Damaged if none is whole."""
    present = [name for name in NAMES if directory.exists(name)]
    if not present and directory.exists(layout.LOG):
        raise NotFound(
            "not-a-volume",
            f"{directory.path} has a log, and no manifest.",
            "If this was a volume, rebuild it with 'revolume salvage DIR FILE'. --size begins a new one over it.",
        )
    if not present:
        raise NotFound(
            "not-a-volume",
            f"{directory.path} holds no Revolume volume.",
            "Name a volume's directory; 'revolume serve DIR --size SIZE' creates one.",
        )
    loaded = [m for m in (parse(name, read_file(directory, name)) for name in present) if m]
    if not loaded:
        raise Damaged(
            "manifest-damaged",
            f"No manifest in {directory.path} is whole.",
            "Rebuild the volume's content from its records with 'revolume salvage'.",
        )
    return max(loaded, key=lambda m: (m.number, m.generation))


def judge_end(number: int, stated: int) -> None:
    """Damaged if the log names a later edit than the manifest's last: the manifest is older than the log."""
    if stated > number:
        raise Damaged(
            "manifest-damaged",
            f"The log knows manifest edit {stated}, the manifest ends with {number}.",
            "The manifest's end is lost: use 'revolume salvage', or restore from a mirror or a backup.",
        )


class Manifest:
    """The open manifest. ``record`` and ``renew`` block on the disk: call them from a thread, one at a time."""

    def __init__(self, directory: Directory, state: State, generation: int, number: int) -> None:
        self._directory = directory
        self._file: File | None = None
        self._size = 0
        self._seed = volume_seed(state.volume)
        self._loaded_name = NAMES[1]
        self.state = state
        self.generation = generation
        self.number = number
        self.failure: OSError | None = None
        """A sync failed: nobody can tell what the disk has, so nothing more is recorded."""

    @classmethod
    def opened(cls, directory: Directory) -> Manifest:
        """The newest that holds. Its number is what the log is judged by; only when it has been accepted may
        ``renew`` raise it, writing into the other file, so that appending starts on whole ground."""
        loaded = load(directory)
        manifest = cls(directory, loaded.state, loaded.generation, loaded.number)
        manifest._loaded_name = loaded.name
        return manifest

    @classmethod
    def created(cls, directory: Directory, state: State) -> Manifest:
        """The first manifest of a new volume."""
        manifest = cls(directory, state, 0, 0)
        manifest.renew(NAMES[0])
        return manifest

    def record(self, *edits: tuple[EditKind, bytes]) -> None:
        """Append edits and sync: all of them are durable when it returns."""
        if self.failure is not None:
            raise self.failure
        packed, number, state = [], self.number, self.state
        for kind, body in edits:
            number += 1
            packed.append(pack_edit(self._seed, number, kind, body))
            state = apply(state, kind, body)
        assert self._file is not None
        self._file.pwritev(packed, self._size)
        with self._or_never():
            self._file.datasync()
        self._size += sum(map(len, packed))
        self.number, self.state = number, state
        if self._size > RENEW_BYTES:
            with contextlib.suppress(OSError):  # the edits are durable where they are; it is tried again
                self.renew()

    def renew(self, name: str | None = None) -> None:
        """Write the whole state into the other file (or ``name``), in one replacement."""
        current = self._file.name if self._file else self._loaded_name
        target = name or NAMES[1 - NAMES.index(current)]
        edits = list(state_edits(self.state))
        first = self.number + 1
        packed = [pack_header(self.state.volume, self.generation + 1)]
        packed += [pack_edit(self._seed, first + i, *edit) for i, edit in enumerate(edits)]
        temporary = target + ".new"
        write_file(self._directory, temporary, packed)
        with self._or_never():  # which of the two files stands after a crash is open until the names are synced
            self._directory.rename(temporary, target)
            self._directory.sync()
            file = self._directory.open(target)
        if self._file is not None:
            self._file.close()
        self._file = file
        self._size = sum(map(len, packed))
        self.generation += 1
        self.number = first + len(edits) - 1

    @contextlib.contextmanager
    def _or_never(self) -> Iterator[None]:
        """What fails in here is not tried again."""
        try:
            yield
        except OSError as error:
            self.failure = error
            raise

    def close_clean(self) -> None:
        """Both files hold the final state afterwards; one of them if there is no room for another."""
        try:
            self.renew()
            self.renew()
        except OSError:
            if self.failure is not None:
                raise
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_file(directory: Directory, name: str, parts: list[bytes]) -> None:
    """A new file with these parts, synced; what an earlier attempt left is thrown away."""
    if directory.exists(name):
        directory.remove(name)
    file = directory.open(name, create=True, exclusive=True)
    try:
        file.pwritev(parts, 0)
        file.datasync()
    finally:
        file.close()
