"""Every valid transfer of a volume, wherever in its log's files it lies and to whatever use of a segment it
belongs.

Only checksums are trusted. Where nothing else says how long segments are and which volume this is, most of the
files and most of the transfers do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from revolume.errors import Damaged
from revolume.host.disk import Directory, File
from revolume.host.open_files import OpenFiles
from revolume.log.scan import Found, SegmentReader
from revolume.log.segment import SEGMENT_SUFFIX, Footer, Segment, read_footer
from revolume.log.transfer import BLOCK, LOCAL_MAGIC, LOCAL_SIZE, Local, unpack_local, unpack_proper
from revolume.offline.reading import read
from revolume.offline.report import Progress

HEADERS_AT_ONCE = 256
UNKNOWN = bytes(16)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Records:
    """``found`` in no order. ``durable``: the highest durable position that any of them, or a footer, states;
    ``edit``: the highest manifest edit."""

    volume: bytes
    found: list[Found]
    durable: int = 0
    edit: int = 0


def search(log: Directory, volume: bytes, blocks: int, held: ExitStack, progress: Progress) -> Records:
    """Look at every block of every file. The files stay open as long as ``held``. ``volume``: which one, and
    ``blocks``: of a segment; zeroes where that is not known."""
    names = {name.removesuffix(SEGMENT_SUFFIX): name for name in log.names() if name.endswith(SEGMENT_SUFFIX)}
    pool = OpenFiles(log, write=False)
    files = {
        int(index): held.enter_context(closing(pool.file(name)))
        for index, name in names.items()
        if index.isdecimal()
    }
    blocks = blocks or _most(file.size() // BLOCK for file in files.values()) or 0
    found: list[Found] = []
    for number, (index, file) in enumerate(files.items()):
        progress("search", number, len(files))
        found += _search(index, file, blocks)
    if volume == UNKNOWN:
        volume = _most(one.transfer.volume for one in found) or UNKNOWN
    mine = [one for one in found if one.transfer.volume == volume]
    footers = list(_footers(mine, volume))
    return Records(
        volume,
        mine,
        max([0, *(one.local.durable for one in mine), *(footer.durable for footer in footers)]),
        max([0, *(one.local.edit for one in mine), *(footer.edit for footer in footers)]),
    )


def _most(values: Iterable[T]) -> T | None:
    """What there is most often."""
    common = Counter(values).most_common(1)
    return common[0][0] if common else None


def _search(index: int, file: File, blocks: int) -> Iterator[Found]:
    """Valid transfers in a segment file, whatever volume and use they name."""
    count, segments = file.size() // BLOCK, dict[int, Segment]()
    for first in range(0, count, HEADERS_AT_ONCE):
        view = read(file, first * BLOCK, min(HEADERS_AT_ONCE, count - first) * BLOCK)
        for at in range(0, len(view), BLOCK):
            local = unpack_local(view[at : at + LOCAL_SIZE]) if view[at : at + 8] == LOCAL_MAGIC else None
            if local is not None and local.block == first + at // BLOCK:
                segment = segments.setdefault(local.use, Segment(index, local.use, blocks, file))
                found = _at(segment, local)
                if found is not None:
                    yield found


def _at(segment: Segment, local: Local) -> Found | None:
    """Without the memory around it: there may be millions."""
    offset = local.block * BLOCK + LOCAL_SIZE
    if offset + local.proper_size > segment.file.size():
        return None
    try:
        transfer = unpack_proper(read(segment.file, offset, local.proper_size))
        reader = SegmentReader(segment, transfer.volume, BLOCK) if transfer is not None else None
        found = reader.at(local.block) if reader is not None else None
    except (OSError, Damaged):
        return None
    if found is None:
        return None
    t = found.transfer
    own = replace(t, offsets=t.offsets.copy(), lengths=t.lengths.copy(), digests=t.digests.copy())
    return replace(found, transfer=own)


def _footers(found: list[Found], volume: bytes) -> Iterator[Footer]:
    """Those of these uses."""
    for segment in {one.segment.use: one.segment for one in found}.values():
        with suppress(OSError):
            footer = read_footer(segment, volume)
            if footer is not None:
                yield footer
