"""Drives a real volume on real files beside a model of what it must hold at every write number."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from revolume.history.exports import VolumeExports
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host import Host
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.volume.metadata.rung import Rung
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions
from revolume.volume.primary import Volume
from revolume.volume.volume_base import OpenVolume

BLOCK = 4096
SEGMENT = 64 << 10

SMALL = OpenOptions(
    cp_interval_s=3600, keep_s=3600, budget_bytes=1 << 30, map_memory_bytes=16 << 20, segment_bytes=SEGMENT,
    spare_bytes=4 * SEGMENT, reserve_bytes=0, rung_versions=16,
)  # fmt: skip


@dataclass
class Model:
    """Blocks by number, absent = zeroes; ``moments``: the state after every write number."""

    size: int
    blocks: dict[int, bytes] = field(default_factory=dict)
    moments: dict[int, tuple[int, dict[int, bytes]]] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            block, inside = divmod(offset + at, BLOCK)
            piece = data[at : at + BLOCK - inside]
            old = bytearray(self.blocks.get(block, bytes(BLOCK)))
            old[inside : inside + len(piece)] = piece
            self.blocks[block] = bytes(old)
            at += len(piece)

    def zero(self, offset: int, length: int) -> None:
        first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
        for block in [b for b in self.blocks if first <= b < end]:
            begin = max(offset, block * BLOCK)
            stop = min(offset + length, (block + 1) * BLOCK)
            self.write(begin, bytes(stop - begin))

    def seal(self, number: int) -> None:
        self.moments[number] = (self.size, dict(self.blocks))

    def roll_back(self, write: int) -> None:
        """What came behind this write number never was."""
        self.moments = {number: state for number, state in self.moments.items() if number <= write}
        self.size, blocks = self.moments[max(self.moments)]
        self.blocks = dict(blocks)

    @staticmethod
    def content(size: int, blocks: dict[int, bytes]) -> bytearray:
        whole = bytearray(-(-size // BLOCK) * BLOCK)
        for block, data in blocks.items():
            whole[block * BLOCK : (block + 1) * BLOCK] = data
        return whole[:size]


class Driver:
    """One volume under test. Every operation changes volume and model alike."""

    def __init__(self, host: Host, path: Path, size: int, options: OpenOptions = SMALL) -> None:
        self.host = host
        self.path = path
        self.options = options
        self.model = Model(size)
        self.volume: Volume

    async def open(self) -> None:
        from dataclasses import replace

        first = not self.path.exists()
        options = replace(self.options, size=self.model.size) if first else self.options
        self.volume = await open_volume(self.host, str(self.path), options)
        if first:
            self.model.seal(self.volume.write)

    async def append(self, ops: list[Op]) -> None:
        await append(self.volume, ops)

    async def change(self, changes: list[tuple[int, int, bytes | int]]) -> None:
        """(kind, offset, payload or length): one batch, one write number each."""
        ops: list[Op] = []
        for kind, offset, what in changes:
            if isinstance(what, bytes):
                ops.append((kind, offset, len(what), memoryview(what)))
            else:
                ops.append((kind, offset, what, None))
        await self.append(ops)
        first = self.volume.write - len(ops) + 1
        for number, (kind, offset, what) in enumerate(changes, first):
            if kind == OP_WRITE:
                assert isinstance(what, bytes)
                self.model.write(offset, what)
            else:
                assert kind in (OP_ZERO, OP_TRIM) and isinstance(what, int)
                self.model.zero(offset, what)
            self.model.seal(number)

    async def grow(self, size: int) -> None:
        await self.volume.grow(size)
        self.model.size = size
        self.model.seal(self.volume.write)

    async def reopen(self) -> None:
        await self.volume.close()
        await self.open()

    async def crash(self) -> None:
        """As after kill -9: nothing is written any more, files are just let go."""
        await abandon(self.volume)
        await self.open()
        self.model.seal(self.volume.write)  # numbering resumes above what was reserved

    async def fold(self) -> bool:
        return await self.volume.folder.step(True)

    async def read_all(self, volume_size: int | None = None) -> bytes:
        size = volume_size or self.volume.size
        buffer = bytearray(size)
        if self.volume.read_now([(0, memoryview(buffer))]):
            await self.volume.read(0, memoryview(buffer))
        return bytes(buffer)

    async def check_live(self) -> None:
        want = Model.content(self.model.size, self.model.blocks)
        assert self.volume.size == self.model.size
        assert_equal(await self.read_all(), want, "live")

    async def check_moment(self, number: int) -> None:
        size, blocks = self.model.moments[number]
        view = await open_view(self.volume, ResolvedMoment(number, 0), "test")
        try:
            assert view.size == size, f"w{number}: size"
            buffer = bytearray(size)
            await view.reader.read(0, memoryview(buffer))
            assert_equal(buffer, Model.content(size, blocks), f"w{number}")
        finally:
            view.close()

    async def check_moments(self, at_most: int = 1000) -> None:
        exports = VolumeExports(self.volume, self.volume)
        oldest = exports.resolver.oldest.write
        numbers = [n for n in sorted(self.model.moments) if n >= oldest]
        assert numbers, "nothing is retained"
        step = max(1, len(numbers) // at_most)
        for number in sorted({*numbers[::step], numbers[-1]}):
            await self.check_moment(number)


async def climb(volume: OpenVolume) -> tuple[Rung, ...]:
    """Make every rung that can be made."""
    while await volume.ladder.step() or volume.ladder._not_before_ns:
        volume.ladder._not_before_ns = 0  # one that can't be made is not tried again at once
    return volume.rungs.usable()


async def append(volume: Volume, ops: list[Op]) -> None:
    while True:
        try:
            volume.append(ops)
            return
        except WouldBlock:
            await asyncio.wait_for(volume.room(ops), 60)


def assert_equal(have: bytes | bytearray, want: bytes | bytearray, what: str) -> None:
    if have == want:
        return
    for block in range(0, len(want), BLOCK):
        if have[block : block + BLOCK] != want[block : block + BLOCK]:
            zero = not any(have[block : block + BLOCK])
            raise AssertionError(f"{what}: block {block // BLOCK} differs{' (reads as zero)' if zero else ''}")
    raise AssertionError(f"{what}: length {len(have)} != {len(want)}")


async def abandon(volume: Volume) -> None:
    """Let go of a volume as kill -9 would: no last point, no sync, no manifest edit."""
    volume._closing = True
    for task in volume.upkeep.tasks:
        task.cancel()
    await asyncio.gather(*volume.upkeep.tasks, return_exceptions=True)
    volume.log.pool._stopping = True
    await volume.log.pool.stop()
    await volume.tasks.settled()
    await volume.log.commit.wait_idle()
    await volume.log.footers.written()
    volume.close_files()
