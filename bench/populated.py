"""A volume of which every block has been written, made without writing every block.

Filling a terabyte would take hours and a terabyte. What such a volume costs in memory, though, is decided by
its maps, and those are made here in full, by the project's own writers:

    image        sparse: every block of it reads as zeroes, and has that content's digest in image.sums
    base map     an entry for every block but a sixteenth of them, which stay the image's. They lie in one real
                 segment of the log that is full of one block's content: blocks share addresses there, which
                 no writer would do, and no reader can tell

The volume opens, reads, writes, cuts and folds like any other. Only its root is not that of its content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import block_digests
from revolume.chain.map_file import MapFile, write_map
from revolume.host import Host, real_host
from revolume.log.write.operations import OP_WRITE, Op
from revolume.volume.image.digest_writer import DigestWriter
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_state import State
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions

U64 = npt.NDArray[np.uint64]

BLOCK = 4096
PIECE = 1 << 20
SPARE_BYTES = 128 << 20
SHARED_BYTES = 32 << 20  # of log that all entries point into
BATCH = 1 << 20
IMAGE_REGION_SHIFT = 18  # blocks in a GiB: whole ones belong to the image
IMAGE_EVERY = 16


async def populate(path: Path, name: str, size: int) -> int:
    """Make the volume ``name`` in ``path``, a new directory; returns the entries of its base map."""
    host = real_host()
    try:
        await _begin(host, path, name, size)
        directory = host.disk.open(str(path))
        try:
            manifest = Manifest.opened(directory)
            try:
                await host.work.call(_fill_sums, host, path, manifest.state)
                return await host.work.call(_fill_map, host, path, manifest.state, size // BLOCK)
            finally:
                manifest.close()
        finally:
            directory.close()
    finally:
        await host.work.close()


async def _begin(host: Host, path: Path, name: str, size: int) -> None:
    """A volume with some log, and a base map of that log."""
    volume = await open_volume(
        host, str(path), OpenOptions(name=name, size=size, cp_interval_s=3600.0, spare_bytes=SPARE_BYTES)
    )
    volume.start()
    content = memoryview(_content() * (PIECE // BLOCK))
    for offset in range(0, SHARED_BYTES, PIECE):
        ops: list[Op] = [(OP_WRITE, offset, PIECE, content)]
        await volume.room(ops)
        volume.append(ops)
    await volume.cut()
    await volume.base_maps.renew(force=True)
    await volume.close()


def _content() -> bytes:
    return bytes(range(256)) * (BLOCK // 256)


def _fill_sums(host: Host, path: Path, state: State) -> None:
    """Every block of the image has the digest of zeroes."""
    (zeroes,) = block_digests(memoryview(bytes(BLOCK)), 1)
    directory = host.disk.open(str(path))
    sums = DigestWriter.open_to_change(directory, state.volume, state.horizon.pages_generation)
    try:
        for first in range(0, sums.blocks, BATCH):
            blocks = np.arange(first, min(sums.blocks, first + BATCH), dtype=np.uint64)
            sums.put(blocks, np.full(len(blocks), zeroes, np.uint64))
        horizon = state.horizon
        sums.commit(horizon.write, horizon.address, horizon.point, horizon.pages_generation)
    finally:
        sums.close()
        directory.close()


def _fill_map(host: Host, path: Path, state: State, blocks: int) -> int:
    """In place of the small base map one for all blocks, of the same moment and under the same name."""
    maps = host.disk.open(str(path / layout.MAPS))
    try:
        small = MapFile.open(maps.open(state.base_map, write=False), state.volume)
        words = np.concatenate([piece.locations for piece in small.pieces()])
        small.close()
        maps.remove(state.base_map)
        file = maps.open(state.base_map, create=True, exclusive=True)
        try:
            return write_map(file, state.volume, small.meta, _entries(words, blocks))
        finally:
            file.close()
            maps.sync()
    finally:
        maps.close()


def _entries(words: U64, blocks: int) -> Iterator[DeltaMap]:
    (digest,) = block_digests(memoryview(_content()), 1)
    for first in range(0, blocks, BATCH):
        every = np.arange(first, min(blocks, first + BATCH), dtype=np.uint64)
        ours = (every >> np.uint64(IMAGE_REGION_SHIFT)) % np.uint64(IMAGE_EVERY) != 0
        chosen = every[ours]
        locations = words.take(chosen.view(np.int64) % len(words))
        yield DeltaMap(chosen, locations, np.full(len(chosen), digest, np.uint64))
