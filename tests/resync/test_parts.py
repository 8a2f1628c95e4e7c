"""The parts of a comparison, each driven alone: B1, B7 to B10, B13 to B23."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.block_set import BlockSet
from revolume.blocks.digest import block_digests
from revolume.errors import GaveWay
from revolume.host import real_host
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.mirror.target.comparison import region_sums
from revolume.mirror.wire.comparison_messages import REGION_BLOCKS, Compared
from revolume.pace.pacer import Pacer
from revolume.resync.compare_map import CompareMaps
from revolume.resync.comparer import ComparedSoFar, Comparer
from revolume.resync.copier import Copier
from revolume.resync.cuts import PlainCut
from revolume.resync.fixup_merge import losers
from revolume.resync.host_changes import HostChanges
from revolume.resync.reviser import revise
from revolume.resync.scanner import LiveReader, LiveScanner, Scanned
from revolume.volume.metadata.verified import Verified, VerifyOutcome
from revolume.volume.points.point_maker import AnnouncedCut
from tests.volume.driver import BLOCK, Driver

U64 = np.uint64
SIZE = 8 << 20
NONE = np.zeros(0, np.uint64)
COPY = b"c" * 16


def block_set(*numbers: int) -> BlockSet:
    return BlockSet.of_blocks(np.array(sorted(numbers), np.uint64))


def numbers(found: BlockSet) -> list[int]:
    return [int(each) for each in found.blocks()]


def content(seed: int, blocks: int = 1) -> bytes:
    return random.Random(seed).randbytes(blocks * BLOCK)


def driven(folder: Path, scenario: Callable[[Driver], Awaitable[None]]) -> None:
    async def run() -> None:
        driver = Driver(real_host(), folder / "v", SIZE)
        await driver.open()
        try:
            async with asyncio.timeout(60):
                await scenario(driver)
        finally:
            await driver.volume.close()
            await driver.host.work.close()

    asyncio.run(run())


class Copy:
    """A copy that holds some digests."""

    def __init__(self, digests: np.ndarray) -> None:
        self.held = digests
        self.asked: list[tuple[int, int]] = []

    async def sums(self, first: int, blocks: int) -> Compared:
        return Compared(0, 0, region_sums(first, self.held[first : first + blocks]), NONE, NONE)

    async def digests(self, first: int, blocks: int) -> Compared:
        self.asked.append((first, blocks))
        return Compared(0, 0, (), self.held[first : first + blocks], NONE)


def test_b13_the_scanner_reads_the_live_volume(folder: Path) -> None:
    """Whole, partly written and zeroed blocks; a write during the scan may be seen, and nothing older."""

    async def scenario(driver: Driver) -> None:
        await driver.change([(OP_WRITE, 0, content(1, 8)), (OP_WRITE, 100, b"x" * 700)])
        await driver.change([(OP_ZERO, 2 * BLOCK, BLOCK)])
        scanned = await LiveScanner(driver.volume, quick=False).scan(0, SIZE // BLOCK)
        live = await driver.read_all()
        expected = block_digests(memoryview(live), SIZE // BLOCK)
        zero = block_digests(memoryview(bytes(BLOCK)), 1)[0]
        assert scanned.digests.tolist() == [0 if each == zero else each for each in expected]
        assert scanned.read_bytes == 7 * BLOCK and not len(scanned.damaged)
        quick = await LiveScanner(driver.volume, quick=True).scan(0, SIZE // BLOCK)
        assert quick.read_bytes == 0 and (quick.digests == scanned.digests).all()

    driven(folder, scenario)


def test_b1_b14_the_comparer_asks_for_digests_only_where_sums_differ() -> None:
    here = np.arange(1, 4 * REGION_BLOCKS + 1).astype(np.uint64)
    there = here.copy()
    there[[5, 2 * REGION_BLOCKS + 7, 2 * REGION_BLOCKS + 8]] = 9999, 0, 77

    async def run() -> None:
        copy, found = Copy(there), ComparedSoFar()
        damaged = np.array([2 * REGION_BLOCKS + 8], np.uint64)  # its own digest says what it is to be
        sums = await copy.sums(0, len(here))
        await Comparer(copy, found).compare(Scanned(0, here, damaged, 0), sums)
        assert copy.asked == [(0, REGION_BLOCKS), (2 * REGION_BLOCKS, REGION_BLOCKS)]
        assert numbers(found.differing()) == [5, 2 * REGION_BLOCKS + 7]
        blocks, digests = found.of(block_set(5, 6))
        assert (blocks.tolist(), digests.tolist()) == ([5], [9999])
        (total,) = region_sums_of_all(there)
        assert found.copy_sum == total

    asyncio.run(run())


def region_sums_of_all(digests: np.ndarray) -> list[tuple[int, int]]:
    low, high = 0, 0
    for each in region_sums(0, digests):
        low, high = (low + each[0]) % (1 << 64), (high + each[1]) % (1 << 64)
    return [(low, high)]


def test_b2_blocks_that_only_the_copy_has_differ() -> None:
    here = np.zeros(2 * REGION_BLOCKS, np.uint64)
    there = here.copy()
    there[1500] = 4711

    async def run() -> None:
        copy, found = Copy(there), ComparedSoFar()
        await Comparer(copy, found).compare(Scanned(0, here, NONE, 0), await copy.sums(0, len(here)))
        assert numbers(found.differing()) == [1500]

    asyncio.run(run())


def test_b8_b17_the_chain_says_what_clients_changed_between_two_cuts(folder: Path) -> None:
    """Whole and partial writes, zeroes and trims, over several points and segments; nothing else."""

    async def scenario(driver: Driver) -> None:
        volume = driver.volume
        await driver.change([(OP_WRITE, 0, content(1, 60))])
        since = await volume.cut()
        host = HostChanges(volume, since)
        expected: set[int] = set()
        for at in range(6):
            await driver.change([
                (OP_WRITE, (100 + 7 * at) * BLOCK, content(at, 20)), (OP_WRITE, 3 * BLOCK + 100 + at, b"y" * 300),
                (OP_ZERO, (500 + at) * BLOCK, BLOCK), (OP_TRIM, (600 + 10 * at) * BLOCK, 3 * BLOCK),
            ])  # fmt: skip
            expected |= {*range(100 + 7 * at, 120 + 7 * at), 3, 500 + at, *range(600 + 10 * at, 603 + 10 * at)}
            await volume.cut()
            if at % 2:
                await host.gather()
        await host.gather()
        everything = BlockSet(np.zeros(1, np.uint64), np.array([SIZE // BLOCK], np.uint64))
        assert set(numbers(host.among(everything))) == expected
        assert numbers(host.among_blocks(np.array([2, 3, 4, 602, 603], np.uint64))) == [3, 602]
        assert host.upto == volume.points()[-1]
        await driver.change([(OP_WRITE, 2000 * BLOCK, content(9))])
        assert numbers(host.among(block_set(2000))) == []  # behind the newest point: not asked for
        host.close()
        assert not len(volume.holders)

    driven(folder, scenario)


def test_what_is_held_for_it_gives_way(folder: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await driver.change([(OP_WRITE, 0, content(1))])
        host = HostChanges(driver.volume, await driver.volume.cut())
        (holder,) = [each for each in driver.volume.holders.all() if each.owner == "verification"]
        assert holder.kind.gives_way
        driver.volume.holders.revoke(holder)
        await driver.change([(OP_WRITE, 0, content(2))])
        await driver.volume.cut()
        with pytest.raises(GaveWay):
            await host.gather()

    driven(folder, scenario)


def test_b7_b19_what_clients_changed_in_the_scan_interval_is_taken_out() -> None:
    assert numbers(revise(block_set(1, 2, 3, 9), block_set(2, 3, 4))) == [1, 9]
    assert numbers(revise(block_set(1, 2), BlockSet())) == [1, 2]


class Sent:
    """The copy's end of a batch."""

    def __init__(self) -> None:
        self.rows: dict[int, bytes | None] = {}
        self.hold = asyncio.Event()
        self.hold.set()

    def begin_batch(self) -> int:
        return 1

    async def send(self, batch: int, blocks: np.ndarray, digests: np.ndarray, content: bytes) -> int:
        at = 0
        for block, digest in zip(blocks.tolist(), digests.tolist(), strict=True):
            self.rows[block] = content[at : at + BLOCK] if digest else None
            at += BLOCK if digest else 0
        assert at == len(content)
        await self.hold.wait()
        return len(content)


