"""Every valid transfer of a volume, wherever in its log's files it lies and to whatever use of a segment it
belongs.

Only checksums are trusted. Where nothing else says how long segments are and which volume this is, most of the
files and most of the transfers do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TypeVar

from revolume.host.disk import Directory, File
from revolume.log.scan import Found, SegmentReader
from revolume.log.segment import SEGMENT_SUFFIX, Segment, read_footer
from revolume.log.transfer import BLOCK, LOCAL_MAGIC, LOCAL_SIZE, unpack_local, unpack_proper
from revolume.offline.reading import read
from revolume.offline.report import Progress

HEADERS_AT_ONCE = 256
UNKNOWN = bytes(16)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Records:
    """``found`` in no order; ``durable``: the highest durable position that any of them, or a footer, states."""

    volume: bytes
    found: list[Found]
    durable: int


def search(log: Directory, volume: bytes, blocks: int, held: ExitStack, progress: Progress) -> Records:
    """Look at every block of every file. The files stay open as long as ``held``. ``volume``: which one, and
    ``blocks``: of a segment; zeroes where that is not known."""
    names = [name for name in log.names() if name.endswith(SEGMENT_SUFFIX)]
    files = {int(name.split(".")[0]): held.enter_context(closing(log.open(name, write=False))) for name in names}
    blocks = blocks or _most(file.size() // BLOCK for file in files.values()) or 0
    found: list[Found] = []
    for number, (index, file) in enumerate(files.items()):
        progress("search", number, len(files))
        found += _search(index, file, blocks)
    if volume == UNKNOWN:
        volume = _most(one.transfer.volume for one in found) or UNKNOWN
    mine = [one for one in found if one.transfer.volume == volume]
    return Records(volume, mine, max([0, *(one.local.durable for one in mine), *_footers(mine, volume)]))


def _most(values: Iterable[T]) -> T | None:
    """What there is most often."""
    common = Counter(values).most_common(1)
    return common[0][0] if common else None


def _search(index: int, file: File, blocks: int) -> Iterator[Found]:
    """Valid transfers in a segment file, whatever volume and use they name."""
    count = file.size() // BLOCK
    for first in range(0, count, HEADERS_AT_ONCE):
        view = read(file, first * BLOCK, min(HEADERS_AT_ONCE, count - first) * BLOCK)
        for at in range(0, len(view), BLOCK):
            if view[at : at + 8] == LOCAL_MAGIC:
                found = _at(index, file, blocks, first + at // BLOCK, view[at : at + LOCAL_SIZE])
                if found is not None:
                    yield found


def _at(index: int, file: File, blocks: int, block: int, header: memoryview) -> Found | None:
    local, offset = unpack_local(header), block * BLOCK + LOCAL_SIZE
    if local is None or local.block != block or offset + local.proper_size > file.size():
        return None
    transfer = unpack_proper(read(file, offset, local.proper_size))
    if transfer is None:
        return None
    try:
        return SegmentReader(Segment(index, local.use, blocks, file), transfer.volume, BLOCK).at(block)
    except OSError:
        return None


def _footers(found: list[Found], volume: bytes) -> Iterator[int]:
    """What the footers of these uses state durable."""
    for segment in {one.segment.base: one.segment for one in found}.values():
        try:
            footer = read_footer(segment, volume)
        except OSError:
            continue
        if footer is not None:
            yield footer.durable
