"""The blocks that make an earlier pinned moment out of the next newer one, or of the point of a base.

Folds go on meanwhile. What they overwrite they rescue into new tables of the newest pinned moment; so its tables
are asked again until none is new. A block that comes twice has the same content both times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.host.work import Work
from revolume.mirror.readable_content import content_of
from revolume.mirror.source.point_reader import ViewReader, open_point
from revolume.mirror.wire.block_messages import BlockRows
from revolume.volume.members.resync_points import resync_points_of
from revolume.volume.metadata.base_history import History
from revolume.volume.primary import Volume

U64 = npt.NDArray[np.uint64]
Pieces = Iterator[U64]


class RescuedMoment:
    """``storage_protocols.MomentReader``. ``close`` it."""

    def __init__(
        self, work: Work, reader: ViewReader, passes: Iterator[Pieces], release: Callable[[], None]
    ) -> None:
        self._work = work
        self._reader = reader
        self._passes = passes
        self._pieces: Pieces = iter(())
        self._held = np.zeros(0, np.uint64)
        self._release = release

    async def next_rows(self, count: int, version: int) -> BlockRows:
        """At most ``count`` blocks with digests and content, as a target that speaks this ``version`` of the
        protocol takes them; none when that was all."""
        while not len(self._held):
            piece = await self._work.call(self._next_piece)
            if piece is None:
                return BlockRows(self._held, self._held, memoryview(b""))
            self._held = piece
        blocks, self._held = self._held[:count], self._held[count:]
        digests = await self._reader.digests(blocks)
        content = await content_of(self._reader, blocks[digests != 0], version)
        return BlockRows(blocks, digests, content)

    def _next_piece(self) -> U64 | None:
        while True:
            piece = next(self._pieces, None)
            if piece is not None:
                return piece
            following = next(self._passes, None)
            if following is None:
                return None
            self._pieces = following

    def close(self) -> None:
        """Give up the views, and let the tables be merged again."""
        self._release()


class PinnedMoments:
    """``storage_protocols.PinnedMoments`` of an open volume; none for a mirror that gets no past."""

    def __init__(self, volume: Volume, history: History) -> None:
        self._volume = volume
        self._history = history

    def before(self, base: Point) -> list[Point]:
        """The earlier pinned moments that a base at this point goes with, oldest first."""
        if self._history == History.NONE:
            return []
        return [point for point in _named(self._volume) if point.write < base.write]

    def bytes_before(self, base: Point) -> int:
        """What they take at most: what was rescued, and what the log overwrites up to the base."""
        moments = self.before(base)
        if not moments:
            return 0
        rescued = self._volume.manifest.state.rescued_bytes()
        horizon = self._volume.folder.horizon.address
        return sum(rescued.get(moment.write, 0) for moment in moments) + max(0, base.address - horizon) * BLOCK

    async def open(self, moment: Point, base: Point) -> RescuedMoment:
        """Open one of them. NotFound: it is not pinned any more."""
        return await _open_moment(self._volume, moment, base)


def _named(volume: Volume) -> list[Point]:
    """The isolated points that a snapshot pins, or at which a mirror stands, and that can be read. What else is
    pinned for a mirror is this node's own."""
    named = {snapshot.write for snapshot in volume.manifest.state.snapshots}
    named |= {resync.write for resync in resync_points_of(volume.manifest.state)}
    lost = max((write for write, _ in volume.rescued.damaged_tables()), default=-1)
    return [point for point in volume.isolated_points() if point.write in named and point.write > lost]


async def _open_moment(volume: Volume, moment: Point, base: Point) -> RescuedMoment:
    newer = [point.write for point in _named(volume) if moment.write < point.write < base.write]
    with ExitStack() as held:
        held.enter_context(volume.rescued.in_use())
        reader = await open_point(volume, moment)
        held.callback(reader.close)
        above = None
        if not newer:
            above = await open_point(volume, base)
            held.callback(above.close)
        passes = _passes(volume, moment.write, min(newer, default=base.write), above)
        return RescuedMoment(volume.log.work, reader, passes, held.pop_all().close)


def _passes(volume: Volume, since: WriteNumber, until: WriteNumber, above: ViewReader | None) -> Iterator[Pieces]:
    """Block numbers, ascending within each pass: what has been rescued, then what the log changed between the
    horizon and the base's point, then what has been rescued meanwhile. ``until``: the next newer moment's write; a
    moment between the two is pinned no more, and its tables belong to this one."""
    done: set[int] = set()
    yield volume.rescued.blocks_between(since, until, done) or iter(())
    if above is not None:
        changed = volume.rescued.changed
        yield (blocks[~changed(since, until, blocks)] for blocks in above.view.source.changed_blocks())
    while True:
        pieces = volume.rescued.blocks_between(since, until, done)
        if pieces is None:
            return
        yield pieces
