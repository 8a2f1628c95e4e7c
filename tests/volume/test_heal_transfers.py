"""Damaged headers and fragments of the log, with a sibling that has them, has them not, or lies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from revolume.blocks.numbers import Address
from revolume.log.format.segment import segment_name
from revolume.log.format.transfer import NODE_HEADER_SIZE, SHARED_HEADER_SIZE, Kind, pack_shared_header
from revolume.log.read.scan import FoundTransfer, SegmentReader
from revolume.log.write.operations import OP_WRITE
from revolume.volume.heal.siblings import Contents, Wanted
from revolume.volume.heal.transfer_finder import TransferFinder
from revolume.volume.heal.transfer_slice import WantedSlice

from .driver import BLOCK, Driver
from .store import payload
from .test_heal import bend, history, play

pytestmark = pytest.mark.timeout(60)


class Sibling:
    """Has what it was given of the transfer at each position; ``pieces``: bytes that it gives at most at once."""

    name = "sibling"

    def __init__(self) -> None:
        self.has: dict[int, bytes] = {}
        self.asked: list[WantedSlice] = []

    async def ask_slice(self, wanted: WantedSlice) -> bytes:
        self.asked.append(wanted)
        return self.has.get(wanted.position, b"")[wanted.offset : wanted.offset + wanted.size]

    async def ask(self, wanted: Sequence[Wanted]) -> Contents:
        return {}


def transfers(driver: Driver) -> list[FoundTransfer]:
    """All of the log that are no node's own, in order."""
    log = driver.volume.log
    segments = log.segments_between(driver.volume.folder.horizon.address, log.appender.address)
    found = [each for segment in segments for each in SegmentReader(segment, log.volume_id).anywhere()]
    return [each for each in found if each.transfer.kind != Kind.LOCAL_BLOCKS]


def shared(driver: Driver, found: FoundTransfer) -> bytes:
    """Header and fragments, as they are on the disk."""
    content = path_of(driver, found).read_bytes()
    at = found.block * BLOCK + NODE_HEADER_SIZE
    fragments = (found.payload_block + found.transfer.blocks) * BLOCK
    header = content[at : at + found.transfer.shared_header_size]
    return header + content[fragments : fragments + found.transfer.fragment_bytes]


def path_of(driver: Driver, found: FoundTransfer) -> Path:
    return driver.path / "log" / segment_name(found.segment.index)


async def heal(driver: Driver, *found: FoundTransfer) -> set[Address]:
    return await driver.volume.transfer_healer.heal(each.address for each in found)


def with_sibling(scenario: Callable[[Driver, Sibling], Awaitable[None]], path: Path) -> None:
    async def run(driver: Driver) -> None:
        await history(driver)
        await driver.change([(OP_WRITE, 20 * BLOCK + 512, payload(1000, 1024))])
        await driver.change([(OP_WRITE, 21 * BLOCK, payload(1001, BLOCK))])
        sibling = Sibling()
        driver.volume.healer.siblings.attach(sibling)
        await scenario(driver, sibling)

    play(run, path)


@pytest.mark.parametrize("offset", [3, 40, NODE_HEADER_SIZE + 5, NODE_HEADER_SIZE + 130])
def test_every_header_is_put_right(offset: int, tmp_path: Path) -> None:
    async def scenario(driver: Driver, sibling: Sibling) -> None:
        log = transfers(driver)
        sibling.has = {each.transfer.position: shared(driver, each) for each in log}
        for each in log[1::2]:
            bend(path_of(driver, each), each.block * BLOCK + offset)
        assert len(transfers(driver)) < len(log)
        assert await heal(driver, *log[1::2]) == set()
        again = transfers(driver)
        assert [each.transfer.chain for each in again] == [each.transfer.chain for each in log]
        assert {wanted.position for wanted in sibling.asked} == {each.transfer.position for each in log[1::2]}
        assert await heal(driver, *log) == set(), "and all are right"
        assert any("header, from sibling" in event.message for event in driver.volume.events.all())

    with_sibling(scenario, tmp_path)


def test_fragments_are_put_right(tmp_path: Path) -> None:
    async def scenario(driver: Driver, sibling: Sibling) -> None:
        found = next(each for each in transfers(driver) if each.transfer.fragment_bytes)
        place = (found.payload_block + found.transfer.blocks) * BLOCK
        before = path_of(driver, found).read_bytes()
        right = shared(driver, found)
        bend(path_of(driver, found), place + 700)
        for other in (b"", right[:-1], right[:-1] + bytes([right[-1] ^ 1])):
            sibling.has = {found.transfer.position: other}
            assert await heal(driver, found) == {found.address}
        sibling.has = {found.transfer.position: right}
        assert await heal(driver, found) == set()
        assert path_of(driver, found).read_bytes() == before

    with_sibling(scenario, tmp_path)


def other(
    driver: Driver, found: FoundTransfer, *, previous: bytes = b"", body: bytes = b"", digests: bytes = b""
) -> bytes:
    """A shared header at the same position whose own checksum holds, and in which this is different."""
    transfer, header = found.transfer, shared(driver, found)
    stated = transfer.digests.tobytes()
    entries = header[SHARED_HEADER_SIZE : transfer.shared_header_size - len(transfer.body) - len(stated)]
    columns = entries + (digests or stated) + (body or transfer.body)
    counts = len(transfer.offsets), len(transfer.digests), len(transfer.body)
    return pack_shared_header(
        transfer.kind, transfer.flags, transfer.blocks, transfer.fragment_bytes,
        (transfer.volume, transfer.reign, transfer.epoch), transfer.position, transfer.write, transfer.time_ns,
        previous or transfer.previous, columns, counts,
    )[0]  # fmt: skip


