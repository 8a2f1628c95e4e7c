"""A volume under test whose mirror goes on by a jump: what changed between two points is carried over by hand, as
a link would bring it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from revolume.blocks.digest import digest_array
from revolume.chain.point import Point
from revolume.log.write.operations import OP_WRITE
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.volume.metadata.manifest_state import JumpTarget
from revolume.volume.open.options import OpenOptions
from revolume.volume.secondary import Secondary
from tests.support.divergence import plant_in_image

from .driver import BLOCK, assert_equal
from .mirrored import THERE, Mirrored
from .store import payload

ROWS = 8


class Jumper(Mirrored):
    """``common`` is the point from which the next jump goes."""

    seed = 0

    async def stand(self, there: OpenOptions | None = None) -> None:
        """A volume with content, and a mirror that has all of it."""
        await self.open()
        for block in range(0, 64, 8):
            await self.change([(OP_WRITE, block * BLOCK, payload(block, 8 * BLOCK))])
        await self.cut()
        await self.begin(there)
        await self.send_base()
        await self.catch_up()

    async def write(self, *blocks: int) -> None:
        for block in blocks:
            self.seed += 1
            await self.change([(OP_WRITE, block * BLOCK, payload(1000 + self.seed, BLOCK))])

    async def cut(self) -> Point:
        made = await self.volume.point_maker.cut()
        assert made is not None
        return made

    async def catch_up(self) -> None:
        await self.ship()
        await self.settle()

    @property
    def copy(self) -> Secondary:
        assert self.secondary is not None
        return self.secondary

    async def diverge(self, *blocks: int) -> None:
        """These blocks of the copy have another content, and say that they should."""
        write = self.copy.agreed.write
        await self.copy.close()
        contents = {block: payload(5000 + block, BLOCK) for block in blocks}
        await asyncio.to_thread(plant_in_image, self.there, contents)
        await self.reopen_mirror()
        assert self.copy.agreed.write == write and not self.copy.differs_since

    # The jump

    def target(self, point: Point, since: int | None = None) -> JumpTarget:
        """As a source says it."""
        state = self.volume.manifest.state
        horizon = replace(
            state.horizon, point=point.number, write=point.write, position=point.position, time_ns=point.time_ns,
            size=self.volume.sizes.at(point.write), root_low=point.root[0], root_high=point.root[1],
            chain=point.chain, address=0, pages_generation=0,
        )  # fmt: skip
        epochs = tuple(e for e in state.epochs if e.position < point.position)
        number = self.copy.agreed.number if since is None else since
        return JumpTarget(horizon, epochs, state.snapshots, self.volume.feed.end, state.members, number)

    def changed(self, before: int, after: int) -> dict[int, bytes]:
        """What a block has at the later write, of those that differ."""
        (_, old), (_, new) = self.model.moments[before], self.model.moments[after]
        zero = bytes(BLOCK)
        blocks = sorted(old.keys() | new.keys())
        return {b: new.get(b, zero) for b in blocks if old.get(b, zero) != new.get(b, zero)}

    async def send(
        self, point: Point, stop_at: int | None = None, spoil: int | None = None, also: Iterable[int] = ()
    ) -> None:
        """Everything from where the copy says; ``stop_at``: the link breaks before that block. Of block ``spoil``
        other content comes, with its digest. ``also``: blocks that come although they have not changed."""
        there = self.copy
        assert there.jump is not None
        changed = self.changed(there.agreed.write, point.write)
        if spoil is not None:
            changed[spoil] = payload(spoil, BLOCK)
        _, now = self.model.moments[point.write]
        changed = dict(sorted({**changed, **{b: now.get(b, bytes(BLOCK)) for b in also}}.items()))
        end = -(-there.jump.target.point.size // BLOCK)
        blocks = [b for b in changed if b >= there.jump.next_block]
        for at in range(0, len(blocks), ROWS):
            chunk = blocks[at : at + ROWS]
            if stop_at is not None and chunk[-1] >= stop_at:
                return
            await self.put(chunk, [changed[b] for b in chunk], chunk[-1] + 1)
        await there.put_jump(np.zeros(0, np.uint64), np.zeros(0, np.uint64), b"", end)

    async def put(self, blocks: list[int], contents: list[bytes], next_block: int) -> None:
        content = b"".join(each for each in contents if any(each))
        found = iter(digest_array(memoryview(content), len(content) // BLOCK).tolist())
        digests = [next(found) if any(each) else 0 for each in contents]
        await self.copy.put_jump(np.array(blocks, np.uint64), np.array(digests, np.uint64), content, next_block)

    async def jump(self, point: Point) -> None:
        """All of it, without anything in between."""
        await self.copy.begin_jump(self.target(point))
        await self.send(point)
        await self.finish()

    async def finish(self) -> None:
        """As a target does it."""
        shelf = RealCopyDirectory(self.host, str(self.there), THERE, self.secondary)
        try:
            await shelf.finish_jump()
        finally:
            self.secondary = shelf.secondary
        self._set_up()

    # What must hold

    async def check_copy(self, write: int) -> None:
        """The copy's newest moment is that write's, by bytes."""
        there = self.copy
        assert there.agreed.write == write
        await self.check_mirror_moment(write)

    async def check_at(self, point: Point) -> None:
        there = self.copy
        assert (there.agreed.number, there.agreed.root) == (point.number, point.root)
        await self.check_copy(point.write)

    def equal(self, have: bytes, write: int) -> None:
        size, blocks = self.model.moments[write]
        assert_equal(have, self.model.content(size, blocks), f"w{write}")
