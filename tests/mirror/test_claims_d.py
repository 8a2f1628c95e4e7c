"""D1 to D16, D18 to D23 with a source that tells the truth: a volume and a mirror of it, and what goes over.

Between the two lies only ``Wiretap``: it reads every transfer that is shipped, by the formats alone, and so knows
what was sent when, which transfer carried which block, and what each point named. Two processes and a link between
them come last. What a source that lies achieves is in ``test_claims_d_lies.py``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Part, unpack_part
from revolume.errors import Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.host import real_host
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.transfer import KIND_SHIFT, LENGTH_MASK, EntryKind, Flag, Kind
from revolume.log.format.transfer_table import TransferTable
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.volume.open.open import open_volume
from tests.mirror.harness import run as run_bounded
from tests.mirror.harness import until, world
from tests.mirror.scripted import MEMORY, Stage, content, stage
from tests.support.mirrors import client, told, write
from tests.support.pairs import pair
from tests.volume.driver import SEGMENT, SMALL, abandon
from tests.volume.mirrored import THERE, Mirrored, abandon_secondary

SIZE = 6 << 20
Id = tuple[int, int]


class Wiretap:
    """What went over, in order."""

    def __init__(self) -> None:
        self.seen: list[ReceivedTransfer] = []
        self.carried: dict[tuple[int, int, int], int] = {}  # (epoch, position, number in it): block of the volume
        self.points: list[tuple[list[Part], list[int], int]] = []  # parts, blocks sent whole, bytes of payload
        self._parts: list[tuple[Part, ReceivedTransfer]] = []

    def __call__(self, each: ReceivedTransfer) -> ReceivedTransfer:
        self.seen.append(each)
        t = each.transfer
        if t.kind == Kind.WRITES:
            for number, block in enumerate(whole_blocks(each)):
                self.carried[t.epoch, t.position, number] = block
        if t.kind == Kind.POINT:
            part = unpack_part(t.body)
            assert part is not None
            self._parts.append((part, each))
            if t.flags & Flag.SEALS:
                blocks = [block for _, one in self._parts for block in whole_blocks(one)]
                size = sum(len(memoryview(one.payload)) for _, one in self._parts)
                self.points.append(([p for p, _ in self._parts], blocks, size))
                self._parts = []
        return each

    def referenced(self, index: int = -1) -> dict[int, tuple[int, int, int]]:
        """The blocks that a point named: (epoch, position, number in the transfer)."""
        found: dict[int, tuple[int, int, int]] = {}
        for part in self.points[index][0]:
            r = part.references
            for epoch, position, first, run in np.stack([r.epochs, r.positions, r.blocks, r.runs], 1).tolist():
                for number in range(first, first + run):
                    block = self.carried[epoch, position, number]
                    assert block not in found, "named twice"
                    found[block] = epoch, position, number
        return found

    def ids(self) -> list[Id]:
        return [(each.transfer.epoch, each.transfer.position) for each in self.seen]


def whole_blocks(each: ReceivedTransfer) -> list[int]:
    blocks: list[int] = []
    for offset, word in zip(each.transfer.offsets.tolist(), each.transfer.lengths.tolist(), strict=True):
        if word >> KIND_SHIFT == EntryKind.WRITE:
            blocks += range(-(-offset // BLOCK), (offset + (word & LENGTH_MASK)) // BLOCK)
    assert len(blocks) == each.transfer.blocks
    return blocks


Scenario = Callable[[Mirrored, Wiretap], Awaitable[None]]


def mirrored(scenario: Scenario) -> None:
    """A volume with a mirror whose base is complete."""

    async def run() -> None:
        folder = Path(tempfile.mkdtemp(prefix="revolume-claims-", dir=MEMORY if MEMORY.is_dir() else None))
        driver, tap = Mirrored(real_host(), folder / "v", SIZE), Wiretap()
        driver.meddle = tap
        try:
            async with asyncio.timeout(120):
                await driver.open()
                await driver.change([(OP_WRITE, 0, content(1, 4))])
                await driver.begin()
                await driver.send_base()
                await driver.ship()
                await driver.settle()
                await scenario(driver, tap)
                await ended(driver)
        finally:
            if driver.secondary is not None and not driver.secondary._closing:
                await abandon_secondary(driver.secondary)
            if not driver.volume._closing:
                await abandon(driver.volume)
            await driver.host.work.close()
            shutil.rmtree(folder)

    asyncio.run(run())


async def at_point(driver: Mirrored) -> None:
    """A point is made, goes over, is agreed to, and shows what it should."""
    await driver.volume.point_maker.cut()
    await driver.ship()
    await driver.settle()
    await driver.check_mirror(6)


async def ended(driver: Mirrored) -> None:
    await at_point(driver)
    assert driver.asked == [], "an honest source is never asked"
    assert driver.secondary is not None
    await driver.secondary.close()
    await driver.volume.close()
    for path in (driver.path, driver.there):
        report = check(driver.host, str(path))
        assert report.good, report.problems
    await driver.check_promoted()


def blocks(first: int, count: int, seed: int) -> tuple[int, int, bytes | int]:
    return OP_WRITE, first * BLOCK, content(seed, count)


def test_d1_only_the_source_changes_a_mirror() -> None:
    """Below every protocol: no storage that takes clients' writes opens on it, and it offers nothing live."""

    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        there = driver.secondary
        assert there is not None
        exports = VolumeExports(there, None)
        assert "as of its last agreed point" in dict(exports.names())[there.name]
        assert not any(hasattr(there, way) for way in ("append", "write", "grow", "snapshot", "point_maker"))
        exports.close()
        await there.close()
        with pytest.raises(Refused) as refused:
            await open_volume(driver.host, str(driver.there), THERE)
        assert refused.value.code == "is-mirror"
        await driver.reopen_mirror()

    mirrored(scenario)