def bent(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


async def lied_to(driver: Driver, sibling: Sibling, found: FoundTransfer, lies: Sequence[bytes]) -> None:
    """None of it is written."""
    damaged = path_of(driver, found).read_bytes()
    for lie in lies:
        sibling.asked.clear()
        sibling.has[found.transfer.position] = lie
        assert await heal(driver, found) == {found.address}
        assert sibling.asked
        assert path_of(driver, found).read_bytes() == damaged


def test_of_another_history_nothing_is_taken(tmp_path: Path) -> None:
    """Not from a header that is not what the transfer behind it continues, nor for the newest, which is not what
    will be continued."""

    async def scenario(driver: Driver, sibling: Sibling) -> None:
        await driver.volume.point_maker.cut()
        log = transfers(driver)
        points = [each for each in log[3:] if each.transfer.kind == Kind.POINT]
        for found in (points[0], points[-1]):
            header, before = shared(driver, found), path_of(driver, found).read_bytes()
            lies = (
                other(driver, found, body=bent(found.transfer.body)), other(driver, found, previous=bytes(16)),
                shared(driver, log[1]), header[:100], b"",
            )  # fmt: skip
            bend(path_of(driver, found), found.block * BLOCK + NODE_HEADER_SIZE + 5)
            await lied_to(driver, sibling, found, lies)
            sibling.has[found.transfer.position] = header
            assert await heal(driver, found) == set()
            assert path_of(driver, found).read_bytes() == before, "its node header was whole, and is the same"

    with_sibling(scenario, tmp_path)


def test_where_nothing_is_known_behind_it_what_is_before_it_and_the_columns_say_which_one_it_is(
    tmp_path: Path,
) -> None:
    async def scenario(driver: Driver, sibling: Sibling) -> None:
        log = transfers(driver)
        writes = [each for each in log[2:-2] if each.transfer.kind == Kind.WRITES]
        found = next(a for a, b in pairwise(writes) if a.segment.use == b.segment.use and a.end_block == b.block)
        header = shared(driver, found)
        lies = (
            other(driver, found, previous=bytes(16)),
            other(driver, found, digests=bent(found.transfer.digests.tobytes())),
        )
        for block in (found.block, found.end_block):
            bend(path_of(driver, found), block * BLOCK + NODE_HEADER_SIZE + 5)
        await lied_to(driver, sibling, found, lies)
        sibling.has[found.transfer.position] = header
        assert await heal(driver, found) == set()

    with_sibling(scenario, tmp_path)


def test_what_its_neighbours_do_not_say_is_not_taken(tmp_path: Path) -> None:
    """Three damaged in a row: the one in the middle has no neighbour that can be read; in the log's order each
    that is right again says what the next one continues."""

    async def scenario(driver: Driver, sibling: Sibling) -> None:
        log = transfers(driver)
        at = next(i for i in range(2, len(log) - 2) if len({e.segment.use for e in log[i - 1 : i + 3]}) == 1)
        three = log[at : at + 3]
        sibling.has = {each.transfer.position: shared(driver, each) for each in three}
        for each in three:
            bend(path_of(driver, each), each.block * BLOCK + NODE_HEADER_SIZE + 5)
        assert await heal(driver, three[1]) == {three[1].address}
        assert sibling.asked == []
        assert await heal(driver, *reversed(three)) == set()

    with_sibling(scenario, tmp_path)


def test_a_slice_is_found_by_its_position(tmp_path: Path) -> None:
    async def scenario(driver: Driver, sibling: Sibling) -> None:
        log = transfers(driver)
        volume = driver.volume
        finder = TransferFinder(volume.log, volume.feed.segment_of)
        for each in log:
            whole, position = shared(driver, each), each.transfer.position
            assert await finder.find(WantedSlice(position, 0, 1 << 20)) == whole
            assert await finder.find(WantedSlice(position, 100, 50)) == whole[100:150]
            assert await finder.find(WantedSlice(position, len(whole) - 3, 50)) == whole[-3:]
            assert await finder.find(WantedSlice(position, len(whole), 50)) == b""
        newest = log[-1].transfer.position
        assert await finder.find(WantedSlice(newest + 1, 0, 100)) == b""
        bend(path_of(driver, log[4]), log[4].block * BLOCK + NODE_HEADER_SIZE + 5)
        assert await finder.find(WantedSlice(log[4].transfer.position, 0, 100)) == b""

    with_sibling(scenario, tmp_path)


def test_nothing_is_written_to_a_segment_that_has_been_recycled(tmp_path: Path) -> None:
    async def scenario(driver: Driver, sibling: Sibling) -> None:
        log = transfers(driver)
        found = next(each for each in log if each.segment.use > 1)
        del driver.volume.log.pool.by_use[found.segment.use]
        try:
            assert await heal(driver, found) == set()
            assert sibling.asked == []
        finally:
            driver.volume.log.pool.by_use[found.segment.use] = found.segment

    with_sibling(scenario, tmp_path)
