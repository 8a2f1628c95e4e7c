"""Maps made from the log by the helper process: the live map's base, and a moment's point-in-time map.

Both are "the newest version of every block as of a write", the base as of a point, on top of an older base
where there is one that is not newer than what is asked for. Entries that the image holds are left out. At a mirror
they are built from the records of its points (``point_deltas.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from revolume.blocks.block_location import addresses
from revolume.blocks.delta_map import DeltaMap, merge
from revolume.blocks.numbers import Address, WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapFile, MapMeta, write_map
from revolume.chain.point_deltas import changed
from revolume.chain.versions import Fragment, LogRange
from revolume.host.disk import Directory, Disk

PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A job: write the map file ``name`` of the newest versions up to write ``upto``. ``base``: the name of an
    older map file that covers everything up to write ``after``, which is reused; without one ``after`` is the
    horizon's write. Entries whose address lies below ``folded`` are left out: the image holds them. ``address``,
    ``point``: of the cut at ``upto``, 0 for a moment that is no point. ``lasting``: it is synced."""

    log_path: str
    maps_path: str
    volume: bytes
    log_range: LogRange
    base: str
    after: WriteNumber
    upto: WriteNumber
    folded: Address
    name: str
    address: Address
    point: int
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class MapMade:
    """The job's result. ``fragments``, in write order: partial writes newer than their block's version in the
    map."""

    fragments: tuple[Fragment, ...]


def make_map(disk: Disk, spec: MapSpec) -> MapMade:
    """Write the map file. Damaged: the log or the older map is. OSError: a segment was recycled
    meanwhile, or the disk failed; no file is left under the name."""
    log, maps = disk.open(spec.log_path), disk.open(spec.maps_path)
    try:
        found = changed(log, spec.log_range, spec.volume, spec.after, spec.upto)
        base = _open_base(maps, spec)
        try:
            _write(maps, spec, found.delta, base)
        finally:
            if base is not None:
                base.close()
        return MapMade(found.fragments)
    finally:
        log.close()
        maps.close()


def _open_base(maps: Directory, spec: MapSpec) -> MapFile | None:
    return MapFile.open(maps.open(spec.base, write=False), spec.volume) if spec.base else None


def _write(maps: Directory, spec: MapSpec, delta: DeltaMap, base: MapFile | None) -> None:
    older = base.ranges() if base is not None else Ranges()
    ranges = older.with_ranges(list(delta.zeroes)).without_below(spec.folded)
    pieces = in_pieces(delta)
    if base is not None:
        pieces = merge(pieces, uncovered(base.pieces(), delta.zeroes))
    if maps.exists(spec.name):
        maps.remove(spec.name)
    file = maps.open(spec.name, create=True, exclusive=True)
    try:
        meta = MapMeta(spec.upto, spec.address, spec.point)
        write_map(file, spec.volume, meta, _kept(pieces, spec.folded), ranges, spec.lasting)
    except BaseException:
        maps.remove(spec.name)
        raise
    finally:
        file.close()
    if spec.lasting:
        maps.sync()


def in_pieces(delta: DeltaMap) -> Iterator[DeltaMap]:
    """The entries, ascending, a piece after the other."""
    return (delta.entries(slice(at, at + PIECE)) for at in range(0, len(delta), PIECE))


def uncovered(pieces: Iterator[DeltaMap], ranges: Ranges) -> Iterator[DeltaMap]:
    """The entries that no newer zero range covers."""
    return (piece.entries(ranges.get(piece.blocks) == 0) for piece in pieces)


def _kept(pieces: Iterator[DeltaMap], folded: Address) -> Iterator[DeltaMap]:
    """The entries that the image does not hold."""
    return (piece.entries(addresses(piece.locations) >= np.uint64(folded)) for piece in pieces)