def test_d2_d9_d11_whole_blocks_by_reference_partial_ones_whole_and_not_one_byte_twice() -> None:
    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        await driver.change([blocks(100, 20, 2), blocks(300, 3, 3)])
        await driver.change([(OP_WRITE, 40 * BLOCK + 7, b"a few bytes"), blocks(110, 2, 4)])
        await at_point(driver)
        _, whole, size = tap.points[-1]
        assert whole == [40] and size == BLOCK
        assert sorted(tap.referenced()) == [*range(100, 120), 300, 301, 302]

        await driver.change([blocks(100, 20, 5)])  # nothing but whole blocks: no data at all goes with the point
        await at_point(driver)
        assert tap.points[-1][1:] == ([], 0)
        assert sorted(tap.referenced()) == [*range(100, 120)]
        data = sum(len(memoryview(each.payload)) for each in tap.seen if each.transfer.kind == Kind.WRITES)
        assert data == (20 + 3 + 2 + 20) * BLOCK + len(b"a few bytes") + sum_before(tap)

    mirrored(scenario)


def sum_before(tap: Wiretap) -> int:
    """Bytes of writes that were shipped before the scenario began: none, the base held them."""
    return sum(each.transfer.payload_bytes for each in tap.seen if each.transfer.write <= 1)


def test_d3_d4_d5_d14_a_reference_names_the_transfer_of_the_newest_version_and_the_place_in_it() -> None:
    """Told from what went over: the last transfer that carried the block whole, the block's number in it."""

    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        for seed in range(40):
            await driver.change(
                [blocks(seed * 37 % 60 + 200, seed % 5 + 1, seed), blocks(seed * 11 % 30 + 220, 2, seed + 100)]
            )
        await at_point(driver)
        newest = {block: place for place, block in tap.carried.items()}  # in order: the last one stays
        assert tap.referenced() == {block: place for block, place in newest.items() if block >= 200}
        assert len(tap.referenced()) > 50

    mirrored(scenario)


@pytest.mark.parametrize("segments", [1, 4])
def test_d6_places_are_a_nodes_own(segments: int) -> None:
    """Segments of twice and of eight times the source's size: no block lies where it lies there, all are found."""

    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        for seed in range(30):
            await driver.change([blocks(200 + seed, 9, seed)])
        await at_point(driver)
        here = driver.volume
        there = driver.secondary
        assert there is not None and there.log.pool.segment_blocks == 2 * segments * here.log.pool.segment_blocks
        numbers = np.arange(200, 238, dtype=np.uint64)
        ours, theirs = here.live.lookup(numbers), there.live.lookup(numbers)
        assert (ours[1] == theirs[1]).all() and (ours[0] != theirs[0]).any()

    from tests.volume import mirrored as module

    before = module.THERE
    module.THERE = replace(SMALL, segment_bytes=2 * segments * SEGMENT, budget_bytes=1 << 30)
    try:
        mirrored(scenario)
    finally:
        module.THERE = before


def test_d7_d13_a_part_written_over_a_whole_block_makes_it_go_whole_and_only_with_the_point() -> None:
    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        await driver.change([blocks(50, 4, 2)])
        await driver.change([(OP_WRITE, 51 * BLOCK + 100, b"in part, later")])
        await driver.change([(OP_WRITE, 52 * BLOCK + 100, b"in part, first"), blocks(52, 1, 3)])
        await driver.change([(OP_ZERO, 53 * BLOCK + 8, 16)])
        await driver.ship()
        sent = [each for each in tap.seen if each.transfer.fragment_bytes]
        assert [each.transfer.fragment_bytes for each in sent] == [14, 14]  # not the blocks around them
        await at_point(driver)
        assert sorted(tap.points[-1][1]) == [51, 53]
        assert sorted(tap.referenced()) == [50, 52]

    mirrored(scenario)


