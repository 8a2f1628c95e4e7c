"""A volume whose mirror was promoted while the old primary went on alone: two copies that have a point in common,
and each something of its own. The old primary is made a mirror's copy, and takes back what it wrote alone."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from revolume.chain.point import Point
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.volume.branches.common_point import CommonPoint
from revolume.volume.metadata.manifest_state import Branch
from revolume.volume.open.demote import demote_directory
from revolume.volume.open.open import open_secondary, open_volume
from revolume.volume.open.rewind import rewind
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary
from revolume.volume.volume_base import OpenVolume

from .driver import BLOCK, Driver, Model, abandon, append, assert_equal
from .mirrored import THERE, Mirrored, carried
from .store import payload

NAME = "alone"


class Diverged(Mirrored):
    """``common``: the newest point that both have. ``new``: the promoted mirror, ``newer`` what it must hold. The
    driver's own volume is the old primary, its model what that one must hold; ``copy`` is what becomes of it."""

    seed = 0
    common: Point
    new: Volume
    newer: Model
    copy: Secondary

    async def stand(self) -> None:
        """A volume with content and a mirror that has all of it."""
        await self.open()
        for block in range(0, 48, 8):
            await self.change([(OP_WRITE, block * BLOCK, payload(block, 8 * BLOCK))])
        await self.cut()
        await self.begin()
        await self.send_base()
        await self.write(3, 50)
        await self.cut()
        await self.ship()
        await self.settle()
        await self.acknowledge()

    async def cut(self) -> Point:
        made = await self.volume.point_maker.cut()
        assert made is not None
        return made

    async def write(self, *blocks: int) -> None:
        for block in blocks:
            self.seed += 1
            await self.change([(OP_WRITE, block * BLOCK, payload(1000 + self.seed, BLOCK))])

    async def part(self) -> None:
        """The common point, and the mirror promoted there."""
        await self.write(7, 51)
        self.common = await self.cut()
        await self.ship()
        await self.settle()
        assert self.secondary is not None
        assert self.secondary.agreed.number == self.common.number
        await self.secondary.make_durable(self.secondary.received)
        await self.acknowledge()
        await self.secondary.close()
        self.new = await open_volume(self.host, str(self.there), replace(THERE, promote=True))
        self.newer = Model(self.model.size, dict(self.model.blocks))

    async def alone(self, writes: int = 40, points: int = 3) -> None:
        """What the old primary writes: whole blocks and parts of them, zeroes, trims, several points."""
        chance = random.Random(self.seed + writes)
        size = self.model.size
        for number in range(writes):
            at = chance.randrange(size // 512) * 512
            length = min(size - at, chance.choice([512, 1024, BLOCK, 3 * BLOCK, BLOCK + 512]))
            kind = chance.choice([OP_WRITE, OP_WRITE, OP_WRITE, OP_ZERO, OP_TRIM])
            what = payload(chance.randrange(1 << 30), length) if kind == OP_WRITE else length
            await self.change([(kind, at, what)])
            if number % (writes // points + 1) == writes // points:
                await self.cut()

    async def newer_writes(self, *blocks: int) -> None:
        """The promoted one is written to."""
        for block in blocks:
            self.seed += 1
            data = payload(5000 + self.seed, BLOCK)
            await append(self.new, [(OP_WRITE, block * BLOCK, BLOCK, memoryview(data))])
            self.newer.write(block * BLOCK, data)

    async def demoted(self, crashed: bool = False) -> None:
        """The old primary is stopped, and becomes a mirror's copy."""
        await (abandon(self.volume) if crashed else self.volume.close())
        await demote_directory(self.host, str(self.path), self.options)

    def common_point(self) -> CommonPoint:
        return CommonPoint(self.common.number, self.common.position, self.common.chain)

    async def rewound(self, name: str = NAME) -> Branch | None:
        return await rewind(self.host, str(self.path), self.options, self.common_point(), name)

    async def open_copy(self) -> Secondary:
        self.copy = await open_secondary(self.host, str(self.path), self.options)
        return self.copy

    async def follow(self) -> None:
        """The copy takes the promoted one's log, and agrees to its newest point."""
        point = await self.new.point_maker.cut()
        assert point is not None
        there, feed = self.copy, self.new.feed
        while there.end.position < feed.end:
            for shipment in await feed.older(there.end.position, 1 << 20):
                arrived = [carried(shipment)]
                await asyncio.wait_for(there.room(there.need(arrived)), 60)
                there.keep(arrived)
        for _ in range(2000):
            if there.failure is not None:
                raise there.failure
            if not len(there.records):
                break
            await asyncio.sleep(0.005)
        assert (there.agreed.number, there.agreed.root) == (point.number, point.root)
        assert_equal(await self.seen(there, there.agreed.write), self.content(self.newer), "the copy")
        openings = [
            [(epoch.number, epoch.reign, epoch.position) for epoch in volume.manifest.state.epochs]
            for volume in (there, self.new)
        ]
        assert openings[0] == openings[1]

    async def seen(self, volume: OpenVolume, write: int, branch: str = "", within: str = "") -> bytes:
        asked = ResolvedMoment(write, 0, branch=branch, branch_moment=within)  # type: ignore[arg-type]
        view = await open_view(volume, asked, "test")
        try:
            buffer = bytearray(view.size)
            await view.reader.read(0, memoryview(buffer))
            return bytes(buffer)
        finally:
            view.close()

    @staticmethod
    def content(model: Model) -> bytes:
        return bytes(Model.content(model.size, model.blocks))

    def at(self, write: int) -> bytes:
        size, blocks = self.model.moments[write]
        return bytes(Model.content(size, blocks))

    async def check_branch(self, volume: OpenVolume, name: str = NAME) -> None:
        """The branch is what the old primary held at its end, and the common point is what it was."""
        write = self.common.write
        assert_equal(await self.seen(volume, write, name), self.content(self.model), "the branch")
        assert_equal(await self.seen(volume, write), self.at(write), "the common point")
        (branch,) = (each for each in volume.manifest.state.branches if each.name == name)
        for moment in branch.moments:
            seen = await self.seen(volume, write, name, moment.name)
            assert_equal(seen, self.at(moment.write), f"moment {moment.name} of the branch")


__all__ = ["NAME", "Diverged", "Driver"]
