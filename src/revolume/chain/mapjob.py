"""Maps made from the log by the helper process: the live map's base, and a moment's point-in-time map.

Both are "the newest version of every block as of a write", the base as of a point, on top of an older base
where there is one that is not newer than what is asked for. Entries that the image holds are left out. At a mirror
they are built from the records of its points (``delta_maps.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.ranges import Ranges
from revolume.blocks.word import ADDRESS_MASK
from revolume.chain.delta_maps import changed
from revolume.chain.mapfile import MapFile, MapMeta, merge, write_map
from revolume.chain.versions import Fragment, Newest, Stretch
from revolume.host.disk import Directory, Disk

U64 = npt.NDArray[np.uint64]
Chunk = tuple[U64, U64, U64]
MASK = np.uint64(ADDRESS_MASK)
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class MapSpec:
    """The newest versions up to write ``upto``, as ``name``. ``base``: an older map file that covers
    everything up to write ``after``; without one, ``after`` is the horizon's write."""

    log_path: str
    maps_path: str
    volume: bytes
    stretch: Stretch
    base: str
    after: int
    upto: int
    folded: int
    name: str
    address: int
    point: int


@dataclass(frozen=True, slots=True)
class MapMade:
    """``fragments`` in write order: pieces newer than their block's whole version in the map."""

    fragments: tuple[Fragment, ...]


def make_map(disk: Disk, spec: MapSpec) -> MapMade:
    """Write the map file; durable when it returns."""
    log, maps = disk.open(spec.log_path), disk.open(spec.maps_path)
    try:
        state = changed(log, spec.stretch, spec.volume, spec.after, spec.upto)
        base = _open_base(maps, spec)
        try:
            _write(maps, spec, state, base)
        finally:
            if base is not None:
                base.close()
        return MapMade(tuple(state.fragments))
    finally:
        log.close()
        maps.close()


def _open_base(maps: Directory, spec: MapSpec) -> MapFile | None:
    return MapFile.open(maps.open(spec.base, write=False), spec.volume) if spec.base else None


def _write(maps: Directory, spec: MapSpec, state: Newest, base: MapFile | None) -> None:
    above = state.zero_ranges()
    ranges = (base.ranges() if base is not None else Ranges()).with_ranges(list(above))
    ranges = ranges.without_below(spec.folded)
    chunks = _chunks(state)
    if base is not None:
        chunks = merge(chunks, _uncovered(base.chunks(), above))
    if maps.exists(spec.name):
        maps.remove(spec.name)
    file = maps.open(spec.name, create=True, exclusive=True)
    try:
        meta = MapMeta(spec.upto, spec.address, spec.point)
        write_map(file, spec.volume, meta, _kept(chunks, spec.folded), ranges)
    except BaseException:
        maps.remove(spec.name)
        raise
    finally:
        file.close()
    maps.sync()


def _chunks(state: Newest) -> Iterator[Chunk]:
    for at in range(0, len(state.blocks), CHUNK):
        here = slice(at, at + CHUNK)
        yield state.blocks[here], state.words[here], state.digests[here]


def _uncovered(chunks: Iterator[Chunk], ranges: Ranges) -> Iterator[Chunk]:
    """Without what newer zero ranges cover."""
    for blocks, words, digests in chunks:
        keep = ranges.get(blocks) == 0
        yield blocks[keep], words[keep], digests[keep]


def _kept(chunks: Iterator[Chunk], folded: int) -> Iterator[Chunk]:
    """Without what the image holds."""
    for blocks, words, digests in chunks:
        keep = (words & MASK) >= np.uint64(folded)
        yield blocks[keep], words[keep], digests[keep]