def test_d8_every_write_makes_an_entry_and_is_there_before_the_point_that_names_it() -> None:
    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        first = driver.volume.write
        for seed in range(25):
            await driver.change([blocks(seed, 2, seed), (OP_WRITE, 700 * BLOCK + seed, b"x"), (OP_ZERO, seed, 9)])
        await driver.ship()
        there = driver.secondary
        assert there is not None and there.received == driver.volume.position and len(tap.points) == 1
        entries = {
            write
            for each in tap.seen
            if each.transfer.kind == Kind.WRITES
            for write in range(each.transfer.write, each.transfer.write + len(each.transfer.offsets))
        }
        assert entries >= set(range(first + 1, driver.volume.write + 1))
        await at_point(driver)
        parts = tap.points[-1][0]
        sealed = tap.seen[-1].transfer.position
        assert all(position < sealed for _, position, _ in tap.referenced().values())
        assert parts[0].position < sealed

    mirrored(scenario)


def test_d10_d12_a_transfer_id_is_never_used_twice() -> None:
    """Through stops, crashes, and a crash that takes the end of the log with it."""

    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        for seed in range(6):
            await driver.change([blocks(60 + seed, 3, seed)])
            await driver.ship()
            await (driver.reopen() if seed % 3 == 0 else driver.crash())
        await at_point(driver)
        assert len(set(tap.ids())) == len(tap.ids())
        epochs = [epoch for epoch, _ in tap.ids()]
        assert epochs == sorted(epochs) and len(set(epochs)) == 7
        assert all(len(each.transfer.digests) >= each.transfer.blocks for each in tap.seen)

    mirrored(scenario)


def test_d15_what_was_referenced_is_folded_from_its_own_log_without_a_byte_on_the_link() -> None:
    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        for seed in range(60):
            await driver.change([blocks(seed * 7 % 100, 8, seed)])
            if seed % 10 == 9:
                await at_point(driver)
        there = driver.secondary
        assert there is not None
        before = len(tap.seen)
        assert await there.folder.step(True)
        assert there.folder.horizon.point > 1 and there.folder.folded_blocks > 0
        await driver.check_mirror(6)
        await driver.crash_mirror()
        await driver.check_mirror(6)
        assert len(tap.seen) == before

    mirrored(scenario)


def test_d15_half_a_write_stops_nothing_but_promises() -> None:
    """A write that goes on in the next transfer, of which only the first has come: a new base map for what has
    been agreed to does not wait for the rest."""

    async def run() -> None:
        async with asyncio.timeout(60), stage() as made:
            made.script.whole(20, 1, 4)
            made.script.part(21, 5, b"in part")
            await made.agreed()
            first = made.script.whole(30, 2, 6)
            halves = made.script.split(made.script.sent.pop(), 4)
            assert first.transfer.blocks == 6 and [h.transfer.blocks for h in halves] == [4, 2]
            await made.secondary.room(made.secondary.need(halves))
            made.secondary.keep(halves[:1])
            assert made.secondary.received == halves[0].transfer.position - 1
            await asyncio.wait_for(made.secondary.base_maps.renew(force=True), 60)
            assert made.secondary.live.base is not None
            await made.holds()
            await made.crash()  # the half is cut off: it was never promised
            assert made.secondary.received == halves[0].transfer.position - 1
            await made.holds()
            made.script.sent += halves
            await made.ship()
            await made.lives_on()

    asyncio.run(run())


@pytest.mark.parametrize("ahead", [0, 1, 40])
def test_d14_a_point_leaves_for_a_mirror_only_behind_what_it_names(ahead: int, tmp_path: Path) -> None:
    """A reference to a transfer that this mirror was not sent is not made: the record does not leave."""

    async def scenario() -> None:
        async with world(tmp_path) as w:
            w.log.write(0, bytes(BLOCK))
            w.log.write(0, b"1" * BLOCK)
            w.log.point(1, 1)
            w.source.start()
            await w.arrived(3)
            w.log.point(2, 1, named=2)
            await w.arrived(4)
            w.log.point(3, 1, named=5 + ahead)
            w.log.write(0, b"2" * BLOCK)
            await until(lambda: any("refers to the transfer" in text for text in w.source_told))
            assert f"position {5 + ahead}, and this mirror was sent the log up to position 4." in w.source_told[-1]
            assert w.secondary.log.end == 4

    run_bounded(scenario)


