"""Rungs of the ladder, made by the helper process: maps of what changed between two points.

The shortest are read from the log. The longer ones are two neighbours merged, the newer over the older, as streams
and a slice at a time: a fully written terabyte is 268 million entries, and whoever opens a moment meanwhile must
not wait for all of them. No entry is left out because the image holds it by now: whoever reads a rung knows the
horizon.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

from revolume.blocks.delta_map import DeltaMap, merge
from revolume.blocks.ranges import Ranges
from revolume.chain.map_builder import in_pieces, uncovered
from revolume.chain.map_file import MapFile, MapMeta, Written, finish_map, write_entries, write_map
from revolume.chain.point_deltas import changed
from revolume.chain.versions import LogRange
from revolume.host.disk import Directory, Disk, File

SLICE = 1 << 18
"""Entries that are merged in one go: a tenth of a second or two, for which another job waits."""
EVERY_BLOCK = 1 << 62


@dataclass(frozen=True, slots=True)
class RungSpec:
    """A job: write the map ``name`` of what the log of ``log_range`` changed, from the write ``meta.after`` to the
    point that ``meta`` names."""

    log_path: str
    maps_path: str
    volume: bytes
    log_range: LogRange
    meta: MapMeta
    name: str


@dataclass(frozen=True, slots=True)
class RungMade:
    """What there is in it. ``whole``: no block was left that is only partially known at the point; else there is
    no file."""

    entries: int
    ranges: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """A job: write more of the map ``name``: the rung ``newer`` over the rung ``older``, which it follows.
    ``before``: what has been written of it already."""

    maps_path: str
    volume: bytes
    older: str
    newer: str
    meta: MapMeta
    name: str
    before: Written


@dataclass(frozen=True, slots=True)
class Merged:
    """How far a merge has come. ``made``: it is done."""

    written: Written
    made: RungMade | None


def make_rung(disk: Disk, spec: RungSpec) -> RungMade:
    """Read the log, write the file and sync it. Damaged: the log is. OSError: a segment was recycled meanwhile, or
    the disk failed. No file is left then."""
    with closing(disk.open(spec.log_path)) as log, closing(disk.open(spec.maps_path)) as maps:
        found = changed(log, spec.log_range, spec.volume, spec.meta.after, spec.meta.write)
        if found.fragments:
            return RungMade(0, 0, whole=False)
        with _written(maps, spec.name, anew=True) as file:
            zeroes = found.delta.zeroes
            entries = write_map(file, spec.volume, spec.meta, in_pieces(found.delta), zeroes)
        maps.sync()
        return RungMade(entries, len(zeroes))


def merge_rungs(disk: Disk, spec: MergeSpec) -> Merged:
    """Write the next slice. With the last one the file is whole and synced. Damaged: one of the two rungs is.
    OSError: one of them is gone, or the disk failed. No file is left then."""
    with ExitStack() as held:
        maps = held.enter_context(closing(disk.open(spec.maps_path)))
        file = held.enter_context(_written(maps, spec.name, anew=not spec.before.entries))
        older, newer = (
            held.enter_context(closing(MapFile.open(maps.open(name, write=False), spec.volume)))
            for name in (spec.older, spec.newer)
        )
        pieces = _over(newer, older, spec.before.last + 1)
        written, done = write_entries(file, spec.volume, spec.meta, pieces, spec.before, SLICE)
        if not done:
            return Merged(written, None)
        ranges = ranges_over(newer.ranges(), older.ranges())
        finish_map(file, spec.volume, spec.meta, written, ranges)
        maps.sync()
        return Merged(written, RungMade(written.entries, len(ranges)))


def _over(newer: MapFile, older: MapFile, first: int) -> Iterator[DeltaMap]:
    """Entries from block ``first`` on."""
    below = uncovered(older.within(first, EVERY_BLOCK), newer.ranges())
    return merge(newer.within(first, EVERY_BLOCK), below)


def ranges_over(newer: Ranges, older: Ranges) -> Ranges:
    """The zero ranges of two maps as one, the newer over the older."""
    return older.with_ranges(list(newer)) if len(newer) else older


class _written:
    """The map file of this name, open for writing; if the block ends with an error it is removed."""

    def __init__(self, maps: Directory, name: str, anew: bool) -> None:
        self._maps = maps
        self._name = name
        if anew and maps.exists(name):
            maps.remove(name)
        self._file: File = maps.open(name, create=anew, exclusive=anew)

    def __enter__(self) -> File:
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is not None:
            self._maps.remove(self._name)
