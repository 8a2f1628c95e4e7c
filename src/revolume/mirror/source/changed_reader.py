"""What changed between two points of a volume, as of the later: the difference for a mirror that stands at the
earlier; and what changed since a point of which only a dirty region log tells.

A block changed if a fold has rescued it since the earlier point, or if the later point's map leads to a version
that is newer than the earlier point. One ascending pass, a window of blocks at a time. Folds may go on before,
during and between the windows: the map is made first, and keeps what the log held then; what was folded before
had been rescued before that. So the tables are asked after the map was made, and each window is complete by
itself.

Zeroes are rows too, with digest 0, for blocks that held something at the earlier point. A discard of most of the
volume costs a look at digests, not rows: only blocks that were not zero are in it.

Where only a dirty region log tells what changed before the horizon, there is no earlier state to look at: every
block that it names is a row. It too is asked after the map was made; no fold is ahead of it.

Memory: three numbers for each block of a window and for each table that names some of it, about 2 MiB for each of
these, beside what the two views keep.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.extents import numbers_in
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.chain.point import Point
from revolume.errors import NotFound
from revolume.history.allocation import ChangedSince
from revolume.history.open_history import OpenHistory
from revolume.mirror.source.point_reader import STEP_BLOCKS, RowPages, ViewReader, open_point
from revolume.volume.dirty.region_file import RegionFile
from revolume.volume.metadata.dirty_log import DirtyLog
from revolume.volume.primary import Volume

U64 = npt.NDArray[np.uint64]
Before = ViewReader | RegionFile
LOOKS: Final = 5
"""Times that a table may be merged and closed while it is looked at."""
WINDOWS: Final = 256
"""Windows in which nothing changed that are passed over in one go."""


class ChangedBlocks:
    """``storage_protocols.PointReader`` of the blocks that changed between ``since`` and ``upto``. ``close``
    it."""

    def __init__(
        self, volume: Volume, since: Point, upto: Point, before: Before, after: ViewReader, stands_there: bool
    ) -> None:
        """``before`` and ``after``: the two points, open; for the earlier also its dirty region log.
        ``stands_there``: whoever gets the rows is at ``since``, and not behind it, where a block that is zero at
        both may have been written in between."""
        self._stands_there = stands_there
        self._volume = volume
        self._since = since
        self._upto = upto
        self._before = before
        self._after = after
        self._changed = _changed_since(volume, since)
        self._blocks = -(-volume.size_at(upto.write) // BLOCK)
        self._pages = RowPages(self._blocks, self._look)

    async def next_rows(self, first: int, count: int) -> tuple[U64, U64, int]:
        """At most ``count`` blocks from ``first`` on that changed, with their digests, 0 for zeroes; and the
        block up to which that is all of them. GaveWay: what was pinned for it needed room."""
        return await self._pages.next_rows(first, count)

    async def count(self) -> int:
        """Of the blocks that changed, those that have content."""
        return await self._pages.count()

    async def digests(self, blocks: U64) -> U64:
        """Of these blocks; 0 for zeroes."""
        return await self._after.digests(blocks)

    async def read(self, blocks: U64) -> memoryview:
        """Their content, one after the other, checked."""
        return await self._after.read(blocks)

    def close(self) -> None:
        """Let go of both points."""
        self._before.close()
        self._after.close()

    async def _look(self, first: int) -> tuple[int, U64, U64]:
        """The rows of the first window from ``first`` on in which something may have changed."""
        with ExitStack() as used:
            used.enter_context(self._after.view.using())
            if isinstance(self._before, ViewReader):
                used.enter_context(self._before.view.using())
            behind, blocks = await self._candidates(first)
            digests = await self._after.digests(blocks)
            kept = np.ones(len(blocks), bool)
            if self._stands_there and isinstance(self._before, ViewReader):
                kept = digests != 0
                zero = np.flatnonzero(~kept)
                kept[zero] = await self._before.digests(blocks[zero]) != 0
        return behind, blocks[kept], digests[kept]

    async def _candidates(self, first: int) -> tuple[int, U64]:
        """Blocks that were written or zeroed, ascending, and up to which block they are all."""
        for last in (*[False] * (LOOKS - 1), True):
            try:
                with self._volume.rescued.in_use():
                    return await self._volume.log.work.call(self._search, first)
            except OSError:  # a table was merged and closed meanwhile: look again
                if isinstance(self._before, ViewReader):
                    self._before.view.lease.check()
                if last:
                    raise
        raise AssertionError

    def _search(self, first: int) -> tuple[int, U64]:
        """Waits for the disk."""
        for _ in range(WINDOWS):
            behind = min(first + STEP_BLOCKS, self._blocks)
            found = np.union1d(self._in_map(first, behind), self._folded(first, behind))
            if len(found) or behind >= self._blocks:
                return behind, found
            first = behind
        return first, np.zeros(0, np.uint64)

    def _in_map(self, start: int, end: int) -> U64:
        source = self._after.view.source
        entries = [piece.blocks[self._changed.of(piece.locations)] for piece in source.entries_within(start, end)]
        starts, ends, locations = source.ranges_within(start, end)
        newer = self._changed.of(locations)
        return _joined([*entries, numbers_in(starts[newer], ends[newer])])

    def _folded(self, start: int, end: int) -> U64:
        """What changed before the horizon."""
        if isinstance(self._before, RegionFile):
            return self._before.within(start, end)
        return _joined(list(self._volume.rescued.within(self._since.write, self._upto.write, start, end)))


async def open_difference(volume: Volume, since: Point, upto: Point, stands_there: bool = True) -> ChangedBlocks:
    """Open what changed between two points, for a copy that stands at the earlier, or behind it. NotFound: one of
    them is not retained. GaveWay: the volume needs the room."""
    if since.write > upto.write:
        raise NotFound("no-difference", f"cp{since.number} is not before cp{upto.number}.", "Name an older point.")
    with ExitStack() as held:
        before = await open_point(volume, since)
        held.callback(before.close)
        after = await open_point(volume, upto)
        held.callback(after.close)
        made = ChangedBlocks(volume, since, upto, before, after, stands_there)
        held.pop_all()
        return made


async def open_regions(volume: Volume, dirty: DirtyLog, upto: Point) -> ChangedBlocks:
    """Open what changed since the point of a dirty region log. NotFound: the later point is not retained, or the
    log is gone. GaveWay: the volume needs the room."""
    with ExitStack() as held:
        after = await open_point(volume, upto)
        held.callback(after.close)
        newest = volume.dirty.of(dirty.mirror)
        if newest is None or newest.since != dirty.since:
            raise NotFound("no-dirty-log", f"Mirror {dirty.mirror} has none any more.", "It is decided anew.")
        before = await volume.dirty.opened(newest)
        held.callback(before.close)
        made = ChangedBlocks(volume, dirty.since, upto, before, after, False)
        held.pop_all()
        return made


def difference_bytes(volume: Volume, since: Point) -> int:
    """What changed since a point takes at most, by what was rescued and what log there is; no content is read."""
    state, log, horizon = volume.manifest.state, volume.log, volume.folder.horizon
    rescued = sum(rescue.bytes for rescue in state.rescues if rescue.moment.write >= since.write)
    begin = _address_of(volume, since) or horizon.address
    gap = log.pool.gap_between(begin, log.appender.address)
    return rescued + max(0, log.appender.address - begin - gap) * BLOCK


def _changed_since(volume: Volume, since: Point) -> ChangedSince:
    """Tells newer versions from older ones where the point lies in the log; of a point that the horizon has
    reached everything in the log is newer, except what the record of the point at the horizon carries whole: that
    lies behind the cut, and a map made before the fold still leads to it."""
    return ChangedSince(since.write, _address_of(volume, since), OpenHistory(volume).restated_since(since.write))


def _address_of(volume: Volume, point: Point) -> Address:
    """Where a point was cut, 0 if the horizon has reached it."""
    if point.write <= volume.folder.horizon.write:
        return Address(0)
    return next((each.address for each in volume.points() if each.number == point.number), Address(0))


def _joined(parts: list[U64]) -> U64:
    return np.concatenate([np.zeros(0, np.uint64), *parts])
