"""Storage for a mirror's two ends, small and real: transfers with true checksums, payloads in a real file, and a
target that verifies what it keeps. Each end of a link is driven against it alone."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from revolume.blocks.digest import block_digests, fragment_digest
from revolume.chain.point import Point, References, Totals, pack_part
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.host.disk import Buffer
from revolume.host.real_disk import RealDisk
from revolume.log.carried import Carried, Shipment
from revolume.log.ops import NoRoomNow
from revolume.log.transfer import BLOCK, Flag, Kind, pack_proper, unpack_proper
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.messages import Named, Need, Opening, Room, Start
from revolume.volume.end import End

VOLUME = bytes(range(16))
REIGN = b"r" * 16
U64 = np.ndarray


@dataclass(frozen=True)
class Kept:
    """A transfer as a log holds it."""

    proper: bytes
    payload: bytes
    end: End
    offset: int


class Log:
    """A log of whole transfers in one file; also its own feed."""

    def __init__(self, folder: Path, name: str = "log", first: int = 0, start: End | None = None) -> None:
        self.file = RealDisk().open(str(folder)).open(name, create=True)
        self.start = start or End(first, 0, bytes(16), bytes(16), 0, 0)
        self.kept: list[Kept] = []
        self.reign, self.epoch = REIGN, 1
        self.in_memory = 1 << 30  # transfers that ``recent`` answers for
        self.oldest = self.start.position
        self.asked_older = 0
        self._size = 0
        self._listeners: list[tuple[Callable[[], None], Callable[[int, bytes, Sequence[Buffer]], None]]] = []

    # Growing

    def write(self, offset: int, data: bytes) -> int:
        """One client write, whole blocks."""
        return self.writes([(offset, data)])

    def writes(self, writes: list[tuple[int, bytes]], fragment: bytes = b"") -> int:
        payload = b"".join(data for _, data in writes)
        digests = block_digests(memoryview(payload), len(payload) // BLOCK)
        offsets = [offset for offset, _ in writes]
        lengths = [len(data) | 1 << 56 for _, data in writes]
        if fragment:
            offsets.append(100)
            lengths.append(len(fragment) | 1 << 56)
            digests.append(fragment_digest(fragment))
        return self._append(Kind.WRITES, offsets, lengths, digests, payload + fragment, len(fragment))

    def point(self, number: int, referenced: int, named: int | None = None) -> int:
        """``named``: the position that it refers to, without that the last one."""
        totals = Totals(number, 0, self.end, 1, 1, referenced, 0, 0, 5, (6, 7), bytes(16))
        none = np.zeros(0, np.uint64)
        one = np.array([1], np.uint64)
        position = np.array([self.end if named is None else named], np.uint64)
        references = References(one, position, one, np.array([referenced], np.uint64))
        body = pack_part(totals, (0, 1), references, (none, none))
        return self._append(Kind.POINT, [], [], [], b"", 0, body, int(Flag.SEALS))

    def fact(self, body: bytes) -> int:
        return self._append(Kind.FACT, [], [], [], b"", 0, body)

    def _append(
        self,
        kind: Kind,
        offsets: list[int],
        lengths: list[int],
        digests: list[int],
        payload: bytes,
        fragments: int,
        body: bytes = b"",
        flags: int = 0,
    ) -> int:
        last = self.last
        write, time_ns = last.write + len(offsets), last.time_ns + 1
        columns = b"".join(array("Q", numbers).tobytes() for numbers in (offsets, lengths, digests)) + body
        proper, chain = pack_proper(
            kind, flags, (len(payload) - fragments) // BLOCK, fragments, (VOLUME, self.reign, self.epoch),
            last.position + 1, write, time_ns, last.chain, columns, (len(offsets), len(digests), len(body)),
        )  # fmt: skip
        end = End(last.position + 1, self.epoch, self.reign, chain, write, time_ns)
        self.add(Kept(proper, payload, end, 0))
        return end.position

    def add(self, kept: Kept) -> None:
        for _, leaving in list(self._listeners):
            leaving(kept.end.position, kept.proper, [kept.payload])
        self.file.pwritev([kept.payload], self._size)
        self.kept.append(Kept(kept.proper, kept.payload, kept.end, self._size))
        self._size += len(kept.payload)
        for wake, _ in list(self._listeners):
            wake()

    # The feed

    @property
    def last(self) -> End:
        return self.kept[-1].end if self.kept else self.start

    @property
    def end(self) -> int:
        return self.last.position

    @property
    def end_address(self) -> int:
        return sum(1 + -(-len(kept.payload) // BLOCK) for kept in self.kept)

    def address_behind(self, position: int) -> int | None:
        count = position - self.start.position
        return sum(1 + -(-len(kept.payload) // BLOCK) for kept in self.kept[:count])

    def _after(self, after: int, max_bytes: int) -> list[Shipment]:
        found, size = [], 0
        for index in range(after - self.start.position, len(self.kept)):
            kept = self.kept[index]
            if found and size + len(kept.payload) > max_bytes:
                break
            size += len(kept.payload)
            behind = self.address_behind(kept.end.position)
            assert behind is not None
            found.append(
                Shipment(kept.end.position, kept.proper, self.file, kept.offset, len(kept.payload), behind)
            )
        return found

    def recent(self, after: int, max_bytes: int) -> list[Shipment] | None:
        if after < self.end - self.in_memory or after < self.oldest:
            return None
        return self._after(after, max_bytes)

    async def older(self, after: int, max_bytes: int) -> list[Shipment]:
        self.asked_older += 1
        await asyncio.sleep(0)
        return [] if after < self.oldest else self._after(after, max_bytes)

    async def identity_at(self, position: int) -> tuple[int, bytes, bytes] | None:
        if position == self.start.position:
            return self.start.epoch, self.start.reign, self.start.chain
        if not self.start.position < position <= self.end or position < self.oldest:
            return None
        end = self.kept[position - self.start.position - 1].end
        return end.epoch, end.reign, end.chain

    def listen(
        self, wake: Callable[[], None], leaving: Callable[[int, bytes, Sequence[Buffer]], None]
    ) -> Callable[[], None]:
        listener = (wake, leaving)
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


class MirrorRecord:
    """What the source knows of a mirror."""

    def __init__(self, name: str = "m1", mode: int = 1) -> None:
        self.name, self.mode = name, mode
        self.joined, self.lost = True, False
        self.received = self.durable = self.agreed_point = self.agreed_position = 0
        self.pin: Point | None = None
        self.ask_durable: Callable[[int], None] = lambda position: None
        self.acknowledgements = 0
        self.based = False
        self.node, self.peer = bytes(16), ""
        self.acknowledged_durable = 0

    @property
    def required(self) -> bool:
        return self.joined and self.mode == 1


class Reader:
    """A point's content, from a dict."""

    def __init__(self, content: dict[int, bytes], blocks: int) -> None:
        self.content, self.blocks = content, blocks
        self._order = sorted(content)
        self.closed = False

    async def next_rows(self, first: int, count: int) -> tuple[U64, U64, int]:
        await asyncio.sleep(0)
        at = bisect_left(self._order, first)
        blocks = self._order[at : at + count]
        behind = blocks[-1] + 1 if len(blocks) == count else self.blocks
        found = np.array(blocks, np.uint64)
        return found, await self.digests(found), behind

    async def count(self) -> int:
        return len(self.content)

    async def digests(self, blocks: U64) -> U64:
        found = [self.content.get(block) for block in blocks.tolist()]
        return np.array([block_digests(memoryview(c), 1)[0] if c else 0 for c in found], np.uint64)

    async def read(self, blocks: U64) -> memoryview:
        return memoryview(b"".join(self.content[block] for block in blocks.tolist()))

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Origin:
    """A volume as a source."""

    def __init__(self, log: Log, size: int = 64 << 20) -> None:
        self.log, self.size = log, size
        self.name, self.volume_id = "vol", VOLUME
        self.segment_blocks = 1024
        self.feed = log
        self.content: dict[int, bytes] = {}
        self.points: dict[int, Point] = {}
        self.joined_mirrors: list[str] = []
        self.readers: list[Reader] = []
        self.passed_points: list[int] = []
        self.waited_for = 0
        self.names: tuple[Named, ...] = ()
        self.kept_log = 0

    @property
    def epoch(self) -> int:
        return self.log.epoch

    @property
    def reign(self) -> bytes:
        return self.log.reign

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK)

    def end(self) -> End:
        return self.log.last

    def openings(self, position: int) -> tuple[Opening, ...]:
        return (Opening(1, REIGN, 0, 0),)

    def size_at(self, write: int) -> int:
        return self.size

    def point(self, number: int) -> Point | None:
        return self.points.get(number)

    async def pin_base(self, mirror: MirrorRecord) -> Point:
        if mirror.pin is None:
            mirror.joined = False
            last = self.log.last
            mirror.pin = Point(7, 0, last.position, last.write, last.time_ns, last.epoch, 1, (2, 3), last.chain, 0)
            self.points[7] = mirror.pin
        return mirror.pin

    async def plan_base(self, mirror: MirrorRecord) -> BasePlan:
        point = await self.pin_base(mirror)
        behind = self.log.address_behind(point.position)
        assert behind is not None
        log = (self.log.end_address - behind) * BLOCK
        return BasePlan(point, self.names, point.position, Need(BLOCK * len(self.content), self.kept_log), log)

    async def based(self, mirror: MirrorRecord) -> None:
        mirror.based = True

    async def unpin_base(self, mirror: MirrorRecord) -> None:
        mirror.pin = None

    def base_point(self, mirror: MirrorRecord) -> Point | None:
        return mirror.pin

    async def joined(self, mirror: MirrorRecord, node: bytes) -> None:
        self.joined_mirrors.append(mirror.name)
        mirror.pin, mirror.joined, mirror.node = None, True, node

    def connected(
        self, mirror: MirrorRecord, received: int, durable: int, agreed_point: int, agreed_position: int
    ) -> None:
        mirror.received, mirror.durable = received, durable
        mirror.agreed_point, mirror.agreed_position = agreed_point, agreed_position

    def acknowledged(
        self, mirror: MirrorRecord, received: int, durable: int, agreed_point: int, agreed_position: int
    ) -> None:
        mirror.acknowledgements += 1
        mirror.received, mirror.durable = received, durable
        mirror.agreed_point, mirror.agreed_position = agreed_point, agreed_position

    async def passed(self, mirror: MirrorRecord) -> None:
        self.passed_points.append(mirror.agreed_point)

    def durable_wanted(self, mirror: MirrorRecord) -> int:
        return self.waited_for

    async def open_point(self, point: Point) -> Reader:
        if point.number not in self.points:
            raise NotFound("moment-not-retained", "It is gone.")
        self.readers.append(Reader(dict(self.content), self.blocks))
        return self.readers[-1]


