"""A source whose mirror is away, beside a model; and the difference between two of its points, read and judged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from revolume.blocks import root as roots
from revolume.chain.point import Point
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.mirror.source.changed_reader import ChangedBlocks, open_difference
from revolume.mirror.source.point_reader import open_point
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.open.options import OpenOptions

from .driver import BLOCK, SEGMENT, SMALL, Driver, abandon
from .store import inline_host, payload

MEMORY = Path("/dev/shm")
BLOCKS = 200
TIGHT = replace(SMALL, budget_bytes=20 * SEGMENT, spare_bytes=2 * SEGMENT, keep_s=0.0)
AMPLE = replace(TIGHT, budget_bytes=80 * SEGMENT)
"""What is kept for a mirror is never in the way of a writer."""


class Source(Driver):
    """A driver whose volume has an async mirror ``m``, a copy that has joined."""

    def __init__(self, path: Path, blocks: int = BLOCKS, options: OpenOptions = TIGHT) -> None:
        super().__init__(inline_host(), path / "v", blocks * BLOCK, options)

    async def begin(self) -> None:
        await self.open()
        await self.join("m")

    @property
    def mirror(self) -> Mirror:
        return self.volume.mirrors.get("m")

    async def join(self, name: str, mode: MirrorMode = MirrorMode.ASYNC) -> Mirror:
        """A copy joins as a mirror of this name."""
        mirrors = self.volume.mirrors
        mirror = await mirrors.register(name, mode)
        await mirrors.pin_base(mirror)
        await mirrors.based(mirror)
        await mirrors.joined(mirror, b"n" * 16)
        await self.volume.tasks.settled()  # it is in the log as a member, with the point where it stands
        return mirror

    async def write(self, block: int, seed: int, count: int = 1) -> None:
        for at in range(count):
            await self.change([(OP_WRITE, (block + at) * BLOCK, payload(seed + 1000 * at, BLOCK))])

    async def churn(self, changes: int, seed: int) -> None:
        """Changes of every kind."""
        chance = random.Random(seed)
        for _ in range(changes):
            kind = chance.choice((OP_WRITE, OP_WRITE, OP_WRITE, OP_ZERO, OP_TRIM))
            count = chance.randrange(1, 9)
            at = chance.randrange(self.model.size // BLOCK - count) * BLOCK + chance.choice((0, 0, 512))
            length = count * BLOCK - chance.choice((512, 512, 1024)) * (at % BLOCK > 0 or chance.random() < 0.3)
            await self.change(
                [(kind, at, payload(chance.randrange(1 << 30), length) if kind == OP_WRITE else length)]
            )
            if chance.random() < 0.04:
                await self.volume.cut()

    def folds_by_order(self) -> None:
        """From now on the volume folds when a test says so or a writer needs room, not by itself."""
        by_itself = self.volume.folder.step

        async def step(pressed: bool = False) -> bool:
            return pressed and await by_itself(pressed)

        vars(self.volume.folder)["step"] = step

    async def folded(self) -> None:
        """No fold is under way."""
        while self.volume.folder.folding:
            await asyncio.sleep(0.01)

    async def fold_all(self) -> None:
        await self.volume.cut()
        while await self.fold():
            pass

    async def agreed_on(self, point: Point) -> None:
        """The copy says that it stands at a point."""
        at = point.position + 1
        self.volume.mirrors.connected(self.mirror, Positions(at, at, point.number, at))
        await self.volume.mirrors.advance_hold(self.mirror)
        await self.volume.tasks.settled()

    async def overwrite(self, times: float, seed: int) -> None:
        """So many times the log's budget."""
        begun, written = self.volume.log.appender.address, times * self.options.budget_bytes
        while (self.volume.log.appender.address - begun) * BLOCK < written:
            await self.churn(50, seed)
            seed += 1

    def really(self, since: Point, upto: Point) -> set[int]:
        """The blocks whose content differs, by the model."""
        before, after = self.model.moments[since.write][1], self.model.moments[upto.write][1]
        zero = bytes(BLOCK)
        return {b for b in before.keys() | after.keys() if before.get(b, zero) != after.get(b, zero)}


async def rows_of(reader: ChangedBlocks, count: int = 16) -> dict[int, tuple[int, bytes]]:
    """Everything, in one ascending pass."""
    found: dict[int, tuple[int, bytes]] = {}
    first = 0
    while True:
        blocks, digests, behind = await reader.next_rows(first, count)
        if not len(blocks):
            return found
        assert blocks[0] >= first and (np.diff(blocks.astype(np.int64)) > 0).all() and behind > blocks[-1]
        held = digests != 0
        content = iter(np.frombuffer(await reader.read(blocks[held]), np.uint8).reshape(-1, BLOCK))
        for block, digest in zip(blocks.tolist(), digests.tolist(), strict=True):
            found[block] = digest, next(content).tobytes() if digest else bytes(BLOCK)
        first = behind


@asynccontextmanager
async def difference(driver: Driver, since: Point, upto: Point) -> AsyncIterator[ChangedBlocks]:
    reader = await open_difference(driver.volume, since, upto)
    try:
        yield reader
    finally:
        reader.close()


async def check_difference(driver: Source, since: Point, upto: Point, rows: dict[int, tuple[int, bytes]]) -> None:
    """No block is missing, each is as of the later point, and the roots say the same."""
    assert driver.really(since, upto) <= rows.keys()
    zero, after = bytes(BLOCK), driver.model.moments[upto.write][1]
    assert all(content == after.get(block, zero) for block, (_, content) in rows.items())
    before = await open_point(driver.volume, since)
    blocks = np.array(sorted(rows), np.uint64)
    root = roots.subtract(since.root, blocks, await before.digests(blocks))
    before.close()
    assert roots.add(root, blocks, np.array([rows[int(b)][0] for b in blocks], np.uint64)) == upto.root


def play(
    scenario: Callable[[Source], Awaitable[None]],
    place: Path,
    blocks: int = BLOCKS,
    options: OpenOptions = TIGHT,
) -> None:
    async def run() -> None:
        driver = Source(place, blocks, options)
        await driver.begin()
        try:
            await scenario(driver)
        finally:
            await abandon(driver.volume)

    asyncio.run(run())
