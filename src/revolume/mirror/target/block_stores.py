"""Where blocks go that arrive by themselves, not with the log: a base into the copy, a difference beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from revolume.mirror.copy_protocols import BaseTarget, DifferenceTarget
from revolume.mirror.target.copy_directory import point_of
from revolume.mirror.wire.begin_messages import BaseStart
from revolume.mirror.wire.block_messages import BlockRows
from revolume.volume.metadata.manifest_state import Epoch, Horizon, JumpTarget, PinnedSnapshot


class BlockStore(Protocol):
    """``zeroes``: whether blocks that have become zeroes are among what comes."""

    zeroes: bool

    async def put(self, rows: BlockRows, next_block: int) -> None:
        """Keep them; everything below ``next_block`` has then come. Refused: they are not what they should be."""

    async def put_moment(self, moment: Horizon, rows: BlockRows, last: bool) -> None:
        """Keep blocks of an earlier pinned moment."""

    async def finish(self) -> None:
        """That was all: prove it, and make it the copy's state. Refused: it does not sum up."""


class BaseStore:
    """The base of a copy that is not whole yet; one that is ``seeded`` may hold what has to become zeroes."""

    def __init__(self, volume: BaseTarget, seeded: bool) -> None:
        self._volume = volume
        self.zeroes = seeded

    async def put(self, rows: BlockRows, next_block: int) -> None:
        await self._volume.put_base(rows.blocks, rows.digests, rows.payload, next_block)

    async def put_moment(self, moment: Horizon, rows: BlockRows, last: bool) -> None:
        await self._volume.put_moment(moment, rows.blocks, rows.digests, rows.payload, last)

    async def finish(self) -> None:
        await self._volume.finish_base()


class DifferenceStore:
    """A difference, beside the state of a whole copy. ``flip`` makes it the copy's state."""

    zeroes = True

    def __init__(self, volume: DifferenceTarget, flip: Callable[[], Awaitable[None]]) -> None:
        self._volume = volume
        self._flip = flip

    async def put(self, rows: BlockRows, next_block: int) -> None:
        await self._volume.put_jump(rows.blocks, rows.digests, rows.payload, next_block)

    async def put_moment(self, moment: Horizon, rows: BlockRows, last: bool) -> None:
        raise AssertionError("no such frame is expected")

    async def finish(self) -> None:
        await self._flip()


def jump_target(start: BaseStart, since: int) -> JumpTarget:
    """What the source says of the point to which a copy jumps, as the storage takes it. Openings that began behind
    the point are none of the copy's yet."""
    point, epochs = point_of(start), [e for e in start.epochs if e.position < start.end.position]
    return JumpTarget(
        point=point,
        epochs=tuple(Epoch(e.number, e.reign, e.position, e.write) for e in epochs),
        snapshots=tuple(PinnedSnapshot(n.name, n.write, n.point, n.time_ns) for n in start.names),
        names_position=start.names_position,
        members=start.members,
        since=since,
    )
