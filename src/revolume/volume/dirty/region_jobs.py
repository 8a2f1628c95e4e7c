"""Makes a dirty region log's file: from what folds have rescued for the mirror, or from an older file and what the
next fold takes out of the log. Runs in the helper process.

Order: file written → synced → its name durable. The manifest's edit is the caller's. A crash in between leaves a
file that nothing names, which the next attempt replaces.

What becomes zeroes counts only where the image holds something: a block that is zero there has not changed up to
the horizon, or the older file names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from revolume.blocks.block_location import ZERO, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.numbers import WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapFile
from revolume.chain.point_deltas import changed
from revolume.chain.versions import LogRange
from revolume.host.disk import Directory, Disk
from revolume.volume.dirty.region_file import U64, Chunk, RegionFile, chunks_of, united, write_regions
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.metadata import layout


@dataclass(frozen=True, slots=True)
class FoldedRegions:
    """The blocks of the file of number ``before``, and those that ``log_range`` has from write ``after`` to
    ``upto``, which the fold that follows takes out of the log."""

    before: int
    log_range: LogRange
    after: WriteNumber
    upto: WriteNumber


@dataclass(frozen=True, slots=True)
class RescuedRegions:
    """The blocks that these tables in ``rescue/`` name."""

    tables: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RegionsSpec:
    """Write the file of number ``file`` of the volume in ``path``."""

    path: str
    volume: bytes
    file: int
    of: FoldedRegions | RescuedRegions


def make_regions(disk: Disk, spec: RegionsSpec) -> int:
    """The blocks that the file names; it is durable. OSError: it could not be written, and there is none.
    Damaged: what it is made from is not what was written."""
    with ExitStack() as held:
        directory = held.enter_context(closing(disk.open(spec.path)))
        mirrors = held.enter_context(closing(directory.child(layout.MIRRORS, create=True)))
        return _write(mirrors, spec, united(_sources(directory, mirrors, spec, held)))


def _write(mirrors: Directory, spec: RegionsSpec, chunks: Iterator[Chunk]) -> int:
    name = layout.dirty_name(spec.file)
    if mirrors.exists(name):
        mirrors.remove(name)
    try:
        with closing(mirrors.open(name, create=True, exclusive=True)) as file:
            blocks = write_regions(file, spec.volume, spec.file, chunks)
    except BaseException:
        if mirrors.exists(name):
            mirrors.remove(name)
        raise
    mirrors.sync()
    return blocks


def _sources(
    directory: Directory, mirrors: Directory, spec: RegionsSpec, held: ExitStack
) -> Sequence[Iterator[Chunk]]:
    match spec.of:
        case RescuedRegions(tables):
            if not tables:
                return ()
            rescued = held.enter_context(closing(directory.child(layout.RESCUE)))
            files = [rescued.open(layout.rescue_table_name(number), write=False) for number in tables]
            maps = [held.enter_context(closing(MapFile.open(file, spec.volume))) for file in files]
            return [chunks_of(piece.blocks for piece in table.pieces()) for table in maps]
        case FoldedRegions() as folded:
            name = layout.dirty_name(folded.before)
            before = RegionFile.open(mirrors.open(name, write=False), spec.volume, folded.before)
            held.callback(before.close)
            log = held.enter_context(closing(directory.child(layout.LOG)))
            found = changed(log, folded.log_range, spec.volume, folded.after, folded.upto)
            sums = held.enter_context(closing(BlockDigests.open(directory, spec.volume)))
            delta = found.delta
            return [before.chunks(), chunks_of([_changed(delta, sums)]), chunks_of(_zeroed(delta.zeroes, sums))]


def _changed(delta: DeltaMap, sums: BlockDigests) -> U64:
    """But for those that are zero, as they are in the image."""
    held = sums.get(delta.blocks, False)
    assert held is not None
    blocks: U64 = delta.blocks[(kinds(delta.locations) != ZERO) | (held != 0)]
    return blocks


def _zeroed(ranges: Ranges, sums: BlockDigests) -> Iterator[U64]:
    """Of ranges that were zeroed, the blocks that hold something in the image."""
    for start, end, _ in ranges:
        yield from (blocks for blocks, _ in sums.within(start, end))