class Bound:
    """What a target knows of its source."""

    def __init__(self) -> None:
        self.source_name, self.owes = "", 0

    async def name_source(self, name: str) -> None:
        self.source_name = name

    async def told(self, acknowledged: int) -> None: ...


class Secondary:
    """A target's storage: verifies, then stores. ``room_for`` bounds how many transfers it takes."""

    def __init__(self, folder: Path, start: End, name: str = "vol", base: SimpleNamespace | None = None) -> None:
        self.log = Log(folder, f"target-{start.position}-{id(self)}", start=start)
        self.name, self.volume_id = name, VOLUME
        self.segment_blocks = 1024
        self.durable = start.position
        self.bound = Bound()
        self.agreed: Point | None = None
        self.base = base
        self.feed = self.log
        self.blocks: dict[int, bytes] = {}
        self.keeps: list[int] = []  # transfers a call
        self.syncs: list[int] = []
        self.room_for = 1 << 60
        self.room_asked: list[int] = []
        self.on_durable: Callable[[int], None] = lambda position: None
        self.on_agreed: Callable[[Point], None] = lambda point: None
        self.ask_whole: Callable[[Point, list[int]], Awaitable[dict[int, bytes | None]]] | None = None
        self.on_failure: Callable[[RevolumeError], None] = lambda error: None
        self.failure: RevolumeError | None = None
        self.resumed = 0
        self.settled = 0
        self.slow = 0.0
        self.wrong_root = False

    @property
    def end(self) -> End:
        return self.log.last

    @property
    def known_epoch(self) -> tuple[int, bytes]:
        return self.end.epoch, self.end.reign

    @property
    def received(self) -> int:
        return self.log.end

    def keep(self, carried: Sequence[Carried]) -> int:
        if len(carried) > self.room_for:
            raise NoRoomNow
        for one in carried:
            transfer = one.transfer
            if transfer.previous != self.log.last.chain or transfer.position != self.log.end + 1:
                raise Refused("not-next", "It does not continue the log.")
            again = unpack_proper(memoryview(one.proper))
            assert again is not None
            assert (again.position, again.body, again.epoch) == (transfer.position, transfer.body, transfer.epoch)
            payload = memoryview(one.payload)
            if not _holds(payload, transfer.blocks, transfer.digests.tolist()):
                raise Refused("payload-damaged", f"The payload of {transfer.position} is not what was written.")
            end = End(
                transfer.position, transfer.epoch, transfer.reign, transfer.chain, transfer.write, transfer.time_ns
            )
            self.log.add(Kept(one.proper, bytes(payload), end, 0))
        self.room_for -= len(carried)
        self.keeps.append(len(carried))
        return self.received

    def need(self, carried: Sequence[Carried]) -> int:
        return sum(one.transfer.total_blocks for one in carried)

    def resume(self) -> None:
        self.resumed += 1

    async def room(self, blocks: int) -> None:
        self.room_asked.append(blocks)
        while self.room_for <= 0:
            await asyncio.sleep(0.002)

    async def make_durable(self, position: int) -> None:
        self.syncs.append(position)
        await asyncio.sleep(0.001)
        self.durable = max(self.durable, min(position, self.received))
        self.on_durable(self.durable)

    def agree(self, number: int) -> None:
        """A point was applied."""
        last = self.log.last
        self.agreed = Point(number, 0, last.position, last.write, 0, last.epoch, 1, (2, 3), last.chain, 0)
        self.on_agreed(self.agreed)

    async def put_base(self, blocks: U64, digests: U64, payload: bytes, next_block: int) -> None:
        assert self.base is not None
        await asyncio.sleep(self.slow)
        if block_digests(memoryview(payload), len(blocks)) != digests.tolist():
            raise Refused("base-damaged", "A block of the base is not what its digest says.")
        for at, block in enumerate(blocks.tolist()):
            self.blocks[block] = bytes(payload[at * BLOCK : (at + 1) * BLOCK])
        self.base.next_block = next_block

    async def settle_base(self) -> None:
        self.settled += 1

    async def finish_base(self) -> None:
        if self.wrong_root:
            raise Refused("base-root-differs", "The base does not sum up to the point's root.")
        self.base = None


def _holds(payload: memoryview, blocks: int, digests: list[int]) -> bool:
    if digests[:blocks] != block_digests(payload[: blocks * BLOCK], blocks):
        return False
    rest = payload[blocks * BLOCK :]
    return not digests[blocks:] or fragment_digest(rest) == digests[blocks]


class Shelf:
    """Where a target keeps its volume."""

    def __init__(self, folder: Path, secondary: Secondary | None = None) -> None:
        self.folder, self.secondary = folder, secondary
        self.segment_blocks = 1024
        self.node = b"t" * 16
        self.created: list[Start] = []
        self.wrong_root = False
        self.budget, self.free = 1 << 30, 1 << 40

    def fit(self, segment_blocks: int) -> None:
        """Its segments have a size already."""

    def room(self) -> Room:
        return Room(self.budget, 0, self.free)

    async def create(self, volume: bytes, name: str, start: Start) -> Secondary:
        await asyncio.sleep(0.001)
        self.created.append(start)
        base = SimpleNamespace(
            point=start.number, position=start.end.position, chain=start.end.chain, next_block=0
        )
        self.secondary = Secondary(self.folder, start.end, name, base)
        self.secondary.wrong_root = self.wrong_root
        return self.secondary