def test_b9_b16_the_copier_reads_live_what_the_map_names_and_nothing_else(folder: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await driver.change([(OP_WRITE, 0, content(1, 200)), (OP_ZERO, 150 * BLOCK, BLOCK)])
        wanted = [*range(3, 90), 150, 199, 1999]
        sent = Sent()
        copied = await Copier(LiveReader(driver.volume), sent, Pacer(driver.host.clock)).copy(
            np.array(wanted, np.uint64)
        )
        assert copied.blocks.tolist() == wanted == sorted(sent.rows) and not len(copied.unreadable)
        live = await driver.read_all()
        for block, found in sent.rows.items():
            assert (found or bytes(BLOCK)) == live[block * BLOCK : (block + 1) * BLOCK]
        assert sent.rows[150] is None and sent.rows[1999] is None

    driven(folder, scenario)


class Watched(PlainCut):
    """What is named before a point's record is appended."""

    def __init__(self, driver: Driver, host: HostChanges) -> None:
        super().__init__(driver.volume)
        self._host, self._volume = host, driver.volume
        self.named: AnnouncedCut | None = None
        self.position_then = 0

    async def before_cut(self) -> None:
        await self._host.gather()

    def cut_made(self, cut: AnnouncedCut) -> None:
        self._host.note(cut.changed)
        self.named, self.position_then = cut, self._volume.position


def test_b10_b20_a_copy_read_before_a_write_of_a_client_loses_to_it(folder: Path) -> None:
    """The copier is held between reading and the cut; also over points in between, and for a partial write."""

    async def scenario(driver: Driver) -> None:
        volume = driver.volume
        await driver.change([(OP_WRITE, 0, content(1, 100))])
        host, sent = HostChanges(volume, await volume.cut()), Sent()
        sent.hold.clear()
        batch = np.array([5, 6, 7, 8], np.uint64)
        copying = asyncio.create_task(Copier(LiveReader(volume), sent, Pacer(driver.host.clock)).copy(batch))
        while not sent.rows:
            await asyncio.sleep(0.001)
        await driver.change([(OP_WRITE, 6 * BLOCK, content(2))])
        await volume.cut()
        await driver.change([(OP_WRITE, 7 * BLOCK + 10, b"partly")])
        sent.hold.set()
        copied = await copying
        assert sent.rows[6] == content(1, 100)[6 * BLOCK : 7 * BLOCK]  # what was there before the write
        watched = Watched(driver, host)
        point = await volume.cut_anew(watched)
        assert watched.named is not None
        assert (watched.named.number, watched.named.chain) == (point.number, point.chain)
        assert watched.position_then < volume.position  # named before its record was appended
        assert losers(copied.blocks, host.among_blocks(batch)).tolist() == [6, 7]
        host.close()

    driven(folder, scenario)


def test_a_cut_is_made_also_when_nothing_has_changed(folder: Path) -> None:
    """By a write that changes no block: so that no two points are of the same write."""

    async def scenario(driver: Driver) -> None:
        await driver.change([(OP_WRITE, 0, content(1, 2))])
        before = await driver.volume.cut()
        assert await driver.volume.cut() == before
        first = await driver.volume.cut_anew(PlainCut(driver.volume))
        second = await driver.volume.cut_anew(PlainCut(driver.volume))
        assert before.number + 2 == first.number + 1 == second.number
        assert before.write < first.write < second.write and before.root == first.root == second.root
        driver.model.seal(driver.volume.write)
        await driver.reopen()
        assert driver.volume.points()[-1].number == second.number
        await driver.check_live()

    driven(folder, scenario)


def test_b15_the_map_is_durable_and_believed_only_of_the_same_copy(folder: Path) -> None:
    async def scenario(driver: Driver) -> None:
        def known(outcome: VerifyOutcome) -> Verified:
            return Verified(
                name="m", node=COPY, time_ns=7, point=3, outcome=outcome, quick=True, partly=False, different=3,
                repaired=0,
            )  # fmt: skip

        maps = CompareMaps(driver.volume)
        assert numbers(await maps.load("m", COPY)) == []
        await maps.keep(known(VerifyOutcome.REPAIRING), block_set(1, 2, 40))
        await driver.crash()
        maps = CompareMaps(driver.volume)
        assert numbers(await maps.load("m", COPY)) == [1, 2, 40]
        assert numbers(await maps.load("m", b"d" * 16)) == numbers(await maps.load("n", COPY)) == []
        (file,) = (folder / "v" / "compare").iterdir()
        data = bytearray(file.read_bytes())
        data[70] ^= 1
        file.write_bytes(data)
        assert numbers(await maps.load("m", COPY)) == []  # it is compared anew
        await maps.keep(known(VerifyOutcome.EQUAL), BlockSet())
        assert not list((folder / "v" / "compare").iterdir())
        found = maps.known("m")
        assert found is not None and (found.outcome, found.map_number, found.quick) == (
            VerifyOutcome.EQUAL,
            0,
            True,
        )

    driven(folder, scenario)
