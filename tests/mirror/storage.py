"""Storage for a mirror's two ends, small and real: transfers with true checksums, payloads in a real file, and a
target that verifies what it keeps. Each end of a link is driven against it alone."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from revolume.blocks import root as roots
from revolume.blocks.digest import block_digests, fragment_digest
from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point, References, Totals, pack_part
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.host.disk import Buffer
from revolume.host.real.disk import RealDisk
from revolume.log.format.received_transfer import OutgoingTransfer, ReceivedTransfer
from revolume.log.format.transfer import Flag, Kind, pack_shared_header, unpack_shared_header
from revolume.log.write.operations import WouldBlock
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.target.copy_description import describe_copy
from revolume.mirror.wire.begin_messages import BaseNeed, BaseStart, EpochEntry, NamedSnapshot
from revolume.mirror.wire.examine_messages import Examined, of_welcome
from revolume.mirror.wire.greeting_messages import Room
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.heal.healing import Healing
from revolume.volume.heal.siblings import Siblings, Wanted
from revolume.volume.heal.transfer_slice import WantedSlice
from revolume.volume.members.kept_points import KeptStatus, kept_word
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.members.source_link import NoSource, SourceLink
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState
from revolume.volume.metadata.resync_order import ResyncOrder
from revolume.volume.open.log_identity import End
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.periods import SuspectPeriods

VOLUME = bytes(range(16))
REIGN = b"r" * 16
U64 = np.ndarray


@dataclass(frozen=True)
class Kept:
    """A transfer as a log holds it."""

    shared_header: bytes
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
        shared_header, chain = pack_shared_header(
            kind, flags, (len(payload) - fragments) // BLOCK, fragments, (VOLUME, self.reign, self.epoch),
            last.position + 1, write, time_ns, last.chain, columns, (len(offsets), len(digests), len(body)),
        )  # fmt: skip
        end = End(last.position + 1, self.epoch, self.reign, chain, write, time_ns)
        self.add(Kept(shared_header, payload, end, 0))
        return end.position

    def add(self, kept: Kept) -> None:
        for _, leaving in list(self._listeners) if kept.shared_header[6] == Kind.WRITES else ():
            leaving(kept.end.position, kept.shared_header, [kept.payload])
        self.file.pwritev([kept.payload], self._size)
        self.kept.append(Kept(kept.shared_header, kept.payload, kept.end, self._size))
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
    def complete(self) -> int:
        return self.last.position

    @property
    def end_address(self) -> int:
        return sum(1 + -(-len(kept.payload) // BLOCK) for kept in self.kept)

    def address_behind(self, position: int) -> int | None:
        count = position - self.start.position
        return sum(1 + -(-len(kept.payload) // BLOCK) for kept in self.kept[:count])

    def _after(self, after: int, max_bytes: int) -> list[OutgoingTransfer]:
        found, size = [], 0
        for index in range(after - self.start.position, len(self.kept)):
            kept = self.kept[index]
            if found and size + len(kept.payload) > max_bytes:
                break
            size += len(kept.payload)
            behind = self.address_behind(kept.end.position)
            assert behind is not None
            found.append(
                OutgoingTransfer(
                    kept.end.position, kept.shared_header, self.file, kept.offset, len(kept.payload), behind
                )
            )
        return found

    def recent(self, after: int, max_bytes: int) -> list[OutgoingTransfer] | None:
        if after < self.end - self.in_memory or after < self.oldest:
            return None
        return self._after(after, max_bytes)

    async def older(self, after: int, max_bytes: int) -> list[OutgoingTransfer]:
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


def root_of(content: dict[int, bytes]) -> tuple[int, int]:
    """Of a volume that has these blocks, and zeroes else."""
    digests = [block_digests(memoryview(data), 1)[0] for data in content.values()]
    return roots.add(roots.EMPTY, np.array(list(content), np.uint64), np.array(digests, np.uint64))


class MirrorRecord(Mirror):
    """What the source knows of a mirror; nothing is recorded of it anywhere."""

    def __init__(self, name: str = "m1", mode: int = 1) -> None:
        super().__init__(MirrorState(name, MirrorMode(mode), joined=True, point=1, write=0))
        self.pin: Point | None = None
        self.acknowledgements = 0
        self.based = False

    @property
    def joined(self) -> bool:
        return self.state.joined

    @joined.setter
    def joined(self, joined: bool) -> None:
        self.state = replace(self.state, joined=joined)


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


class Finder:
    """What this end has for a sibling."""

    def __init__(self) -> None:
        self.has: dict[tuple[int, int], bytes] = {}
        self.asked: list[list[Wanted]] = []

    async def find(self, wanted: Sequence[Wanted]) -> dict[tuple[int, int], bytes]:
        self.asked.append(list(wanted))
        return {each.key: self.has[each.key] for each in wanted if each.key in self.has}


class Slices:
    """What this end has of transfers for a sibling, by their positions."""

    def __init__(self) -> None:
        self.has: dict[int, bytes] = {}
        self.asked: list[WantedSlice] = []

    async def find(self, wanted: WantedSlice) -> bytes:
        self.asked.append(wanted)
        return self.has.get(wanted.position, b"")[wanted.offset : wanted.offset + wanted.size]


class SourceVolume:
    """A volume as a source."""

    def __init__(self, log: Log, size: int = 64 << 20) -> None:
        self.log, self.size = log, size
        self.name, self.volume_id = "vol", VOLUME
        self.log_blocks = 1024, 1024
        self.feed = log
        self.content: dict[int, bytes] = {}
        self.points: dict[int, Point] = {}
        self.joined_mirrors: list[str] = []
        self.differing: list[int] = []
        self.suspect = SimpleNamespace(periods=SuspectPeriods())
        self.found_differences = SimpleNamespace(told=lambda mirror, point: self.differing.append(point))
        self.readers: list[Reader] = []
        self.passed_points: list[int] = []
        self.names: tuple[NamedSnapshot, ...] = ()
        self.kept_log = 0
        self.finder = Finder()
        self.slices = Slices()
        self.healing = Healing(Siblings(), self.finder, self.slices)
        self.cuts: list[str] = []

    @property
    def epoch(self) -> int:
        return self.log.epoch

    @property
    def reign(self) -> bytes:
        return self.log.reign

    def end(self) -> End:
        return self.log.last

    def openings(self, position: int) -> tuple[EpochEntry, ...]:
        return tuple(e for e in (EpochEntry(self.epoch, self.reign, 0, 0),) if e.position < position)

    def size_at(self, write: int) -> int:
        return self.size

    def point(self, number: int) -> Point | None:
        return self.points.get(number)

    async def pin_base(self, mirror: MirrorRecord) -> Point:
        if mirror.pin is None:
            mirror.joined = False
            last = self.log.last
            root = root_of(self.content)
            mirror.pin = Point(7, 0, last.position, last.write, last.time_ns, last.epoch, 1, root, last.chain, 0)
            self.points[7] = mirror.pin
        return mirror.pin

    async def plan_base(self, mirror: MirrorRecord, with_moments: bool = False) -> BasePlan:
        point = await self.pin_base(mirror)
        behind = self.log.address_behind(point.position)
        assert behind is not None
        log = (self.log.end_address - behind) * BLOCK
        return BasePlan(point, self.names, point.position, BaseNeed(BLOCK * len(self.content), self.kept_log), log)

    @property
    def moments(self) -> Any:
        """None."""
        return SimpleNamespace(before=lambda base: [])

    async def based(self, mirror: MirrorRecord, with_moments: bool = False) -> None:
        mirror.based = True

    async def unpin_base(self, mirror: MirrorRecord) -> None:
        mirror.pin = None

    def base_point(self, mirror: MirrorRecord) -> Point | None:
        return mirror.pin

    async def joined(self, mirror: MirrorRecord, node: bytes, advertised: str = "") -> None:
        self.joined_mirrors.append(mirror.name)
        mirror.pin, mirror.state = None, replace(mirror.state, joined=True, node=node)

    def refuse_same_copy(self, mirror: MirrorRecord, node: bytes) -> None:
        """It has one mirror."""

    def connected(self, mirror: MirrorRecord, there: Positions) -> None:
        mirror.begin_session(there)

    def acknowledged(self, mirror: MirrorRecord, now: Positions) -> None:
        mirror.acknowledgements += 1
        mirror.acknowledge(now)

    async def advance_hold(self, mirror: MirrorRecord) -> None:
        self.passed_points.append(mirror.agreed_point)

    def durable_wanted(self, mirror: MirrorRecord) -> int:
        return max((position for position, _ in mirror.waiting), default=0)

    @property
    def differences(self) -> Any:
        """It knows of no point what has changed since."""

        async def common(mirror: MirrorRecord, stands: Any, end: int, prefer: Any, partly: Any) -> None:
            return None

        async def link_lost(mirror: MirrorRecord) -> None:
            self.cuts.append(mirror.name)

        async def ordered(mirror: MirrorRecord, order: ResyncOrder) -> None:
            mirror.state = replace(mirror.state, order=order)

        return SimpleNamespace(common=common, link_lost=link_lost, ordered=ordered, points=lambda: ())

    def kept_status(self, mirror: MirrorRecord) -> KeptStatus:
        return KeptStatus(kept_word(mirror.state))

    async def open_point(self, point: Point) -> Reader:
        if point.number not in self.points:
            raise NotFound("moment-not-retained", "It is gone.")
        self.readers.append(Reader(dict(self.content), -(-self.size // BLOCK)))
        return self.readers[-1]


class Bound:
    """What a target knows of its source."""

    def __init__(self) -> None:
        self.source_name, self.owes, self.yields = "", 0, False

    async def follows(self) -> None: ...

    async def name_source(self, name: str) -> None:
        self.source_name = name

    async def told(self, acknowledged: int) -> None: ...

    async def bounded(self, largest_blocks: int) -> None:
        self.largest_blocks = largest_blocks


class Secondary:
    """A target's storage: verifies, then stores. ``room_for`` bounds how many transfers it takes."""

    def __init__(self, folder: Path, start: End, name: str = "vol", base: SimpleNamespace | None = None) -> None:
        self.log = Log(folder, f"target-{start.position}-{id(self)}", start=start)
        self.name, self.volume_id = name, VOLUME
        self.segment_blocks = 1024
        self.durable = start.position
        self.bound = Bound()
        self.agreed = Point(
            0, 0, start.position, start.write, start.time_ns, start.epoch, 0, (0, 0), start.chain, 0
        )
        self.base = base
        self.jump = None
        self.feed = self.log
        self.finder = Finder()
        self.slices = Slices()
        self.healing = Healing(Siblings(), self.finder, self.slices)
        self.blocks: dict[int, bytes] = {}
        self.keeps: list[int] = []  # transfers a call
        self.syncs: list[int] = []
        self.marks: list[Marks] = []
        self.equal_at = 0
        self.room_for = 1 << 60
        self.room_asked: list[int] = []
        self.source: SourceLink = NoSource()
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

    def keep(self, carried: Sequence[ReceivedTransfer]) -> int:
        if len(carried) > self.room_for:
            raise WouldBlock
        self._judge(carried)
        for one in carried:
            t = one.transfer
            end = End(t.position, t.epoch, t.reign, t.chain, t.write, t.time_ns)
            self.log.add(Kept(one.shared_header, bytes(one.payload), end, 0))
        self.room_for -= len(carried)
        self.keeps.append(len(carried))
        return self.received

    def _judge(self, carried: Sequence[ReceivedTransfer]) -> None:
        """Refused, and nothing is stored, unless each follows on the one before and is what it says."""
        last = self.log.last
        for one in carried:
            t = one.transfer
            if t.volume != VOLUME or t.previous != last.chain or t.position != last.position + 1:
                raise Refused("not-next", "It does not continue the log.")
            if (t.epoch, t.reign) != (last.epoch, last.reign) and t.epoch <= last.epoch:
                raise Refused("epoch-over", "It is of an epoch that is over.")
            again = unpack_shared_header(memoryview(one.shared_header))
            assert again is not None
            assert (again.position, again.body, again.epoch) == (t.position, t.body, t.epoch)
            if not _holds(memoryview(one.payload), t.blocks, t.digests.tolist()):
                raise Refused("payload-damaged", f"The payload of {t.position} is not what was written.")
            last = End(t.position, t.epoch, t.reign, t.chain, t.write, t.time_ns)

    def need(self, carried: Sequence[ReceivedTransfer]) -> int:
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
        self.source.on_durable(self.durable)

    async def add_marks(self, marks: Marks) -> None:
        await asyncio.sleep(0.001)
        self.marks.append(marks)

    differs_since = 0

    async def proved_equal(self, point: int) -> None:
        await asyncio.sleep(0.001)
        self.equal_at = point

    def attach(self, source: SourceLink) -> None:
        self.source = source

    def detach(self, source: SourceLink) -> None:
        if self.source is source:
            self.source = NoSource()

    def agree(self, number: int) -> None:
        """A point was applied."""
        last = self.log.last
        self.agreed = Point(number, 0, last.position, last.write, 0, last.epoch, 1, (2, 3), last.chain, 0)
        self.source.on_agreed(self.agreed)

    async def put_base(self, blocks: U64, digests: U64, payload: bytes, next_block: int) -> None:
        assert self.base is not None
        await asyncio.sleep(self.slow)
        if block_digests(memoryview(payload), len(blocks)) != digests.tolist():
            raise Refused("base-damaged", "A block of the base is not what its digest says.")
        for at, block in enumerate(blocks.tolist()):
            self.blocks[block] = bytes(payload[at * BLOCK : (at + 1) * BLOCK])
        self.base.next_block = next_block

    async def put_moment(self, moment: Any, blocks: U64, digests: U64, payload: bytes, last: bool) -> None:
        await asyncio.sleep(self.slow)
        raise Refused("base-not-equal", "This storage has no room for moments.")

    async def settle_jump(self) -> None:
        """There is none."""

    def isolated_points(self) -> list[Point]:
        return []

    def points(self) -> list[Point]:
        return [self.agreed]

    async def settle_base(self) -> None:
        self.settled += 1

    async def finish_base(self) -> None:
        assert self.base is not None
        if self.wrong_root or root_of(self.blocks) != self.base.root:
            raise Refused("base-root-differs", "The base does not sum up to the point's root.")
        self.base = None


