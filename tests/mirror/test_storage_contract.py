"""What a mirror link may expect of the storage at its two ends (``mirror/storage_protocols.py``): one suite, run
on the small storage that most tests of links use, and on real volumes. Where they differ, the small one is
wrong."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revolume.blocks.digest import block_digests
from revolume.blocks.numbers import Position
from revolume.errors import Refused
from revolume.host import Host, real_host
from revolume.log.format.received_transfer import OutgoingTransfer, ReceivedTransfer
from revolume.log.format.transfer import unpack_shared_header
from revolume.log.write.operations import OP_WRITE, WouldBlock
from revolume.mirror.copy_protocols import CopyDirectory, TargetVolume
from revolume.mirror.source.gathered_facts import base_start
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.storage_protocols import Feed, SourceVolume
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.manifest_state import MirrorMode
from tests.mirror import storage
from tests.support.source_links import Follower
from tests.volume.driver import BLOCK, SEGMENT, SMALL, Driver

pytestmark = pytest.mark.timeout(60)
BLOCKS = 200


class Ends:
    """Both ends of a link: a volume that holds something, a mirror of it that has not joined, an empty
    directory."""

    host: Host
    source: SourceVolume
    mirror: Mirror
    directory: CopyDirectory

    async def open(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def write(self, block: int, count: int = 1) -> None:
        """Blocks of new content, in one transfer."""
        raise NotImplementedError

    # What a link does with both

    async def begin(self) -> TargetVolume:
        """A base is planned, and begun at the target."""
        plan = await self.source.plan_base(self.mirror)
        start = await base_start(self.source, plan)
        return await self.directory.create(self.source.volume_id, self.source.name, start)

    async def send_base(self, target: TargetVolume) -> None:
        assert target.base is not None
        point = self.source.point(target.base.point)
        assert point is not None
        reader = await self.source.open_point(point)
        try:
            first, blocks = 0, -(-self.source.size_at(point.write) // BLOCK)
            while first < blocks:
                numbers, digests, behind = await reader.next_rows(first, 7)
                await target.put_base(numbers, digests, await reader.read(numbers), behind)
                first = behind
        finally:
            reader.close()

    async def whole(self) -> TargetVolume:
        """A target that has its base."""
        target = await self.begin()
        await self.send_base(target)
        await target.finish_base()
        return target

    async def keep(self, target: TargetVolume, arrived: list[ReceivedTransfer]) -> Position:
        """Once there is room: segments are made ready beside."""
        while True:
            try:
                return target.keep(arrived)
            except WouldBlock:
                await target.room(target.need(arrived))

    async def lacking(self, position: int) -> list[ReceivedTransfer]:
        return [carried(each) for each in await everything(self.source.feed, position)]


class SmallEnds(Ends):
    """``tests/mirror/storage.py``."""

    def __init__(self, folder: Path) -> None:
        self.host = real_host()
        self.log = storage.Log(folder)
        self.small = storage.SourceVolume(self.log, BLOCKS * BLOCK)
        self.source: Any = self.small
        self.mirror = storage.MirrorRecord()
        self.mirror.joined = False
        self.directory: Any = storage.CopyDirectory(folder)

    async def open(self) -> None:
        await self.write(3, 5)
        await self.write(100)

    async def close(self) -> None:
        await self.host.work.close()

    async def write(self, block: int, count: int = 1) -> None:
        data = os.urandom(count * BLOCK)
        for at in range(count):
            self.small.content[block + at] = data[at * BLOCK : (at + 1) * BLOCK]
        self.log.write(block * BLOCK, data)


class RealEnds(Ends):
    """An open volume, and a directory on disk."""

    def __init__(self, folder: Path) -> None:
        self.host = real_host()
        self.driver = Driver(self.host, folder / "v", BLOCKS * BLOCK, SMALL)
        there = replace(SMALL, segment_bytes=2 * SEGMENT)
        (folder / "copy").mkdir()
        self.real = RealCopyDirectory(self.host, str(folder / "copy"), there, None)
        self.directory = self.real

    async def open(self) -> None:
        await self.driver.open()
        await self.write(3, 5)
        await self.write(100)
        self.source = VolumeSource(self.driver.volume)
        self.mirror = await self.driver.volume.mirrors.register("m1", MirrorMode.SYNC)
        await self.driver.volume.membership.stated()  # nothing is appended by itself from here on

    async def close(self) -> None:
        if self.real.secondary is not None:
            await self.real.secondary.close()
        await self.driver.volume.close()
        await self.host.work.close()

    async def write(self, block: int, count: int = 1) -> None:
        await self.driver.change([(OP_WRITE, block * BLOCK, os.urandom(count * BLOCK))])


def carried(shipment: OutgoingTransfer) -> ReceivedTransfer:
    """As it comes out of a link."""
    payload = bytearray(shipment.length)
    assert shipment.file.preadv([payload], shipment.offset) == shipment.length
    transfer = unpack_shared_header(memoryview(shipment.shared_header))
    assert transfer is not None and transfer.position == shipment.position
    return ReceivedTransfer(transfer, shipment.shared_header, memoryview(payload))


async def everything(feed: Feed, after: int, at_once: int = 1) -> list[OutgoingTransfer]:
    """What a feed has behind a position, read as a link reads it."""
    found: list[OutgoingTransfer] = []
    while after < feed.end:
        some = feed.recent(after, at_once)
        if some is None:
            some = await feed.older(after, at_once)
        assert some
        found += some
        after = some[-1].position
    return found


@pytest.fixture(params=[SmallEnds, RealEnds], ids=["small", "real"])
def ends(request: pytest.FixtureRequest, folder: Path) -> Ends:
    made: Ends = request.param(folder)
    return made


Scenario = Callable[[Ends], Awaitable[None]]


def play(ends: Ends, scenario: Scenario) -> None:
    async def run() -> None:
        await ends.open()
        try:
            await scenario(ends)
        finally:
            await ends.close()

    asyncio.run(run())


class TestFeed:
    def test_it_gives_every_transfer_once_and_in_order(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            feed = ends.source.feed
            for at_once in (1, 3 * BLOCK, 1 << 30):
                found = await everything(feed, feed.oldest, at_once)
                assert [each.position for each in found] == list(range(feed.oldest + 1, feed.end + 1))
                chained = [carried(each).transfer for each in found]
                assert all(b.previous == a.chain for a, b in itertools.pairwise(chained))

        play(ends, scenario)

    def test_nothing_is_behind_its_end(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            feed = ends.source.feed
            stop = feed.listen(lambda: None, lambda position, shared_header, payload: None)
            await ends.write(1)
            assert feed.recent(feed.end, 1 << 20) == []
            stop()

        play(ends, scenario)

    def test_what_is_recent_is_what_is_read_from_the_log(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            feed = ends.source.feed
            before = feed.end
            stop = feed.listen(lambda: None, lambda position, shared_header, payload: None)
            await ends.write(1, 2)
            await ends.write(2)
            recent, older = feed.recent(before, 1 << 20), list[OutgoingTransfer]()
            while before + len(older) < feed.end:
                older += await feed.older(before + len(older), 1 << 20)
            assert recent is not None and len(recent) == len(older) == 2
            for one, other in zip(recent, older, strict=True):
                assert (one.position, one.shared_header, one.length) == (
                    other.position,
                    other.shared_header,
                    other.length,
                )
                assert one.behind == other.behind
                assert bytes(carried(one).payload) == bytes(carried(other).payload)
            assert recent[-1].behind == feed.end_address
            stop()

        play(ends, scenario)

    def test_it_knows_each_of_its_transfers(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            feed, end = ends.source.feed, ends.source.end()
            assert await feed.identity_at(end.position) == (end.epoch, end.reign, end.chain)
            assert end.position == feed.end
            for each in await everything(feed, feed.oldest):
                transfer = carried(each).transfer
                identity = await feed.identity_at(each.position)
                assert identity == (transfer.epoch, transfer.reign, transfer.chain)
            assert await feed.identity_at(feed.oldest) is not None
            assert await feed.identity_at(feed.end + 1) is None

        play(ends, scenario)

    def test_the_address_behind_what_was_looked_up_is_known(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            feed = ends.source.feed
            for each in await everything(feed, feed.oldest):
                await feed.identity_at(each.position)
                assert feed.address_behind(each.position) == each.behind
            assert feed.address_behind(feed.end) == feed.end_address

        play(ends, scenario)

    def test_a_write_leaves_before_it_is_in_the_log_and_wakes_behind_it(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            feed, seen = ends.source.feed, list[tuple[str, int, int]]()
            stop = feed.listen(
                lambda: seen.append(("wake", feed.end, 0)),
                lambda position, shared_header, payload: seen.append(
                    ("leaving", position, sum(map(len, payload)))
                ),
            )
            before = feed.end
            await ends.write(7, 2)
            assert seen[:2] == [("leaving", before + 1, 2 * BLOCK), ("wake", before + 1, 0)]
            stop()
            await ends.write(8)
            assert all(position <= before + 1 for _, position, _ in seen)

        play(ends, scenario)


class TestBase:
    def test_its_point_is_held_until_it_is_given_up_or_has_joined(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            source, mirror = ends.source, ends.mirror
            assert source.base_point(mirror) is None
            plan = await source.plan_base(mirror)
            assert source.base_point(mirror) == plan.point
            assert source.point(plan.point.number) == plan.point
            assert (await source.plan_base(mirror)).point == plan.point
            await source.unpin_base(mirror)
            assert source.base_point(mirror) is None
            await source.plan_base(mirror)
            await source.based(mirror)
            await source.joined(mirror, b"n" * 16)
            assert source.base_point(mirror) is None
            assert (mirror.joined, mirror.required, mirror.node) == (True, True, b"n" * 16)

        play(ends, scenario)

    def test_what_it_takes_is_told(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            plan = await ends.source.plan_base(ends.mirror)
            assert plan.need.base == 6 * BLOCK
            assert plan.lacking == [] and plan.need.kept_log == 0

        play(ends, scenario)

    def test_its_blocks_come_in_order_with_their_digests(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            plan = await ends.source.plan_base(ends.mirror)
            reader = await ends.source.open_point(plan.point)
            assert await reader.count() == 6
            first, found = 0, list[int]()
            while first < BLOCKS:
                blocks, digests, behind = await reader.next_rows(first, 4)
                assert first < behind and all(first <= block < behind for block in blocks.tolist())
                content = await reader.read(blocks)
                assert block_digests(content, len(blocks)) == digests.tolist()
                assert (await reader.digests(blocks)).tolist() == digests.tolist()
                found += blocks.tolist()
                first = behind
            assert first == BLOCKS
            assert found == [3, 4, 5, 6, 7, 100]
            assert (await reader.digests(np.array([9], np.uint64))).tolist() == [0]
            reader.close()

        play(ends, scenario)

    def test_a_point_that_is_not_there_is_not_found(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            plan = await ends.source.plan_base(ends.mirror)
            assert ends.source.point(plan.point.number + 90) is None

        play(ends, scenario)

    def test_the_openings_are_those_that_had_begun(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            source = ends.source
            openings = source.openings(source.end().position)
            assert (openings[-1].number, openings[-1].reign) == (source.epoch, source.reign)
            assert all(each.position < source.end().position for each in openings)
            assert source.openings(0) == ()

        play(ends, scenario)


class TestMirror:
    def test_its_positions_are_its_own_word(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            source, mirror = ends.source, ends.mirror
            source.connected(mirror, Positions(2, 1, 0, 0))
            assert (mirror.received, mirror.durable) == (2, 1)
            source.acknowledged(mirror, Positions(2, 2, 1, 2))
            assert (mirror.durable, mirror.agreed_point, mirror.agreed_position) == (2, 1, 2)
            source.connected(mirror, Positions(1, 1, 0, 0))
            assert (mirror.received, mirror.durable, mirror.agreed_point) == (1, 1, 0)

        play(ends, scenario)

    def test_what_clients_wait_for_is_asked_for(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            source, mirror = ends.source, ends.mirror
            await source.plan_base(mirror)
            await source.based(mirror)
            await source.joined(mirror, b"n" * 16)
            assert source.durable_wanted(mirror) == 0
            asked: list[int] = []
            mirror.ask_durable = asked.append
            waiting = asyncio.ensure_future(mirror.wait_durable(2))
            await asyncio.sleep(0)
            assert (asked, source.durable_wanted(mirror), waiting.done()) == ([2], 2, False)
            source.acknowledged(mirror, Positions(2, 2, 0, 0))
            await waiting
            assert source.durable_wanted(mirror) == 0

        play(ends, scenario)


class TestTarget:
    def test_an_empty_directory_becomes_a_copy_that_has_begun(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            node = ends.directory.node
            assert ends.directory.secondary is None and len(node) == 16
            target = await ends.begin()
            point = ends.source.base_point(ends.mirror)
            assert point is not None and ends.directory.secondary is target and ends.directory.node == node
            assert (target.name, target.volume_id) == (ends.source.name, ends.source.volume_id)
            assert target.base is not None
            base = target.base
            assert (base.point, base.position, base.chain) == (point.number, point.position, point.chain)
            assert base.next_block == 0
            assert target.end.position == target.received == target.durable == point.position
            assert target.agreed is not None and target.agreed.number == point.number
            assert target.known_epoch == (ends.source.epoch, ends.source.reign)

        play(ends, scenario)

    def test_it_says_what_it_has_room_for(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            for _ in range(2):
                room = ends.directory.room()
                assert room.budget > 0 and room.free > 0
                await ends.begin()

        play(ends, scenario)

    def test_an_unfinished_base_begins_anew_and_a_whole_copy_does_not(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            first = await ends.begin()
            second = await ends.begin()
            assert first is not second and ends.directory.secondary is second
            await ends.send_base(second)
            await second.finish_base()
            assert second.base is None
            with pytest.raises(Refused):
                await ends.begin()

        play(ends, scenario)

    def test_blocks_of_the_base_are_looked_at_and_what_is_settled_is_there(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            target = await ends.begin()
            content = os.urandom(BLOCK)
            digests = np.array(block_digests(memoryview(content), 1), np.uint64)
            block = np.array([3], np.uint64)
            with pytest.raises(Refused):
                await target.put_base(block, digests, os.urandom(BLOCK), 4)
            await target.put_base(block, digests, content, 4)
            await target.settle_base()
            assert target.base is not None and target.base.next_block == 4

        play(ends, scenario)

    def test_a_base_that_does_not_sum_up_to_its_point_is_refused(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            target = await ends.begin()
            content = os.urandom(BLOCK)
            digests = np.array(block_digests(memoryview(content), 1), np.uint64)
            await target.put_base(np.array([3], np.uint64), digests, content, BLOCKS)
            with pytest.raises(Refused):
                await target.finish_base()
            assert target.base is not None

        play(ends, scenario)

    def test_a_log_is_kept_as_it_was_sent(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            target = await ends.whole()
            await ends.write(50, 3)
            await ends.write(3)
            arrived = await ends.lacking(target.end.position)
            assert target.need(arrived) >= sum(each.transfer.total_blocks for each in arrived)
            await target.room(target.need(arrived))
            assert await ends.keep(target, arrived) == target.received == ends.source.feed.end
            assert target.end == ends.source.end()
            there = await everything(target.feed, arrived[0].transfer.position - 1)
            assert [(each.shared_header, bytes(carried(each).payload)) for each in there] == [
                (each.shared_header, bytes(each.payload)) for each in arrived
            ]

        play(ends, scenario)

    @pytest.mark.parametrize("bent", ["payload", "volume", "epoch"])
    def test_what_is_not_of_the_log_is_refused_and_nothing_of_it_kept(self, ends: Ends, bent: str) -> None:
        async def scenario(ends: Ends) -> None:
            target = await ends.whole()
            await ends.write(50)
            await ends.write(60)
            arrived = await ends.lacking(target.end.position)
            before, last = target.end, arrived[-1]
            match bent:
                case "payload":
                    last = ReceivedTransfer(last.transfer, last.shared_header, os.urandom(len(last.payload)))
                case "volume":
                    last = ReceivedTransfer(
                        replace(last.transfer, volume=bytes(16)), last.shared_header, last.payload
                    )
                case "epoch":
                    last = ReceivedTransfer(replace(last.transfer, epoch=0), last.shared_header, last.payload)
            with pytest.raises(Refused):
                target.keep([*arrived[:-1], last])
            assert target.end == before and target.received == before.position
            target.keep(arrived)
            assert target.end == ends.source.end()

        play(ends, scenario)

    def test_what_was_asked_for_is_durable_and_that_is_told(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            target, told = await ends.whole(), list[int]()
            follower = Follower(told)
            target.attach(follower)
            await ends.write(50)
            await ends.keep(target, await ends.lacking(target.end.position))
            await target.make_durable(target.received)
            assert target.durable == target.received
            await asyncio.sleep(0)
            assert told and told[-1] == target.received
            target.detach(follower)

        play(ends, scenario)

    def test_its_feed_ends_where_it_ends(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            target = await ends.whole()
            await ends.write(50)
            await ends.keep(target, await ends.lacking(target.end.position))
            end = target.end
            assert target.feed.end == target.received
            assert await target.feed.identity_at(end.position) == (end.epoch, end.reign, end.chain)
            assert target.known_epoch == (end.epoch, end.reign)

        play(ends, scenario)

    def test_where_nothing_is_incomplete_nothing_is_cut_off(self, ends: Ends) -> None:
        async def scenario(ends: Ends) -> None:
            target = await ends.whole()
            await ends.write(50)
            await ends.keep(target, await ends.lacking(target.end.position))
            end = target.end
            await ends.directory.truncate_incomplete()
            again = ends.directory.secondary
            assert again is not None and again.end == end and again.received == end.position
            await ends.directory.open_again()
            assert ends.directory.secondary is again

        play(ends, scenario)
