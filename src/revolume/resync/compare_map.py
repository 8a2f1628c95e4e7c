"""The compare delta map of a mirror, kept durably: which blocks of its copy are still to be put right.

A file for each state of it, ``compare/NUMBER.map``, named by the manifest's VERIFIED edit of that mirror; what no
edit names is nobody's, and goes. Little endian:

     0  8s magic "RVCOMPAR"     8 Q format 1     16 16s volume id     32 16s node id of the copy
    48  Q  number     56 Q runs     64 runs x (Q first block, Q blocks), ascending
           XXH3-64 of all before it, seeded by the volume
"""

from __future__ import annotations

import struct
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import Final

import numpy as np
import xxhash

from revolume.blocks.block_set import BlockSet
from revolume.chain.page_cache import file_seed
from revolume.host.disk import Directory
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.verified import Verified, pack_verified
from revolume.volume.primary import Volume

MAGIC: Final = b"RVCOMPAR"
FORMAT: Final = 1
_HEAD: Final = struct.Struct("<8sQ16s16sQQ")
_CHECK: Final = struct.Struct("<Q")
_ROW: Final = np.dtype([("first", "<u8"), ("count", "<u8")])

assert _HEAD.size == 64


class CompareMaps:
    """Of the mirrors of one open primary."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def known(self, name: str) -> Verified | None:
        """What the manifest says of this mirror."""
        return next((each for each in self._volume.manifest.state.verified if each.name == name), None)

    async def load(self, name: str, node: bytes) -> BlockSet:
        """What is still to be put right in the copy ``node``. Empty: nothing, or what was known of it is not to be
        read any more, so that it has to be compared anew."""
        known = self.known(name)
        if known is None or not known.map_number or known.node != node:
            return BlockSet()
        context = self._volume.context
        data = await self._volume.log.work.call(_read, context.directory, known.map_number)
        return _unpack(data, context.volume_id, node, known.map_number) or BlockSet()

    async def keep(self, verified: Verified, left: BlockSet) -> None:
        """From now on this is what is known, and ``left`` what is still to be put right; durable."""
        volume, number = self._volume, 0
        work, context = volume.log.work, volume.context
        numbers = [each.map_number for each in volume.manifest.state.verified]
        if len(left):
            number = max(numbers, default=0) + 1
            data = _pack(left, context.volume_id, verified.node, number)
            await work.call(_write, context.directory, number, data)
        made = replace(verified, map_number=number)
        await volume.manifest.record((EditKind.VERIFIED, pack_verified(made)))
        named = {each.map_number for each in volume.manifest.state.verified}
        await work.call(_sweep, context.directory, named)


def _pack(blocks: BlockSet, volume: bytes, node: bytes, number: int) -> bytes:
    rows = np.empty(len(blocks), _ROW)
    rows["first"], rows["count"] = blocks.starts, blocks.counts
    body = _HEAD.pack(MAGIC, FORMAT, volume, node, number, len(rows)) + rows.tobytes()
    return body + _CHECK.pack(xxhash.xxh3_64_intdigest(body, seed=file_seed(b"compare map", volume)))


def _unpack(data: bytes, volume: bytes, node: bytes, number: int) -> BlockSet | None:
    if len(data) < _HEAD.size + _CHECK.size:
        return None
    body = data[: -_CHECK.size]
    if _CHECK.unpack(data[-_CHECK.size :])[0] != xxhash.xxh3_64_intdigest(
        body, seed=file_seed(b"compare map", volume)
    ):
        return None
    magic, known, of, copy, numbered, runs = _HEAD.unpack_from(body)
    if (magic, known, of, copy, numbered) != (MAGIC, FORMAT, volume, node, number):
        return None
    if len(body) != _HEAD.size + runs * _ROW.itemsize:
        return None
    rows = np.frombuffer(body, _ROW, runs, _HEAD.size)
    firsts = rows["first"].astype(np.uint64)
    return BlockSet.of_intervals(firsts, firsts + rows["count"].astype(np.uint64))


def _name(number: int) -> str:
    return f"{number}.map"


def _read(volume: Directory, number: int) -> bytes:
    """Nothing, if it can't be read."""
    with suppress(OSError), ExitStack() as held:
        directory = held.enter_context(closing(volume.child(layout.COMPARE)))
        file = held.enter_context(closing(directory.open(_name(number), write=False)))
        data = bytearray(file.size())
        return bytes(data) if file.preadv([data], 0) == len(data) else b""
    return b""


def _write(volume: Directory, number: int, data: bytes) -> None:
    with closing(volume.child(layout.COMPARE, create=True)) as directory:
        with closing(directory.open(_name(number), create=True)) as file:
            file.truncate(0)
            file.pwritev([data], 0)
            file.datasync()
        directory.sync()


def _sweep(volume: Directory, named: set[int]) -> None:
    """What is not named goes; what the disk does not let go of now goes the next time."""
    if not volume.exists(layout.COMPARE):
        return
    with suppress(OSError), closing(volume.child(layout.COMPARE)) as directory:
        for name in directory.names():
            if name not in {_name(number) for number in named}:
                directory.remove(name)