def _holds(payload: memoryview, blocks: int, digests: list[int]) -> bool:
    if digests[:blocks] != block_digests(payload[: blocks * BLOCK], blocks):
        return False
    rest = payload[blocks * BLOCK :]
    return not digests[blocks:] or fragment_digest(rest) == digests[blocks]


class CopyDirectory:
    """Where a target keeps its volume."""

    def __init__(self, folder: Path, secondary: Secondary | None = None) -> None:
        self.folder, self.secondary = folder, secondary
        self.segment_blocks = 1024
        self.node = b"t" * 16
        self.created: list[BaseStart] = []
        self.wrong_root = False
        self.budget, self.free = 1 << 30, 1 << 40
        self.advertised = ""
        self.seeded = False

    def fit(self, segment_blocks: int) -> None:
        """Its segments have a size already."""

    def room(self) -> Room:
        return Room(self.budget, 0, self.free)

    async def open_compared(self, point: Any, quick: bool) -> Any:
        raise NotFound("no-point", "No point of it is kept.")

    def moments(self, version: int) -> Any:
        raise Refused("base-incomplete", "It tells of no moment.", "")

    async def open_moment(self, asked: Any, fed: bool) -> Any:
        raise Refused("base-incomplete", "It holds no moment open.", "")

    async def examined(self, asked: Fetch) -> Examined:
        return of_welcome(await describe_copy(self, asked))

    async def open_again(self) -> None:
        """It was never closed."""

    async def create(self, volume: bytes, name: str, start: BaseStart, seeded: bool = False) -> Secondary:
        await asyncio.sleep(0.001)
        if self.secondary is not None and self.secondary.base is None:
            raise Refused("mirror-whole", "A whole copy is not written over.")
        self.created.append(start)
        base = SimpleNamespace(
            point=start.number, position=start.end.position, chain=start.end.chain, next_block=0, root=start.root
        )
        self.secondary = Secondary(self.folder, start.end, name, base)
        self.secondary.agreed = replace(self.secondary.agreed, number=start.number, root=start.root)
        self.secondary.wrong_root = self.wrong_root
        return self.secondary

    async def truncate_incomplete(self) -> None:
        """Transfers are whole writes here."""
