"""Which blocks clients have changed since a cut: a delta map as a set of blocks, from the chain.

It is gathered stretch by stretch, as points are made: only the log since the last of them is held, by a lease that
gives way when the volume has no other room. What is kept is a bit for each block of the volume, of which only
those pages take memory in which something has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.chain.versions import of_writes
from revolume.errors import GaveWay
from revolume.log.format.columns import Columns
from revolume.mirror.wire.comparison_messages import REGION_BLOCKS
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind

U64 = npt.NDArray[np.uint64]
OWNER: Final = "verification"


class HostChanges:
    """Of an open primary, since ``since``, a point that it retains. ``close`` it. ``upto``: the point up to which
    it is complete."""

    def __init__(self, volume: Volume, since: Point) -> None:
        self._volume = volume
        self._bits = np.zeros(-(-volume.size // BLOCK) // 8 + 1, np.uint8)
        self._closed = False
        self.since = since
        self.upto = since
        self._release = self._hold(since)

    def _hold(self, point: Point) -> Callable[[], None]:
        return self._volume.holders.lease(HolderKind.MIRROR, OWNER, point.write, lambda: self.close())

    def close(self) -> None:
        """Let the log go, for good: a cut that is still under way takes no hold of it any more."""
        self._closed = True
        self._release()

    async def gather(self) -> None:
        """Up to the newest point. GaveWay: the volume needed the room."""
        newest = self._volume.retained.newest
        if newest is not None and newest.number > self.upto.number:
            await self.gather_upto(newest)

    async def gather_upto(self, point: Point) -> None:
        """Up to this point, which is not older. GaveWay: the volume needed the room."""
        if self._closed:
            raise self._gave_way()
        log, begin = self._volume.log, self.upto
        columns = await log.columns_between(begin.address, point.record)
        changed = await log.work.call(changed_blocks, columns, begin.write, point.write)
        if self._closed:
            raise self._gave_way()
        self.note(changed)
        self.upto = point
        release, self._release = self._release, self._hold(point)
        release()

    def _gave_way(self) -> GaveWay:
        return GaveWay(
            "verification-gave-way", "The volume's log needed the room that was kept for the comparison.",
            "Verify when less is written; a larger --budget keeps more.",
        )  # fmt: skip

    def note(self, changed: BlockSet) -> None:
        """These too."""
        if not len(changed):
            return
        if (need := int(changed.ends[-1]) // 8 + 1) > len(self._bits):  # the volume has grown
            self._bits = np.concatenate([self._bits, np.zeros(need - len(self._bits), np.uint8)])
        for start, end in zip(changed.starts.tolist(), changed.ends.tolist(), strict=True):
            _set(self._bits, start, end)

    def among(self, blocks: BlockSet) -> BlockSet:
        """Those of these blocks that clients have changed."""
        found = [np.zeros(0, np.uint64)]
        for start, end in zip(blocks.starts.tolist(), blocks.ends.tolist(), strict=True):
            found.append(self._changed_within(start, end))
        return BlockSet.of_blocks(np.concatenate(found))

    def among_blocks(self, blocks: U64) -> BlockSet:
        """Those of these block numbers, ascending, that clients have changed."""
        inside = blocks[blocks < np.uint64(8 * len(self._bits))]
        bits = self._bits[(inside >> np.uint64(3)).astype(np.int64)] >> (inside & np.uint64(7)).astype(np.uint8)
        return BlockSet.of_blocks(inside[(bits & 1).astype(bool)])

    def regions(self) -> BlockSet:
        """The regions of a comparison in which clients have changed anything, whole."""
        size = REGION_BLOCKS // 8
        padded = np.zeros(ceil_div(len(self._bits), size) * size, np.uint8)
        padded[: len(self._bits)] = self._bits
        firsts = np.flatnonzero(padded.reshape(-1, size).any(axis=1)).astype(np.uint64) * np.uint64(REGION_BLOCKS)
        return BlockSet.of_intervals(firsts, firsts + np.uint64(REGION_BLOCKS))

    def _changed_within(self, start: int, end: int) -> U64:
        low, high = start // 8, min(-(-end // 8), len(self._bits))
        if low >= high:
            return np.zeros(0, np.uint64)
        at = np.flatnonzero(np.unpackbits(self._bits[low:high], bitorder="little")).astype(np.uint64)
        at += np.uint64(low * 8)
        return at[(at >= start) & (at < end)]


def _set(bits: npt.NDArray[np.uint8], start: int, end: int) -> None:
    """The bits [start, end)."""
    first, last = start // 8, (end - 1) // 8
    head, tail = 0xFF << start % 8 & 0xFF, 0xFF >> 7 - (end - 1) % 8
    if first == last:
        bits[first] |= head & tail
        return
    bits[first] |= head
    bits[first + 1 : last] = 0xFF
    bits[last] |= tail


def changed_blocks(columns: Sequence[Columns], after: WriteNumber, upto: WriteNumber) -> BlockSet:
    """The blocks that these transfers changed, wholly or in part, behind write ``after`` and up to ``upto``. In a
    thread."""
    starts, ends = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for each in of_writes(columns, after, upto):
        versions = each.versions()
        blocks = np.concatenate([
            _within(versions.blocks, versions.asof, after, upto),
            _within(versions.fragment_blocks, versions.fragment_asof, after, upto),
        ])  # fmt: skip
        _, counts, firsts = contiguous(np.unique(blocks))
        starts += [firsts, _within(versions.range_starts, versions.range_asof, after, upto)]
        ends += [firsts + counts.astype(np.uint64), _within(versions.range_ends, versions.range_asof, after, upto)]
    return BlockSet.of_intervals(np.concatenate(starts), np.concatenate(ends))


def _within(values: U64, asof: U64, after: WriteNumber, upto: WriteNumber) -> U64:
    return values[(asof > after) & (asof <= upto)]


__all__ = ["HostChanges", "changed_blocks"]
