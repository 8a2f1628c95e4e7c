"""Salvage: the volume's content rebuilt from self-describing records when manifest or maps are lost.

Trusts nothing but checksums. The image's sums, where they can be read, say which of its blocks are whole and
which write they stand for; every segment file is searched for valid transfers at any block, whatever use they
belong to. Transfers newer than the image are applied in order of their write numbers, block by block where
the digests hold. What is missing in between is counted and said; the result is the newest state that the
records can prove, not more.

The source is opened read-only and locked; the target is a new file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import block_digests, fragment_digest
from revolume.blocks.geometry import fragments
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory, File
from revolume.log.scan import Found, SegmentReader
from revolume.log.segment import Segment
from revolume.log.transfer import (
    BLOCK,
    KIND_SHIFT,
    LENGTH_MASK,
    LOCAL_MAGIC,
    LOCAL_SIZE,
    EntryKind,
    Kind,
    unpack_local,
    unpack_proper,
)
from revolume.offline.report import Problem, Progress, SalvageReport
from revolume.volume import layout
from revolume.volume.lacking import lacking
from revolume.volume.manifest import load
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A valid transfer somewhere in the log's files."""

    write: int
    epoch: int
    position: int
    horizon: int
    found: Found


def salvage(
    host: Host, path: str, target: str, progress: Progress = lambda stage, done, total: None
) -> SalvageReport:
    """Write the volume in ``path``, as far as its records prove it, to the new file ``target``."""
    directory = _source(host, path)
    try:
        out_directory, name = _target(host, target)
        try:
            out = out_directory.open(name, create=True, exclusive=True)
        except FileExistsError:
            raise Refused("file-exists", f"{target} exists.", "Name a new file.") from None
        try:
            return _Salvage(directory, out, progress).run()
        finally:
            out.close()
            out_directory.sync()
            out_directory.close()
    finally:
        directory.close()


