"""A volume under test with a mirror of it: the log carried over by hand, transfer by transfer, so that nothing but
the two stores is under test. The mirror has segments of another size, so no place can be assumed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.digest import digest_array
from revolume.chain.point import Point
from revolume.errors import Refused
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host import Host
from revolume.host.network import Peer
from revolume.log.format.received_transfer import OutgoingTransfer, ReceivedTransfer
from revolume.log.format.segment import segment_name
from revolume.log.format.transfer import unpack_shared_header
from revolume.log.write.operations import OP_WRITE, WouldBlock
from revolume.mirror.catch_up_plan import CatchUpPlan, Rule, SourceFacts, plan_catch_up
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.target.copy_description import describe_copy
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.mirror.target.target import Target
from revolume.mirror.target.target_session import TargetSession
from revolume.mirror.wire.codec import Identity, Pin
from revolume.mirror.wire.greeting_messages import Hello
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.open.create import Birth
from revolume.volume.open.open import open_secondary, open_volume
from revolume.volume.open.options import OpenOptions
from revolume.volume.open.tail_catch_up import TailCatchUp, open_tail_catch_up
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary
from tests.support.source_links import Asked

from .driver import BLOCK, SEGMENT, SMALL, Driver, Model, abandon, append, assert_equal

THERE = replace(SMALL, segment_bytes=2 * SEGMENT)
Meddle = Callable[[ReceivedTransfer], ReceivedTransfer]


def carried(shipment: OutgoingTransfer) -> ReceivedTransfer:
    """As it comes out of a link."""
    payload = bytearray(shipment.length)
    assert shipment.file.preadv([payload], shipment.offset) == shipment.length
    transfer = unpack_shared_header(memoryview(shipment.shared_header))
    assert transfer is not None and transfer.position == shipment.position
    return ReceivedTransfer(transfer, shipment.shared_header, memoryview(payload))


class Nobody:
    """The wire of a session that says nothing."""

    peer = Peer("unix", "nobody")


class Mirrored(Driver):
    """A driver whose volume has a mirror at ``there``."""

    def __init__(self, host: Host, path: Path, size: int, options: OpenOptions = SMALL) -> None:
        super().__init__(host, path, size, options)
        self.there = path.with_name(path.name + "-mirror")
        self.secondary: Secondary | None = None
        self.meddle: Meddle = lambda each: each
        self.asked: list[list[int]] = []

    async def begin(self, there: OpenOptions | None = None) -> Secondary:
        """An empty mirror and its base, from a point of the source. ``there``: how the mirror is opened."""
        mirror = await self.volume.mirrors.register("m", MirrorMode.ASYNC)
        point = await self.volume.mirrors.pin_base(mirror)
        horizon = replace(
            self.volume.folder.horizon, point=point.number, write=point.write, position=point.position,
            time_ns=point.time_ns, size=self.volume.sizes.at(point.write), root_low=point.root[0],
            root_high=point.root[1], chain=point.chain,
        )  # fmt: skip
        state = self.volume.manifest.state
        epochs = tuple(e for e in state.epochs if e.position < point.position)
        birth = Birth(self.volume.volume_id, self.volume.name, b"m" * 16, horizon, epochs)
        self.secondary = await open_secondary(self.host, str(self.there), there or THERE, birth)
        self._set_up()
        return self.secondary

    def _set_up(self) -> None:
        assert self.secondary is not None
        self.secondary.attach(Asked(self.whole))

    async def whole(self, point: Point, blocks: list[int]) -> dict[int, bytes | None]:
        self.asked.append(blocks)
        view = await open_view(self.volume, ResolvedMoment(point.write, 0), "asked whole")
        try:
            found: dict[int, bytes | None] = {}
            for block in blocks:
                buffer = bytearray(BLOCK)
                length = min(BLOCK, view.size - block * BLOCK)
                await view.reader.read(block * BLOCK, memoryview(buffer)[:length])
                found[block] = bytes(buffer) if any(buffer) else None
            return found
        finally:
            view.close()

    async def send_base(self, stop_at: int | None = None) -> None:
        """The blocks of the pinned point, from where the mirror stands; ``stop_at``: the link breaks there."""
        there = self.secondary
        assert there is not None and there.base is not None
        view = await open_view(self.volume, ResolvedMoment(there.base.write, 0), "base")
        try:
            blocks = -(-view.size // BLOCK)
            for first in range(there.base.next_block, blocks, 64):
                if stop_at is not None and first >= stop_at:
                    return
                count = min(64, blocks - first)
                buffer = bytearray(count * BLOCK)
                length = min(len(buffer), view.size - first * BLOCK)
                await view.reader.read(first * BLOCK, memoryview(buffer)[:length])
                table = np.frombuffer(buffer, np.uint8).reshape(count, BLOCK)
                some = np.flatnonzero(table.any(axis=1))
                payload = table[some].tobytes()
                digests = digest_array(memoryview(payload), len(some))
                await there.put_base((first + some).astype(np.uint64), digests, payload, first + count)
            await there.finish_base()
        finally:
            view.close()

    async def ship(self, limit: int = 1 << 40) -> None:
        """Up to so many bytes of the log."""
        feed, there = self.volume.feed, self.secondary
        assert there is not None
        while there.end.position < feed.end and limit > 0:
            shipments = feed.recent(there.end.position, min(limit, 1 << 20))
            if shipments is None:
                shipments = await feed.older(there.end.position, min(limit, 1 << 20))
            assert shipments, "the log does not reach back so far"
            limit -= sum(s.length for s in shipments) + 1
            arrived = [self.meddle(carried(s)) for s in shipments]
            while arrived:
                try:
                    there.keep(arrived)
                    break
                except WouldBlock:
                    await asyncio.wait_for(there.room(there.need(arrived)), 60)

    async def settle(self) -> None:
        """Every record that has arrived is dealt with."""
        there = self.secondary
        assert there is not None
        for _ in range(4000):
            if there.failure is not None:
                raise there.failure
            if there.base is not None or not len(there.records):
                return
            await asyncio.sleep(0.005)
        raise AssertionError("records are not being dealt with")

    async def acknowledge(self) -> None:
        """The source learns how far the mirror is; what lies below is no longer held for it."""
        there, mirrors = self.secondary, self.volume.mirrors
        assert there is not None
        mirror, agreed = mirrors.get("m"), there.manifest.state.agreed
        if there.base is None and not mirror.joined and mirror.state.point:
            await mirrors.joined(mirror, there.manifest.state.node)
        mirrors.acknowledged(mirror, Positions(there.received, there.durable, agreed.point, agreed.position))
        await mirrors.advance_hold(mirror)
        await self.volume.tasks.settled()  # what is to be stated of it is

    async def lose_hold(self) -> None:
        """The source needs the room, and folds what the mirror lacks: from then on the log does not reach back to
        where the mirror stands, and is never taken up anywhere else. Another copy is begun."""
        there = self.secondary
        assert there is not None
        await self.volume.mirrors.drop_hold()
        await self.volume.point_maker.cut()
        while await self.volume.folder.step(True):
            pass
        feed, position = self.volume.feed, there.end.position
        found = await feed.older(position, 1 << 20)
        if position < feed.oldest:
            assert not found and await feed.identity_at(position) is None
        elif position < feed.end:
            assert found[0].position == position + 1
        await abandon_secondary(there)
        shutil.rmtree(self.there)
        await self.volume.mirrors.detach("m")
        await self.begin()

    async def reopen_mirror(self) -> None:
        assert self.secondary is not None
        await self.secondary.close()
        self.secondary = await open_secondary(self.host, str(self.there), THERE)
        self._set_up()

    async def crash_mirror(self) -> None:
        assert self.secondary is not None
        await abandon_secondary(self.secondary)
        self.secondary = await open_secondary(self.host, str(self.there), THERE)
        self._set_up()

    # How they find together again

    async def rule(self, source: Volume, shelf: RealCopyDirectory) -> CatchUpPlan:
        """By which rule a source would bring a mirror up to date, from what the two say of themselves when it
        comes to the mirror's door."""
        origin = VolumeSource(source)
        hello = Hello(
            2, *origin.log_blocks, origin.volume_id, source.manifest.state.node,
            origin.reign, origin.epoch, origin.size, origin.feed.oldest, origin.end(), origin.name, "m",
        )  # fmt: skip
        target = Target(self.host, shelf, None, print)
        try:
            session = TargetSession(self.host, Nobody(), shelf, target)  # type: ignore[arg-type]
            welcome = await target.admit(session, hello)
        except Refused:
            welcome = await describe_copy(shelf, hello)
        found = await origin.feed.identity_at(welcome.end.position)
        pinned = None
        if any(m.name == "m" for m in source.mirrors):
            pinned = origin.base_point(source.mirrors.get("m"))
        pin = Pin(pinned.number, pinned.position, pinned.chain) if pinned else None
        return plan_catch_up(SourceFacts(hello, Identity(*found) if found else None, pin), welcome)

    async def power_cut(self, number: int, alone: bool) -> None:
        """The source loses some of what was not on its disk yet. It gets back what the mirror has of it; *alone*
        it goes on without, and then a mirror that has more is refused, and stays as it is."""
        there, places = self.secondary, self._places()
        assert there is not None
        end = self.volume.feed.end
        await abandon(self.volume)
        durable = self.volume.log.commit.durable
        kept = durable + number % (end - durable + 1)
        self._lose(behind=kept, places=places)
        tail = await open_tail_catch_up(self.host, str(self.path), self.options)
        assert durable <= tail.received <= kept
        if not alone and tail.received < there.received:
            await self._fetch(tail, there)
        self.model.roll_back(tail.end.write)
        await tail.close()
        await self.open()
        self.model.seal(self.volume.write)
        await self.check_live()
        await self._together(ahead=there.end.position >= self.volume.log.appender.position - 1 and alone)

    def _on_shelf(self, third: Secondary) -> RealCopyDirectory:
        return RealCopyDirectory(self.host, f"{self.there}-third", THERE, third)

    def _places(self) -> list[tuple[int, Path, int]]:
        """Of every transfer: its position, its segment's file, the block where it begins."""
        log = self.path / "log"
        return [
            (found.transfer.position, log / segment_name(segment.index), found.block)
            for segment in self.volume.log.pool.segments()
            for found in self.volume.feed.transfers(segment)
        ]

    @staticmethod
    def _lose(behind: int, places: list[tuple[int, Path, int]]) -> None:
        """What the page cache had and the disk had not."""
        first: dict[Path, int] = {}
        for position, path, block in places:
            if position > behind:
                first[path] = min(block, first.get(path, block))
        for path, block in first.items():
            with path.open("r+b") as file:
                size = file.seek(0, 2)
                file.seek(block * BLOCK)
                file.write(bytes(size - block * BLOCK))

    @staticmethod
    async def _fetch(tail: TailCatchUp, there: Secondary) -> None:
        at = tail.end
        assert await there.feed.identity_at(at.position) == (at.epoch, at.reign, at.chain)
        while tail.received < there.received:
            for shipment in await there.feed.older(tail.end.position, 1 << 20):
                arrived = [carried(shipment)]
                await asyncio.wait_for(tail.room(tail.need(arrived)), 60)
                tail.keep(arrived)

    async def _together(self, ahead: bool) -> None:
        """After the source was opened again: the log goes on, or the mirror has what the source has not."""
        there = self.secondary
        assert there is not None
        shelf = RealCopyDirectory(self.host, str(self.there), THERE, there)
        decision = await self.rule(self.volume, shelf)
        there = self.secondary = shelf.secondary
        assert there is not None
        self._set_up()
        there.resume()
        assert decision.rule in (Rule.LOG, Rule.RESUME_BASE, Rule.BASE, Rule.DIVERGED, Rule.LOG_GONE), decision
        if decision.rule == Rule.DIVERGED:
            assert ahead and decision.reason and decision.hint
        if decision.rule in (Rule.DIVERGED, Rule.BASE):  # nothing was ever promised of an unfinished base
            assert (decision.rule == Rule.BASE) == (there.base is not None)
            await self._begin_anew()

    async def _begin_anew(self) -> None:
        assert self.secondary is not None
        await abandon_secondary(self.secondary)
        shutil.rmtree(self.there)
        await self.volume.mirrors.detach("m")
        if await self.volume.point_maker.cut() is None and not self.volume.retained.points:
            self.secondary = None
        else:
            await self.begin()

    async def check_old_source_returns(self, openings: int) -> None:
        """The mirror was promoted and has written; the old source wants to go on. It is refused by the promoted
        one's own mirror, however often it was opened, and both stay what they are."""
        third = await open_secondary(self.host, str(self.there) + "-third", THERE)
        promoted = await open_volume(self.host, str(self.there), THERE)
        await append(promoted, [(OP_WRITE, 0, BLOCK, memoryview(b"promoted" * 512))])
        await promoted.point_maker.cut()
        held = bytearray(promoted.size)
        await promoted.read(0, memoryview(held))
        while third.end.position < promoted.feed.end:
            for shipment in await promoted.feed.older(third.end.position, 1 << 20):
                await asyncio.wait_for(third.room(third.need([carried(shipment)])), 60)
                third.keep([carried(shipment)])
        assert not (await self.rule(promoted, self._on_shelf(third))).rule.refuses
        await promoted.close()
        for _ in range(openings):
            await self.open()
            await self.change([(OP_WRITE, BLOCK, b"old" * 700)])
            await self._refused_by(third)
            await self.check_live()
            await self.volume.close()
        await third.close()
        with_it = await open_volume(self.host, str(self.there) + "-third", replace(THERE, promote=True))
        assert_equal(await read_all(with_it), held, "the promoted one's mirror")
        await with_it.close()

    async def _refused_by(self, third: Secondary) -> None:
        before = third.end
        decision = await self.rule(self.volume, self._on_shelf(third))
        assert decision.rule in (Rule.STALE_EPOCH, Rule.RIVAL_EPOCH, Rule.DIVERGED), decision
        assert decision.reason.endswith(".") and decision.hint
        for shipment in await self.volume.feed.older(before.position, 1 << 20):  # nor is it stored
            with pytest.raises(Refused):
                third.keep([carried(shipment)])
        assert third.end == before

    async def check_mirror_moment(self, number: int) -> None:
        there = self.secondary
        assert there is not None
        size, blocks = self.model.moments[number]
        view = await open_view(there, ResolvedMoment(number, 0), "test")
        try:
            assert view.size == size, f"mirror w{number}: size"
            buffer = bytearray(size)
            await view.reader.read(0, memoryview(buffer))
            assert_equal(buffer, Model.content(size, blocks), f"mirror w{number}")
        finally:
            view.close()

    def mirror_moments(self) -> list[int]:
        there = self.secondary
        assert there is not None
        oldest = there.folder.retired_write
        return [n for n in sorted(self.model.moments) if oldest <= n <= there.agreed.write]

    async def check_mirror(self, at_most: int = 1000) -> None:
        """The mirror is at the source's last point, with its root, and its moments equal the model's."""
        there = self.secondary
        assert there is not None
        here = self.volume.retained.points[-1]
        assert (there.agreed.number, there.agreed.root) == (here.number, here.root)
        numbers = self.mirror_moments()
        step = max(1, len(numbers) // at_most)
        for number in sorted({*numbers[::step], *numbers[-1:]}):
            await self.check_mirror_moment(number)

    async def check_promoted(self) -> None:
        """The mirror, stopped, opens as primary and holds everything that it received."""
        promoted = await open_volume(self.host, str(self.there), replace(THERE, promote=True))
        try:
            buffer = bytearray(promoted.size)
            await promoted.read(0, memoryview(buffer))
            assert_equal(buffer, Model.content(self.model.size, self.model.blocks), "promoted")
        finally:
            await promoted.close()


async def read_all(volume: Volume) -> bytearray:
    buffer = bytearray(volume.size)
    await volume.read(0, memoryview(buffer))
    return buffer


async def abandon_secondary(there: Secondary) -> None:
    """Let go of a mirror as kill -9 would."""
    there._closing = True
    for task in there.upkeep.tasks:
        task.cancel()
    await asyncio.gather(*there.upkeep.tasks, return_exceptions=True)
    there.log.pool._stopping = True
    await there.log.pool.stop()
    await there.tasks.settled()
    await there.log.commit.wait_idle()
    await there.log.footers.written()
    if there._fill is not None:
        await there._fill.close()
    await there._jumping.close()
    there.close_files()
