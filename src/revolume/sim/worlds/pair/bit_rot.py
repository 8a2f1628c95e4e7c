"""Bits that rot at one of the two machines while the other is whole: all of it is healed, and nobody notices.

A block rots only if the other machine has it, with the same digest, at that moment, and nothing else rots before
all of it is right again. Then reads must bring what was written, with no error, as soon as the other machine can
be asked: a mirror whose log is full receives no answers until a fold has made room (decision 0044). The bytes must
be right in memory and on the disk afterwards, synced; and nothing may be healed that was not damaged, by rot or by
a fold that has moved it: that would be damage which a heal has made."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from dataclasses import dataclass

import numpy as np

from revolume.blocks.block_location import ADDRESS_MASK, DATA, KIND_SHIFT, RESCUED
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.errors import RevolumeError
from revolume.log.format.segment import segment_name
from revolume.mirror.healing import LinkSibling
from revolume.sim.kernel.machine import Ended, Machine
from revolume.sim.kernel.simulated_fs import Folder, Inode
from revolume.sim.worlds.pair.state import PairState
from revolume.volume.heal.damaged_block import IMAGE, DamagedBlock, damaged_at
from revolume.volume.heal.siblings import Wanted
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary

Side = Volume | Secondary
TAKEN_MAX = 12
LINKED_S = 15.0
HEALED_S = 60.0


@dataclass(frozen=True, slots=True)
class _Rotten:
    """A block that has rotted: its place, the file that is, where in it, and what was there."""

    place: DamagedBlock
    file: Inode
    offset: int
    content: bytes


class BitRot:
    """Lets blocks of either side rot, and looks whether they are healed."""

    def __init__(self, pair: PairState) -> None:
        self.pair = pair
        self.world = pair.world
        self.chance = pair.world.chance.stream("rot")
        self.healed: weakref.WeakKeyDictionary[Side, int] = weakref.WeakKeyDictionary()
        """How much may have been healed of each, since it was opened."""

    # Operations

    async def op_rot(self) -> None:
        """Some blocks of one side rot, and are read, as clients, views, folds and whoever looks at everything
        do."""
        with contextlib.suppress(Ended):
            await self._rot(oldest=False)

    async def op_rot_oldest(self) -> None:
        """Blocks of the oldest segment rot, and are healed while it is being recycled."""
        with contextlib.suppress(Ended):
            await self._rot(oldest=True)

    async def _rot(self, oldest: bool) -> None:
        sides = await self._joined()
        if sides is None:
            return
        (machine, side), (other_machine, other) = sides
        rotten = await self._drawn(machine, side, other_machine, other, oldest)
        for each in rotten:
            self._spoil(machine, each)
        if not rotten:
            return
        self.healed[side] = self.healed.get(side, 0) + len(rotten)
        if oldest:  # the answer comes when the segment has gone round
            self.world.orders.busy()
            self._slow_link(self.chance.choice((0.0002, 0.3, 1.0)))
        left = await machine.run(self._meet(side, [each.place for each in rotten], oldest))
        self._slow_link(0.0002)
        await self._all_right(side, rotten, HEALED_S if left else 0.0)

    def _slow_link(self, latency_s: float) -> None:
        for source, target in (("a", "b"), ("b", "a")):
            self.world.fabric.path(source, target).latency_s = latency_s

    async def _joined(self) -> tuple[tuple[Machine, Side], tuple[Machine, Side]] | None:
        """The two, once the network between them is whole and they have heard each other."""
        await self.pair.heal()
        deadline = self.world.loop.time() + LINKED_S
        while self.pair.primary is not None and self.world.loop.time() < deadline:
            if await self.pair.caught_up() and (sides := self._sides()) is not None:
                return sides
            await asyncio.sleep(0.05)
        return None

    def _sides(self) -> tuple[tuple[Machine, Side], tuple[Machine, Side]] | None:
        """The one that rots, and the other one, which is whole; None: they can't heal each other now."""
        pair, there = self.pair, self.pair.there
        if pair.primary is None or there is None or there.base is not None or there.jump is not None:
            return None
        here = pair.primary.volume
        if not here.healing.siblings or not there.healing.siblings or pair.is_broken(pair.second):
            return None
        sides: list[tuple[Machine, Side]] = [(pair.first, here), (pair.second, there)]
        self.chance.shuffle(sides)
        return sides[0], sides[1]

    # What rots

    async def _drawn(
        self, machine: Machine, side: Side, other_machine: Machine, other: Side, oldest: bool
    ) -> list[_Rotten]:
        places = self._oldest(side) if oldest else self._live(side) + self._logged(side)
        self.chance.shuffle(places)
        wanted = [Wanted(each.block, each.digest) for each in places[: 4 * TAKEN_MAX]]
        if not wanted:
            return []
        known = await other_machine.run(other.healing.finder.find(wanted))
        rotten = [self._rotten(machine, side, each, known) for each in places[: 4 * TAKEN_MAX]]
        found = {(each.file.number, each.offset): each for each in rotten if each is not None}
        return list(found.values())[: self.chance.choice((1, 3, TAKEN_MAX))]

    def _live(self, side: Side) -> list[DamagedBlock]:
        """The newest versions of some blocks."""
        blocks = np.array(sorted({self.chance.randrange(side.size // BLOCK) for _ in range(48)}), np.uint64)
        words, digests = side.live.lookup(blocks)
        side.live.settle(blocks, words, digests, False)
        rows = zip(blocks.tolist(), words.tolist(), digests.tolist(), strict=True)
        return [place for row in rows if (place := damaged_at(row[0], row[1], row[2])) is not None]

    def _logged(self, side: Side) -> list[DamagedBlock]:
        """Versions, older ones too, out of the segment that is being written."""
        appender = side.log.appender
        return self._versions(appender.columns.freeze()) if appender.segment is not None else []

    def _oldest(self, side: Side) -> list[DamagedBlock]:
        """Live versions that lie in the oldest segments."""
        places = [each for each in self._live(side) + self._live(side) if each.in_log]
        return sorted(set(places), key=lambda each: each.address)[: 2 * TAKEN_MAX]

    @staticmethod
    def _versions(columns: object) -> list[DamagedBlock]:
        versions = columns.versions()  # type: ignore[attr-defined]
        rows = zip(versions.blocks.tolist(), versions.words.tolist(), versions.digests.tolist(), strict=True)
        return [
            DamagedBlock(block, digest, DATA, word & ADDRESS_MASK)
            for block, word, digest in rows
            if word >> KIND_SHIFT == DATA
        ]

    def _rotten(
        self, machine: Machine, side: Side, place: DamagedBlock, known: dict[tuple[int, int], bytes]
    ) -> _Rotten | None:
        """The place in a file, if it holds what it should, and the other side has it too."""
        content = known.get(place.key)
        if content is None or (place.kind == DATA and place.address >= RESCUED):
            return None
        if place.kind == IMAGE:
            file, offset = self._file(machine, "image"), place.block * BLOCK
        else:
            segment = side.log.pool.by_use.get(place.address // side.log.pool.segment_blocks)
            if segment is None:
                return None
            file = self._file(machine, segment_name(segment.index), "log")
            offset = (Address(place.address) - segment.base) * BLOCK
        right = file is not None and file.in_memory[offset : offset + BLOCK] == content
        return _Rotten(place, file, offset, content) if file is not None and right else None

    @staticmethod
    def _file(machine: Machine, name: str, folder: str = "") -> Inode | None:
        at = machine.platter.root.memory["vol"]
        assert isinstance(at, Folder)
        if folder:
            at = at.memory[folder]
            assert isinstance(at, Folder)
        found = at.memory.get(name)
        return found if isinstance(found, Inode) else None

    def _spoil(self, machine: Machine, rotten: _Rotten) -> None:
        """In memory and on the disk, wherever the block has come to."""
        for _ in range(self.chance.choice((1, 3, 40))):
            at, bit = rotten.offset + self.chance.randrange(BLOCK), 1 << self.chance.randrange(8)
            rotten.file.memory[at] ^= bit
            if at < len(rotten.file.on_disk):
                rotten.file.disk[at] ^= bit
        if rotten.file.in_memory[rotten.offset : rotten.offset + BLOCK] == rotten.content:
            rotten.file.memory[rotten.offset] ^= 1  # two flips of one bit are none
        machine.faults.happened()

    # Who meets it

    async def _meet(self, side: Side, places: list[DamagedBlock], oldest: bool) -> list[DamagedBlock]:
        """Readers first, or folds; then whoever looks at everything. What could not be healed, because of a lost
        link; the rest is right, and durable."""
        folding = None
        if oldest or self.chance.hit(0.4):
            folding = asyncio.ensure_future(self._fold(side))
        if not oldest and self.chance.hit(0.6):
            await self._read(side, places)
        left = await side.healer.heal(places)
        if folding is not None:
            await folding
        return left

    async def _fold(self, side: Side) -> None:
        for _ in range(8):
            await side.folder.step(True)
            await asyncio.sleep(0.3)

    async def _read(self, side: Side, places: list[DamagedBlock]) -> None:
        for place in places:
            if (error := await self._read_error(side, place)) is not None:
                self.world.say(f"block {place.block} has rotted while the other side has it: {error}")

    async def _read_error(self, side: Side, place: DamagedBlock) -> RevolumeError | None:
        """None once a read brings the block. One that fails while the other side can't be asked is repeated, for
        ``HEALED_S`` at most."""
        deadline = self.world.loop.time() + HEALED_S
        while True:
            could_ask = self._can_ask(side)
            try:
                length = min(BLOCK, side.size - place.block * BLOCK)
                await side.reader.read(place.block * BLOCK, memoryview(bytearray(length)))
                return None
            except RevolumeError as error:
                if (could_ask and self._can_ask(side)) or self.world.loop.time() > deadline:
                    return error
            await asyncio.sleep(0.05)

    @staticmethod
    def _can_ask(side: Side) -> bool:
        """Whether an answer of the other side would be received now."""
        attached = side.healing.siblings.attached()
        return any(isinstance(each, LinkSibling) and each.can_answer for each in attached)

    async def _all_right(self, side: Side, rotten: list[_Rotten], patience_s: float) -> None:
        """What is still in use is right again, on the disk too."""
        deadline = self.world.loop.time() + patience_s
        while wrong := [each for each in rotten if not self._is_right(side, each)]:
            if self.world.loop.time() > deadline or not self._runs(side):
                break
            await asyncio.sleep(0.1)
        if wrong and self._runs(side):
            first = wrong[0].place
            self.world.say(
                f"{len(wrong)} of {len(rotten)} blocks that have rotted are not right again, the first is block "
                f"{first.block} in the {first.place}" + self.world.state()
            )
        damaged = (
            self.healed[side] + side.healer.moved_blocks
        )  # what a fold has moved may be healed at both places
        if side.healer.healed_blocks > damaged:
            self.world.say(f"{side.healer.healed_blocks} blocks were healed, {damaged} were damaged")

    def _runs(self, side: Side) -> bool:
        return self.pair.there is side or (self.pair.primary is not None and self.pair.primary.volume is side)

    @staticmethod
    def _is_right(side: Side, each: _Rotten) -> bool:
        """Or it is not needed there any more."""
        place = each.place
        if place.in_log:
            if place.address // side.log.pool.segment_blocks not in side.log.pool.by_use:
                return True
        else:
            stated = side.image.digests.get(np.array([place.block], np.uint64), False)
            if stated is None or int(stated[0]) != place.digest:
                return True
        memory, disk = (
            content[each.offset : each.offset + BLOCK] for content in (each.file.in_memory, each.file.on_disk)
        )
        return memory == each.content and disk == each.content