def test_d14_a_buffer_descriptor_is_a_transfers_index_and_the_blocks_number_in_it() -> None:
    """Told from a table of three transfers: each address of a block of theirs, also where a descriptor's transfer
    and its neighbour touch."""
    table = TransferTable()
    sizes = {10: 3, 14: 1, 16: 8}  # where the first block of each lies, how many there are
    for number, address in enumerate(sizes):
        table.add(address, 7 + number, 1)
    view = table.view()
    places = [(address + number, index, number) for index, (address, count) in enumerate(sizes.items())
              for number in range(count)]  # fmt: skip
    found = view.describe(np.array([place for place, _, _ in places], np.uint64))
    assert found.transfer.tolist() == [index for _, index, _ in places]
    assert found.block.tolist() == [number for _, _, number in places]
    assert view.positions[found.transfer].tolist() == [7, 7, 7, 8] + 8 * [9]


# The destination alone is driven in test_claims_d_lies.py; here the source alone, and both.


def test_d18_d19_d20_the_source_alone() -> None:
    """Read by somebody who knows nothing but the formats: the log rebuilds every moment, every point names it."""

    async def scenario(driver: Mirrored, tap: Wiretap) -> None:
        base = {block: bytes(data) for block, data in driver.model.blocks.items()}
        for seed in range(20):
            await driver.change([blocks(seed * 3, 5, seed), (OP_WRITE, seed * 5000 + 1, b"odd" * seed or b"!")])
        await at_point(driver)
        payloads = {(e.transfer.epoch, e.transfer.position): memoryview(e.payload) for e in tap.seen}
        for block, (epoch, position, number) in tap.referenced().items():
            base[block] = bytes(payloads[epoch, position][number * BLOCK : (number + 1) * BLOCK])
        for each in tap.seen:
            if each.transfer.kind == Kind.POINT and each.transfer.position > 3:
                for number, block in enumerate(whole_blocks(each)):
                    base[block] = bytes(memoryview(each.payload)[number * BLOCK : (number + 1) * BLOCK])
        assert base == driver.model.blocks

    mirrored(scenario)


def test_d21_d22_the_destination_alone_builds_its_map_from_the_references_that_it_received() -> None:
    """A record that names other places of the same log makes another map: it is the record that is followed."""

    async def run() -> None:
        async with asyncio.timeout(60), stage() as made:
            await followed(made)

    asyncio.run(run())


async def followed(made: Stage) -> None:
    made.script.whole(20, 1, 4)
    await made.agreed()
    assert made.secondary.point_applier.referenced_blocks == 4 and made.asked == []
    made.script.whole(20, 2, 4)
    await made.agreed(lambda claim: claim.rows.clear())
    assert made.secondary.point_applier.referenced_blocks == 4 and made.asked == [[20, 21, 22, 23]]
    numbers = np.arange(20, 24, dtype=np.uint64)
    words, _ = made.secondary.live.lookup(numbers)
    assert (words & np.uint64((1 << 62) - 1) > np.uint64(made.secondary.agreed.address)).all()  # the blocks sent
    await made.lives_on()


def test_d16_d23_two_processes_and_a_point_that_reaches_both(folder: Path) -> None:
    """Clients write to one; the other, whose segments have another size, shows the point; nothing went twice."""
    with pair(folder, options=("--cp-interval", "1h", "--segment-size", "1MiB", "--budget", "64MiB")) as both:
        data = {at: os.urandom(1 << 16) for at in range(0, 8 << 20, 1 << 18)}
        write(both.primary.uri(), *data.items())
        write(both.primary.uri(), (12345, b"a few bytes, not a block"))
        told("snapshot", both.primary.directory, "here")  # a snapshot is a point
        both.until_equal()
        state: dict[str, Any] = both.state()
        assert state["saved_bytes"] == (len(data) * (1 << 16)) - BLOCK  # one block was then written in part
        assert state["whole_bytes"] == 0  # nothing had to be asked for
        assert state["point_bytes"] < 3 * BLOCK + 64 * len(data)
        assert state["log_bytes"] < 1.05 * state["client_bytes"] + state["point_bytes"]

        for at, block in data.items():
            if at:
                assert read_from(both.mirror.uri(), at, len(block)) == block
        want = bytearray(data[0])
        want[12345 : 12345 + 24] = b"a few bytes, not a block"
        assert read_from(both.mirror.uri(), 0, len(want)) == want
        with pytest.raises((RevolumeError, OSError, AssertionError)):
            write(both.mirror.uri(), (0, bytes(BLOCK)))
        both.lose_primary()
        both.promote()
        assert read_from(both.mirror.uri(), 0, len(want)) == want
        write(both.mirror.uri(), (0, bytes(BLOCK)))


def read_from(uri: str, offset: int, length: int) -> bytes:
    async def reading(connection: Any) -> bytes:
        return bytes(await connection.read(offset, length))

    found: bytes = client(uri, reading)
    return found
