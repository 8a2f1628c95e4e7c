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

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.errors import Damaged
from revolume.host.disk import Directory, File
from revolume.host.open_files import OpenFiles
from revolume.log.format.log_cut import NO_CUT, LogCut
from revolume.log.format.segment import SEGMENT_SUFFIX, Footer, Segment, read_footer
from revolume.log.format.transfer import (
    NODE_HEADER_MAGIC,
    NODE_HEADER_SIZE,
    NodeHeader,
    unpack_node_header,
    unpack_shared_header,
)
from revolume.log.read.scan import FoundTransfer, SegmentReader
from revolume.offline.walk.report import Progress
from revolume.offline.walk.tolerant_read import read

HEADERS_AT_ONCE = 256
UNKNOWN = bytes(16)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FoundTransfers:
    """The result of a search. ``found``: valid transfers, in no order. ``durable``: the highest durable position
    that any of them, or a footer, states; ``edit``: the highest manifest edit."""

    volume: bytes
    found: list[FoundTransfer]
    durable: Position = Position(0)
    edit: int = 0


def search(
    log: Directory, volume: bytes, blocks: int, held: ExitStack, progress: Progress, cut: LogCut = NO_CUT
) -> FoundTransfers:
    """Search every block of every segment file for valid transfers. The files are closed with ``held``.
    ``volume``: the volume's id, 16 zero bytes if it is not known; ``blocks``: blocks of a segment, 0 if not
    known. What was cut off at ``cut`` is left out."""
    names = {name.removesuffix(SEGMENT_SUFFIX): name for name in log.names() if name.endswith(SEGMENT_SUFFIX)}
    pool = OpenFiles(log, write=False)
    files = {
        int(index): held.enter_context(closing(pool.file(name)))
        for index, name in names.items()
        if index.isdecimal()
    }
    blocks = blocks or _most(file.size() // BLOCK for file in files.values()) or 0
    found: list[FoundTransfer] = []
    for number, (index, file) in enumerate(files.items()):
        progress("search", number, len(files))
        found += _search(index, file, blocks)
    if volume == UNKNOWN:
        volume = _most(one.transfer.volume for one in found) or UNKNOWN
    mine = [one for one in found if one.transfer.volume == volume and not _removed(one, cut)]
    footers = list(_footers(mine, volume))
    return FoundTransfers(
        volume,
        mine,
        max([Position(0), *_durable(mine, footers, cut)]),
        max([0, *(one.node_header.edit for one in mine), *(footer.edit for footer in footers)]),
    )


def _removed(one: FoundTransfer, cut: LogCut) -> bool:
    return cut.removed(one.transfer.position, one.node_header.edit)


def _durable(found: list[FoundTransfer], footers: list[Footer], cut: LogCut) -> Iterator[Position]:
    """What each of these states."""
    yield from (cut.durable(one.node_header.durable, one.node_header.edit) for one in found)
    yield from (cut.durable(footer.durable, footer.edit) for footer in footers)


def _most(values: Iterable[T]) -> T | None:
    """The most common value; None if there are none."""
    common = Counter(values).most_common(1)
    return common[0][0] if common else None


def _search(index: int, file: File, blocks: int) -> Iterator[FoundTransfer]:
    """Valid transfers in a segment file, whatever volume and use they name."""
    count, segments = file.size() // BLOCK, dict[int, Segment]()
    for first in range(0, count, HEADERS_AT_ONCE):
        view = read(file, first * BLOCK, min(HEADERS_AT_ONCE, count - first) * BLOCK)
        for at in range(0, len(view), BLOCK):
            local = (
                unpack_node_header(view[at : at + NODE_HEADER_SIZE])
                if view[at : at + 8] == NODE_HEADER_MAGIC
                else None
            )
            if local is not None and local.block == first + at // BLOCK:
                segment = segments.setdefault(local.use, Segment(index, local.use, blocks, file))
                found = _at(segment, local)
                if found is not None:
                    yield found


def _at(segment: Segment, local: NodeHeader) -> FoundTransfer | None:
    """The valid transfer that a node header belongs to, with copies of its columns: millions of transfers must not
    keep their read buffers alive."""
    offset = local.block * BLOCK + NODE_HEADER_SIZE
    if offset + local.shared_header_size > segment.file.size():
        return None
    try:
        transfer = unpack_shared_header(read(segment.file, offset, local.shared_header_size))
        reader = SegmentReader(segment, transfer.volume, BLOCK) if transfer is not None else None
        found = reader.at(local.block) if reader is not None else None
    except (OSError, Damaged):
        return None
    if found is None:
        return None
    t = found.transfer
    own = replace(t, offsets=t.offsets.copy(), lengths=t.lengths.copy(), digests=t.digests.copy())
    return replace(found, transfer=own)


def _footers(found: list[FoundTransfer], volume: bytes) -> Iterator[Footer]:
    """The footers of the segment uses to which these transfers belong."""
    for segment in {one.segment.use: one.segment for one in found}.values():
        with suppress(OSError):
            footer = read_footer(segment, volume)
            if footer is not None:
                yield footer