def _source(host: Host, path: str) -> Directory:
    try:
        directory = host.disk.open(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no-directory", f"{path} is not a directory.", "Name a volume's directory.") from None
    try:
        directory.lock()
    except BlockingIOError:
        directory.close()
        raise Refused("dir-in-use", f"{path} is in use by another process.", "Stop the volume first.") from None
    if not directory.exists(layout.LOG) and not directory.exists(layout.IMAGE):
        directory.close()
        raise NotFound("not-a-volume", f"{path} holds neither a log nor an image.", "Name a volume's directory.")
    return directory


def _target(host: Host, target: str) -> tuple[Directory, str]:
    parent, _, name = target.rpartition("/")
    try:
        return host.disk.open(parent or ("/" if target.startswith("/") else ".")), name
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no-directory", f"{parent} is not a directory.", "Name a file in one.") from None


class _Salvage:
    def __init__(self, directory: Directory, out: File, progress: Progress) -> None:
        self._directory = directory
        self._out = out
        self._progress = progress
        self._problems: list[Problem] = []
        self._blocks = 0
        self._lost = 0
        self._volume = bytes(16)
        self._size = 0
        self._horizon = 0

    def run(self) -> SalvageReport:
        self._from_manifest()
        log = self._directory.child(layout.LOG) if self._directory.exists(layout.LOG) else None
        candidates = self._candidates(log) if log is not None else []
        if candidates:
            self._horizon = max(self._horizon, *(c.horizon for c in candidates))
        self._image()
        applied = self._apply([c for c in candidates if c.write > self._horizon])
        self._out.truncate(max(self._size, self._out.size()))
        self._out.datasync()
        newest = max([self._horizon, *(c.write for c in applied)])
        transfers = len(candidates)
        return SalvageReport(tuple(self._problems), self._size, newest, transfers, self._blocks, self._lost)

    def _from_manifest(self) -> None:
        try:
            state = load(self._directory).state
        except RevolumeError as error:
            self._problems.append(Problem("manifest", error.cause))
            return
        if sentence := lacking(state):
            self._problems.append(Problem(layout.IMAGE, sentence))
        self._volume = state.volume
        self._horizon = state.horizon.write
        self._size = state.horizon.size

    # The log

    def _candidates(self, log: Directory) -> list[_Candidate]:
        """Every valid transfer of the volume that most of them belong to, in order of write number."""
        names = [n for n in log.names() if n.endswith(".seg")]
        found: list[Found] = []
        for number, name in enumerate(names):
            self._progress("search", number, len(names))
            found += self._search(log.open(name, write=False), name)
        if not found:
            return []
        self._volume = Counter(f.transfer.volume for f in found).most_common(1)[0][0]
        mine = [f for f in found if f.transfer.volume == self._volume]
        return sorted((self._candidate(f) for f in mine), key=lambda c: (c.epoch, c.position))

    @staticmethod
    def _candidate(found: Found) -> _Candidate:
        t = found.transfer
        last = t.write + max(0, len(t.offsets) - 1) if t.kind == Kind.WRITES else t.write
        return _Candidate(last, t.epoch, t.position, found.local.horizon, found)

    def _search(self, file: File, name: str) -> Iterator[Found]:
        """Valid transfers in a segment file, whatever volume and use they name."""
        header = bytearray(LOCAL_SIZE)
        for block in range(file.size() // BLOCK):
            file.preadv([header], block * BLOCK)
            if not header.startswith(LOCAL_MAGIC):
                continue
            found = self._at(file, name, block, memoryview(header))
            if found is not None:
                yield found

    def _at(self, file: File, name: str, block: int, header: memoryview) -> Found | None:
        local = unpack_local(header)
        if local is None or local.block != block:
            return None
        whole = bytearray(local.proper_size)
        file.preadv([whole], block * BLOCK + LOCAL_SIZE)
        transfer = unpack_proper(memoryview(whole))
        if transfer is None:
            self._problems.append(Problem(f"log/{name} at {block * BLOCK}", "a transfer's header is damaged"))
            return None
        segment = Segment(int(name.split(".")[0]), local.use, file.size() // BLOCK, file)
        return SegmentReader(segment, transfer.volume).at(block)

    def _apply(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """Write what the transfers say, oldest first; points repeat what is older than they are."""
        writes = [c for c in candidates if c.found.transfer.kind == Kind.WRITES]
        previous = self._horizon
        for number, candidate in enumerate(writes):
            self._progress("apply", number, len(writes))
            first = candidate.found.transfer.write
            if first > previous + 1 and candidate.epoch == writes[max(0, number - 1)].epoch:
                self._problems.append(Problem(f"writes w{previous + 1} to w{first - 1}", "are missing"))
            previous = max(previous, candidate.write)
            self._transfer(candidate.found)
        return writes

    def _transfer(self, found: Found) -> None:
        t = found.transfer
        payload = bytearray(t.blocks * BLOCK + t.fragment_bytes)
        found.segment.file.preadv([payload], found.payload_block * BLOCK)
        view, digests = memoryview(payload), t.digests.tolist()
        at, piece, index, piece_index = 0, t.blocks * BLOCK, 0, t.blocks
        for offset, word in zip(t.offsets.tolist(), t.lengths.tolist(), strict=True):
            kind, length = word >> KIND_SHIFT, word & LENGTH_MASK
            if kind == EntryKind.RESIZE:
                self._size = offset
                continue
            self._size = max(self._size, offset + length)
            if kind != EntryKind.WRITE:
                self._out.truncate(max(self._out.size(), offset + length))
                self._out.punch(offset, length)
                continue
            first = -(-offset // BLOCK)
            whole = max(0, (offset + length) // BLOCK - first)
            self._whole(view[at : at + whole * BLOCK], first, digests[index : index + whole], t.position)
            at, index = at + whole * BLOCK, index + whole
            for block, start, size in fragments(offset, length):
                part = view[piece : piece + size]
                if fragment_digest(part) == digests[piece_index]:
                    self._out.pwritev([part], block * BLOCK + start)
                else:
                    what = f"a fragment at position {t.position} is damaged"
                    self._problems.append(Problem(f"block {block}", what))
                piece, piece_index = piece + size, piece_index + 1

    def _whole(self, view: memoryview, first: int, stated: list[int], position: int) -> None:
        found = block_digests(view, len(stated))
        for index, (is_, should) in enumerate(zip(found, stated, strict=True)):
            if is_ == should:
                self._out.pwritev([view[index * BLOCK : (index + 1) * BLOCK]], (first + index) * BLOCK)
                self._blocks += 1
            else:
                self._lost += 1
                self._problems.append(Problem(f"block {first + index}", f"is damaged at position {position}"))

    # The image

    def _image(self) -> None:
        """The image's blocks that have their digests; all of them, unproved, if the sums are lost."""
        if not self._directory.exists(layout.IMAGE):
            self._problems.append(Problem(layout.IMAGE, "is missing"))
            return
        image = self._directory.open(layout.IMAGE, write=False)
        self._size = max(self._size, image.size())
        self._out.truncate(self._size)
        try:
            sums = Sums.open(self._directory, self._volume)
        except RevolumeError as error:
            self._problems.append(Problem(layout.SUMS, f"{error.cause} The image is taken as it is."))
            self._copy_all(image)
            return
        self._horizon = max(self._horizon, sums.facts.write)
        for blocks, digests in sums.within(0, sums.blocks):
            for block, digest in zip(blocks.tolist(), digests.tolist(), strict=True):
                self._image_block(image, block, digest)
        sums.close()

    def _image_block(self, image: File, block: int, digest: int) -> None:
        buffer = bytearray(BLOCK)
        image.preadv([buffer], block * BLOCK)
        if block_digests(memoryview(buffer), 1)[0] != digest:
            self._lost += 1
            self._problems.append(Problem(f"image block {block}", "is not what was written"))
            return
        self._out.pwritev([buffer], block * BLOCK)
        self._blocks += 1

    def _copy_all(self, image: File) -> None:
        for offset, length in image.data_extents(0, image.size()):
            for at in range(offset, offset + length, 1 << 20):
                buffer = bytearray(min(1 << 20, offset + length - at))
                got = image.preadv([buffer], at)
                self._out.pwritev([memoryview(buffer)[:got]], at)
                self._blocks += -(-got // BLOCK)
