"""A source that makes its own log, so that it can lie about it, and a real mirror's storage that it speaks to.

``Script`` puts transfers and records together from a plain model, by the formats alone: nothing of a volume's
writing side is used. ``Claim`` is what a record says; a test bends it before it is packed, and every later
transfer is chained behind the lie. ``Stage`` is the mirror on disk, with segments of a size of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from revolume.blocks import root as roots
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import stated_digest
from revolume.blocks.digest import fragment_digest
from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point, References, Totals, pack_part
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host import Host, real_host
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.transfer import (
    KIND_SHIFT,
    EntryKind,
    Flag,
    Kind,
    pack_shared_header,
    unpack_shared_header,
)
from revolume.offline.check.check import check
from revolume.volume.metadata.manifest_state import Epoch, Horizon
from revolume.volume.open.create import Birth
from revolume.volume.open.open import open_secondary, open_volume
from revolume.volume.secondary import Secondary
from tests.support.source_links import Asked
from tests.volume.driver import SEGMENT, SMALL, Model, assert_equal
from tests.volume.mirrored import abandon_secondary

VOLUME, REIGN = bytes(range(16)), b"reign of one....."[:16]
BLOCKS = 1024
SIZE = BLOCKS * BLOCK
MEMORY = Path("/dev/shm")
THERE = replace(SMALL, segment_bytes=2 * SEGMENT)
Entry = tuple[EntryKind, int, bytes | int]
Row = tuple[int, int, int]  # epoch, position, block in the transfer
Rows = dict[int, list[Row]]


def content(seed: int, blocks: int = 1) -> bytes:
    """Bytes that differ from block to block and from seed to seed."""
    return b"".join(f"{seed:07d}.{i:07d}.".encode() * (BLOCK // 16) for i in range(blocks))


@dataclass
class Claim:
    """What a record is going to say. ``rows``: a block's references, of which an honest record has one."""

    number: int
    previous: int
    position: int
    write: int
    time_ns: int
    chain: bytes
    rows: Rows
    partials: dict[int, bytes]
    zeroes: list[tuple[int, int]]
    digest: int
    root: tuple[int, int]
    runs: int = 1
    content: dict[int, bytes] = field(default_factory=dict)

    def totals(self) -> Totals:
        referenced = sum(len(rows) for rows in self.rows.values())
        return Totals(
            self.number, self.previous, self.position, self.write, self.time_ns, referenced, len(self.partials),
            len(self.zeroes), self.digest, self.root, self.chain,
        )  # fmt: skip


Lie = Callable[[Claim], None]


def honest(claim: Claim) -> None:
    """Nothing but the truth."""


class Script:
    """See the module's text. It begins at point 1, whose base holds the first eight blocks."""

    def __init__(self) -> None:
        self.base = {block: content(9_000_000 + block) for block in range(8)}
        self.content = dict(self.base)
        self.epoch, self.position, self.write, self.time_ns = 1, 5, 10, 1_700_000_000 * 10**9
        self.chain, self.reign = b"c" * 16, REIGN
        self.number = 1
        self.sent: list[ReceivedTransfer] = []
        self.moments = {self.write: dict(self.content)}
        self.at_point = {1: dict(self.content)}
        self._begin()

    def _begin(self) -> None:
        self._rows: dict[int, Row] = {}
        self._partial: set[int] = set()
        self._zero: set[int] = set()
        self._ranges: list[tuple[int, int]] = []

    def birth(self) -> Birth:
        horizon = Horizon(1, self.write, self.position, 0, self.time_ns, SIZE, *root_of(self.content), self.chain)
        return Birth(VOLUME, "v", b"m" * 16, horizon, (Epoch(1, REIGN, 0, 0),))

    # Writes

    def writes(self, *entries: Entry) -> ReceivedTransfer:
        """One transfer: (kind, offset in bytes, payload or length)."""
        offsets, lengths, whole, pieces = array("Q"), array("Q"), list[bytes](), list[bytes]()
        for kind, offset, what in entries:
            length = what if isinstance(what, int) else len(what)
            offsets.append(offset)
            lengths.append(length | kind << KIND_SHIFT)
            self._entry(kind, offset, what, length, whole, pieces)
            self.moments[self.write + len(offsets)] = dict(self.content)
        first, self.write = self.write + 1, self.write + len(offsets)
        digests = array("Q", [fragment_digest(one) for one in [*whole, *pieces]])
        return self.transfer(Kind.WRITES, first, (offsets, lengths, digests), (b"".join(whole), b"".join(pieces)))

    def whole(self, block: int, seed: int, blocks: int = 1) -> ReceivedTransfer:
        """Blocks written whole, in a transfer of their own."""
        return self.writes((EntryKind.WRITE, block * BLOCK, content(seed, blocks)))

    def part(self, block: int, at: int, data: bytes) -> ReceivedTransfer:
        """Some bytes of one block."""
        return self.writes((EntryKind.WRITE, block * BLOCK + at, data))

    def zero(self, block: int, blocks: int) -> ReceivedTransfer:
        return self.writes((EntryKind.ZERO, block * BLOCK, blocks * BLOCK))

    def split(self, sent: ReceivedTransfer, blocks: int) -> list[ReceivedTransfer]:
        """A transfer of one write, which has just been made, as two: the first goes on in the second."""
        whole, offset = bytes(sent.payload), int(sent.transfer.offsets[0])
        assert len(sent.transfer.offsets) == 1 and self.chain == sent.transfer.chain
        self.position, self.chain = self.position - 1, sent.transfer.previous
        made = []
        for at, end, flags in ((0, blocks * BLOCK, Flag.CONTINUED), (blocks * BLOCK, len(whole), Flag.NONE)):
            piece = whole[at:end]
            digests = [fragment_digest(piece[i : i + BLOCK]) for i in range(0, len(piece), BLOCK)]
            numbers = (
                array("Q", [offset + at]),
                array("Q", [len(piece) | EntryKind.WRITE << KIND_SHIFT]),
                array("Q", digests),
            )
            made.append(self.transfer(Kind.WRITES, sent.transfer.write, numbers, (piece, b""), flags=flags))
            self.sent.pop()
            for i in range(len(digests)):
                self._rows[(offset + at) // BLOCK + i] = (self.epoch, self.position, i)
        return made

    def _entry(
        self, kind: EntryKind, offset: int, what: bytes | int, length: int, whole: list[bytes], pieces: list[bytes]
    ) -> None:
        data = bytes(length) if isinstance(what, int) else what
        if kind == EntryKind.ZERO and length >= 256 * BLOCK:
            self._ranges.append((offset // BLOCK, length // BLOCK))
        for start in range(offset // BLOCK * BLOCK, offset + length, BLOCK):
            block, begin, end = start // BLOCK, max(start, offset), min(start + BLOCK, offset + length)
            piece = data[begin - offset : end - offset]
            old = self.content.get(block, bytes(BLOCK))
            self.content[block] = old[: begin - start] + piece + old[end - start :]
            for known in (
                (self._rows, self._zero, self._partial) if len(piece) == BLOCK else (self._rows, self._zero)
            ):
                known.pop(block, None) if isinstance(known, dict) else known.discard(block)
            if len(piece) < BLOCK:
                self._partial.add(block)
                pieces += [piece] if kind == EntryKind.WRITE else []
            elif kind == EntryKind.WRITE:
                self._rows[block] = (self.epoch, self.position + 1, len(whole))
                whole.append(piece)
            else:
                self._zero.add(block)

    # Records

    def claim(self) -> Claim:
        """The cut, and what an honest record says of it."""
        rows: Rows = {block: [row] for block, row in self._rows.items()}
        partials = {block: self.content[block] for block in sorted(self._partial)}
        zeroes = merged(self._ranges + [(block, 1) for block in self._zero])
        held = sorted([*rows, *partials])
        digest = stated_digest(
            np.array(held, np.uint64),
            np.array([fragment_digest(self.content[block]) for block in held], np.uint64),
            stated(zeroes),
        )
        self.number += 1
        self.at_point[self.number] = dict(self.content)
        self._begin()
        return Claim(
            self.number, self.number - 1, self.position, self.write, self.time_ns, self.chain, rows, partials,
            zeroes, digest, root_of(self.content),
        )  # fmt: skip

    def point(self, lie: Lie = honest, claim: Claim | None = None) -> ReceivedTransfer:
        """The record of a cut made now, or of ``claim``, as ``lie`` bends it."""
        claim = claim or self.claim()
        lie(claim)
        rows = [(*row, claim.runs) for block in sorted(claim.rows) for row in claim.rows[block]]
        table = np.array(rows, np.uint64).reshape(-1, 4)
        body = pack_part(
            claim.totals(), (0, 1), References(*(table[:, i] for i in range(4))), columns(claim.zeroes)
        )
        blocks = sorted(claim.partials)
        numbers = (
            array("Q", [block * BLOCK for block in blocks]),
            array("Q", [BLOCK | EntryKind.WRITE << KIND_SHIFT] * len(blocks)),
            array("Q", [fragment_digest(claim.partials[block]) for block in blocks]),
        )
        payload = b"".join(claim.partials[block] for block in blocks)
        return self.transfer(Kind.POINT, claim.write, numbers, (payload, b""), body, Flag.SEALS)

    def transfer(
        self,
        kind: Kind,
        write: int,
        numbers: tuple[array[int], array[int], array[int]],
        payload: tuple[bytes, bytes],
        body: bytes = b"",
        flags: Flag = Flag.NONE,
    ) -> ReceivedTransfer:
        """The next transfer of the chain."""
        self.time_ns += 1_000_000
        packed = b"".join(column.tobytes() for column in numbers) + body
        shared_header, chain = pack_shared_header(
            kind, flags, len(payload[0]) // BLOCK, len(payload[1]), (VOLUME, self.reign, self.epoch),
            self.position + 1, write, self.time_ns, self.chain, packed,
            (len(numbers[0]), len(numbers[2]), len(body)),
        )  # fmt: skip
        decoded = unpack_shared_header(memoryview(shared_header))
        assert decoded is not None
        self.position, self.chain = self.position + 1, chain
        self.sent.append(ReceivedTransfer(decoded, shared_header, b"".join(payload)))
        return self.sent[-1]

    def whole_at(self, point: Point, blocks: list[int]) -> dict[int, bytes | None]:
        """What an honest source answers when blocks are asked for."""
        then = self.at_point[point.number]
        return {block: then[block] if any(then.get(block, b"")) else None for block in blocks}


def root_of(blocks: dict[int, bytes]) -> tuple[int, int]:
    """The volume root, summed up from nothing."""
    held = sorted(blocks)
    digests = np.array([fragment_digest(blocks[block]) for block in held], np.uint64)
    return roots.add(roots.EMPTY, np.array(held, np.uint64), digests)


def merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs (first, count) as sorted, maximal ones."""
    zeroed = sorted({block for first, count in runs for block in range(first, first + count)})
    found: list[tuple[int, int]] = []
    for block in zeroed:
        if found and sum(found[-1]) == block:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((block, 1))
    return found


def stated(runs: list[tuple[int, int]]) -> BlockSet:
    """Zero runs as a record states them, also where they are not what a set is."""
    firsts, counts = columns(runs)
    return BlockSet(firsts, firsts + counts)


def columns(runs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(runs, np.uint64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


class Stage:
    """A mirror on disk, the script that it follows, and what it asked for."""

    def __init__(self, host: Host, path: Path) -> None:
        self.host, self.path = host, path
        self.script = Script()
        self.asked: list[list[int]] = []
        self.answer = self.script.whole_at
        self.secondary: Secondary
        self._shipped = 0

    async def open(self, birth: Birth | None = None) -> None:
        self.secondary = await open_secondary(self.host, str(self.path), THERE, birth)
        self.secondary.attach(Asked(self._whole))
        self.secondary.resume()

    async def _whole(self, point: Point, blocks: list[int]) -> dict[int, bytes | None]:
        self.asked.append(blocks)
        return self.answer(point, blocks)

    async def begin(self) -> None:
        await self.open(self.script.birth())
        blocks = sorted(self.script.base)
        digests = [fragment_digest(self.script.base[block]) for block in blocks]
        payload = b"".join(self.script.base[block] for block in blocks)
        await self.secondary.put_base(np.array(blocks, np.uint64), np.array(digests, np.uint64), payload, BLOCKS)
        await self.secondary.finish_base()

    async def ship(self) -> None:
        """Everything that the script has made and that has not been sent."""
        for carried in self.script.sent[self._shipped :]:
            await self.secondary.room(self.secondary.need([carried]))
            self.secondary.keep([carried])
            self._shipped += 1

    async def settle(self) -> None:
        """Everything here has been dealt with, or a point was refused."""
        async with asyncio.timeout(60):
            while len(self.secondary.records) and self.secondary.failure is None:
                await asyncio.sleep(0.002)

    async def agreed(self, lie: Lie = honest) -> None:
        """A point is made and shipped, and agreed to."""
        self.script.point(lie)
        await self.ship()
        await self.settle()
        assert self.secondary.failure is None, self.secondary.failure
        assert self.secondary.agreed.number == self.script.number

    async def crash(self) -> None:
        await abandon_secondary(self.secondary)
        await self.open()

    async def close(self) -> None:
        await self.secondary.close()

    # What must hold

    async def holds(self) -> None:
        """Every moment up to the agreed point reads as it was written."""
        oldest, newest = self.secondary.folder.retired_write, self.secondary.agreed.write
        for write, blocks in self.script.moments.items():
            if oldest <= write <= newest:
                await self.reads(write, blocks)

    async def reads(self, write: int, blocks: dict[int, bytes]) -> None:
        view = await open_view(self.secondary, ResolvedMoment(write, 0), "test")
        try:
            buffer = bytearray(SIZE)
            await view.reader.read(0, memoryview(buffer))
            assert_equal(buffer, Model.content(SIZE, blocks), f"w{write}")
        finally:
            view.close()

    async def fold(self) -> None:
        """Write until there is something to fold, then fold what has been agreed to into the image."""
        target = self.secondary.agreed.number
        for seed in range(80):
            self.script.whole(900 + seed % 8, 8_000_000 + seed, 4)
            if seed % 10 == 9:
                await self.agreed()
                await self.secondary.folder.step(True)
                if self.secondary.folder.horizon.point >= target:
                    return
        raise AssertionError("nothing was folded")

    def check(self, path: Path | None = None) -> None:
        report = check(self.host, str(path or self.path))
        assert report.good, report.problems

    async def promoted(self, path: Path | None = None) -> None:
        """Stopped and opened as a primary, it holds everything that it was sent."""
        volume = await open_volume(self.host, str(path or self.path), replace(THERE, promote=True))
        try:
            buffer = bytearray(volume.size)
            await volume.read(0, memoryview(buffer))
            assert_equal(buffer, Model.content(SIZE, self.script.content), "promoted")
        finally:
            await volume.close()

    async def copy_promoted(self) -> None:
        """As it stands, nothing folded yet, all from the log; the mirror itself goes on."""
        await self.close()
        self.check()
        copy = self.path.with_name("copy")
        shutil.copytree(self.path, copy, ignore=shutil.ignore_patterns("*.sock"))
        await self.promoted(copy)
        self.check(copy)
        shutil.rmtree(copy)
        await self.open()

    async def lives_on(self) -> None:
        """The whole way of an agreed point: kill, go on, fold, stop, check, promote, check."""
        await self.holds()
        number = self.secondary.agreed.number
        await self.crash()
        assert self.secondary.agreed.number == number
        await self.holds()
        await self.copy_promoted()
        self.script.whole(40, 7_000_000)
        self.script.part(41, 100, b"on it goes")
        await self.agreed()
        await self.holds()
        await self.fold()
        await self.holds()
        await self.crash()
        await self.holds()
        await self.close()
        self.check()
        await self.promoted()
        self.check()


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A mirror whose base is complete."""
    folder = Path(tempfile.mkdtemp(prefix="revolume-claims-", dir=MEMORY if MEMORY.is_dir() else None))
    host = real_host()
    made = Stage(host, folder / "m")
    try:
        await made.begin()
        yield made
        await made.close()
    except BaseException:
        if hasattr(made, "secondary") and not made.secondary._closing:
            await abandon_secondary(made.secondary)
        raise
    finally:
        await host.work.close()
        shutil.rmtree(folder)
