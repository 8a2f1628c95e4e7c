"""The link between real volumes: what a client wrote here is there, at every point, and after a promotion."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from revolume.errors import RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.host import real_host
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.mirror.mirror_status import MirrorState
from revolume.mirror.recovery.tail_fetcher import fetch_tail
from revolume.mirror.source.mirror_source import MirrorSource
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.mirror.target.target import Target
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.open.log_identity import End
from revolume.volume.open.open import open_secondary
from revolume.volume.secondary import Secondary
from tests.mirror.harness import run, until
from tests.volume.driver import BLOCK, SEGMENT, SMALL, abandon
from tests.volume.mirrored import Mirrored

pytestmark = pytest.mark.timeout(120)

SIZE = 300 * BLOCK
THERE = replace(SMALL, segment_bytes=2 * SEGMENT)


class Linked(Mirrored):
    """A driver whose volume is mirrored over a socket, as one node does it to another."""

    mode = MirrorMode.SYNC

    def __init__(self, folder: Path) -> None:
        super().__init__(real_host(), folder / "vol", SIZE)
        self.folder = folder
        self.told: list[str] = []
        self.shelf: RealCopyDirectory | None = None
        self.target: Target | None = None
        self.source: MirrorSource | None = None
        self.address = f"unix:{folder}/m.sock"
        self.chance = random.Random(7)

    def tell(self, event: str) -> None:
        print(event)  # shown with a failing test
        self.told.append(event)

    async def serve_mirror(self) -> None:
        secondary = await open_secondary(self.host, str(self.there), THERE) if self.there.exists() else None
        self.shelf = RealCopyDirectory(self.host, str(self.there), THERE, secondary)
        self.target = Target(self.host, self.shelf, None, self.tell)
        await self.target.listen(self.address)

    async def stop_mirror(self) -> None:
        assert self.target is not None
        assert self.shelf is not None
        await self.target.stop()
        if self.shelf.secondary is not None:
            await self.shelf.secondary.close()
        self.target = self.shelf = None

    async def feed_mirror(self) -> None:
        mirror = await self.volume.mirrors.register("m", self.mode)
        origin = VolumeSource(self.volume)
        node = self.volume.manifest.state.node
        self.source = MirrorSource(self.host, origin, mirror, self.address, node, None, self.tell)
        self.source.start()

    async def stop_feeding(self) -> None:
        assert self.source is not None
        await self.source.stop()
        self.source = None

    async def stop(self) -> None:
        if self.source is not None:
            await self.stop_feeding()
        if self.target is not None:
            await self.stop_mirror()
        await self.volume.close()

    async def churn(self, count: int) -> None:
        """Writes of every shape."""
        for _ in range(count):
            offset = self.chance.randrange(SIZE - 40 * BLOCK) // 512 * 512
            match self.chance.randrange(6):
                case 0:
                    what = (OP_WRITE, offset, self.chance.randbytes(512 * self.chance.randrange(1, 20)))
                case 1:
                    what = (OP_ZERO, offset, 512 * self.chance.randrange(1, 80))
                case 2:
                    what = (OP_TRIM, offset // BLOCK * BLOCK, BLOCK * self.chance.randrange(1, 8))
                case _:
                    blocks = self.chance.randrange(1, 30)
                    what = (OP_WRITE, offset // BLOCK * BLOCK, self.chance.randbytes(BLOCK * blocks))
            await self.change([what])

    async def in_sync(self) -> None:
        assert self.source is not None
        source = self.source
        await until(lambda: source.status().state == MirrorState.IN_SYNC)
        await until(lambda: self.volume.released(self.volume.position))
        await until(lambda: len(self.volume.manifest.state.resync_points) > 0)  # the log has said where it stands
        assert await self.volume.membership.all_stated()

    async def agreed(self) -> None:
        """A point is made, and reached there."""
        point = await self.volume.cut()
        (mirror,) = self.volume.mirrors
        await until(lambda: mirror.agreed_point >= point.number)
        assert self.shelf is not None
        self.secondary = self.shelf.secondary


def test_a_new_mirror_gets_base_and_log_and_stands_at_every_point(folder: Path) -> None:
    async def scenario() -> None:
        linked = Linked(folder)
        await linked.open()
        await linked.churn(60)
        await linked.serve_mirror()
        await linked.feed_mirror()
        await linked.churn(60)
        await linked.in_sync()
        for _ in range(3):
            await linked.churn(20)
            await linked.agreed()
            await linked.check_mirror(10)
        (mirror,) = linked.volume.mirrors
        assert mirror.required
        await linked.volume.durable(linked.volume.position)
        assert mirror.durable >= linked.volume.position
        await linked.churn(10)
        await linked.in_sync()
        await linked.stop()
        await linked.check_promoted()
        await linked.host.work.close()

    run(scenario, 100)


def test_links_and_ends_that_break_lose_nothing(folder: Path) -> None:
    async def scenario() -> None:
        linked = Linked(folder)
        await linked.open()
        await linked.churn(30)
        await linked.serve_mirror()
        await linked.feed_mirror()
        await linked.in_sync()
        for round in range(6):
            await linked.churn(15)
            if round % 3 == 0:
                await linked.stop_mirror()
                await linked.churn(15)
                await linked.serve_mirror()
            elif round % 3 == 1:
                await linked.stop_feeding()
                await linked.churn(15)
                await linked.feed_mirror()
            else:
                assert linked.target is not None
                assert linked.target.current is not None
                linked.target.current.link.break_off("Pulled.")
            await linked.agreed()
            await linked.check_mirror(5)
        assert not any("fault" in text for text in linked.told), linked.told
        assert sum(" base. " in text for text in linked.told) == 2  # told at both ends, once
        await linked.stop()
        await linked.check_promoted()
        await linked.host.work.close()

    run(scenario, 100)


def test_a_base_is_taken_up_again_by_a_mirror_that_was_stopped(folder: Path) -> None:
    async def scenario() -> None:
        linked = Linked(folder)
        await linked.open()
        await linked.change([(OP_WRITE, 0, linked.chance.randbytes(BLOCK * 250))])
        await linked.volume.cut()
        await linked.serve_mirror()
        await linked.feed_mirror()
        assert linked.shelf is not None
        shelf = linked.shelf
        await until(lambda: shelf.secondary is not None)
        await linked.stop_mirror()
        await linked.churn(10)
        await linked.serve_mirror()
        await linked.in_sync()
        await linked.agreed()
        await linked.check_mirror(5)
        await linked.stop()
        await linked.host.work.close()

    run(scenario, 100)


def test_a_sync_write_waits_for_its_mirror_and_for_no_other(folder: Path) -> None:
    async def scenario() -> None:
        linked = Linked(folder)
        await linked.open()
        await linked.serve_mirror()
        await linked.feed_mirror()
        await linked.churn(5)
        await linked.in_sync()
        await linked.stop_mirror()
        await linked.churn(1)
        released = asyncio.Event()
        linked.volume.on_release(linked.volume.position, released.set)
        flushed = asyncio.create_task(linked.volume.durable(linked.volume.position))
        await asyncio.sleep(0.1)
        assert not released.is_set()
        assert not flushed.done()
        await linked.serve_mirror()
        await released.wait()
        await flushed
        await linked.stop()
        await linked.host.work.close()

    run(scenario, 100)


def test_a_primary_fetches_the_tail_that_only_its_mirror_has(folder: Path) -> None:
    """As after a power cut: the source's own copy of the tail is gone."""

    async def scenario() -> None:
        linked = Linked(folder)
        await linked.open()
        await linked.churn(10)
        await linked.serve_mirror()
        await linked.feed_mirror()
        await linked.in_sync()
        feed = linked.volume.feed
        position = feed.end
        await linked.churn(20)
        await linked.in_sync()
        here = await feed.identity_at(position)
        assert here is not None
        behind = End(position, *here, 0, 0)
        taken: list[int] = []

        class TransferStore:
            received = position

            def keep(self, carried):
                taken.extend(one.transfer.position for one in carried)
                return taken[-1]

            def need(self, carried):
                return 1

            async def room(self, blocks): ...

            def check_end(self, end): ...

        volume = linked.volume.volume_id
        node = linked.volume.manifest.state.node
        await linked.stop_feeding()
        fetched = await fetch_tail(
            linked.host, linked.address, None, Fetch(volume, node, behind), TransferStore(), 16, 5.0
        )
        assert taken == list(range(position + 1, feed.end + 1))
        assert fetched.mirror.position == feed.end
        with pytest.raises(RevolumeError, match="not the one"):
            other = replace(behind, chain=b"x" * 16)
            await fetch_tail(
                linked.host, linked.address, None, Fetch(volume, node, other), TransferStore(), 16, 5.0
            )
        await linked.stop()
        await linked.host.work.close()

    run(scenario, 100)


def test_views_of_a_mirror_are_of_its_points(folder: Path) -> None:
    from revolume.history.views import open_view

    async def scenario() -> None:
        linked = Linked(folder)
        await linked.open()
        await linked.serve_mirror()
        await linked.feed_mirror()
        await linked.churn(20)
        await linked.in_sync()
        await linked.agreed()
        assert linked.secondary is not None
        view = await open_view(linked.secondary, ResolvedMoment(linked.secondary.agreed.write, 0), "test")
        view.close()
        await linked.stop()
        await linked.host.work.close()

    run(scenario, 100)


class Refusing:
    """A segment's file that takes nothing any more."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def pwritev(self, buffers: Any, offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_write_that_left_before_it_failed_here_is_in_the_mirrors_log_and_is_fetched(folder: Path) -> None:
    async def scenario() -> None:
        linked = Linked(folder)
        await linked.open()
        await linked.serve_mirror()
        await linked.feed_mirror()
        await linked.churn(10)
        await linked.in_sync()
        volume, appender = linked.volume, linked.volume.log.appender
        behind = volume.feed.end
        found = await volume.feed.identity_at(behind)
        assert found is not None
        assert appender.segment is not None
        appender.segment = replace(appender.segment, file=Refusing(appender.segment.file))
        with pytest.raises(RevolumeError, match="Writing the log failed"):
            await linked.append([(OP_WRITE, 0, BLOCK, memoryview(b"t" * BLOCK))])
        (mirror,) = volume.mirrors
        await until(lambda: mirror.received == behind + 1)
        assert volume.position == behind, "it is not in this log, so it was not answered"
        with pytest.raises(RevolumeError, match="Writing the log failed"):
            await linked.append([(OP_WRITE, BLOCK, BLOCK, memoryview(b"u" * BLOCK))])
        taken: list[ReceivedTransfer] = []

        class TransferStore:
            received = behind

            def keep(self, carried: Sequence[ReceivedTransfer]) -> int:
                taken.extend(replace(one, payload=bytes(one.payload)) for one in carried)
                return taken[-1].transfer.position

            def need(self, carried: Sequence[ReceivedTransfer]) -> int:
                return 1

            async def room(self, blocks: int) -> None: ...

            def check_end(self, end: End) -> None: ...

        await linked.stop_feeding()
        end = End(behind, *found, volume.write, appender.time_ns)
        fetch = Fetch(volume.volume_id, volume.manifest.state.node, end)
        await fetch_tail(linked.host, linked.address, None, fetch, TransferStore(), 16, 5.0)
        assert [one.payload for one in taken] == [b"t" * BLOCK]
        await linked.stop_mirror()
        await abandon(volume)
        await linked.host.work.close()

    run(scenario, 60)


async def losing_its_link_at_the_end_of_the_base(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Linked, asyncio.Event]:
    """The link is gone while the base is being completed, which goes on when the event is set."""
    begun, released, finish = asyncio.Event(), asyncio.Event(), Secondary.finish_base

    async def slow(self: Secondary) -> None:
        begun.set()
        await released.wait()
        await finish(self)

    monkeypatch.setattr(Secondary, "finish_base", slow)
    linked = Linked(folder)
    await linked.open()
    await linked.churn(20)
    await linked.serve_mirror()
    await linked.feed_mirror()
    await begun.wait()
    await linked.stop_feeding()
    return linked, released


def test_a_base_that_is_being_completed_when_the_link_breaks_is_complete_for_the_next_session(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a session has begun to store is stored before the next one is told what is there."""

    async def scenario() -> None:
        linked, released = await losing_its_link_at_the_end_of_the_base(folder, monkeypatch)
        await linked.feed_mirror()
        for _ in range(20):
            await asyncio.sleep(0.005)
        released.set()
        await linked.in_sync()
        await linked.agreed()
        await linked.check_mirror(10)
        assert not any("where none is expected" in told or "rule resume-base" in told for told in linked.told)
        await linked.stop()

    run(scenario)


def test_a_mirror_that_stops_has_stored_what_was_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        linked, released = await losing_its_link_at_the_end_of_the_base(folder, monkeypatch)
        await until(lambda: linked.target is not None and linked.target.current is None)
        stopping = asyncio.get_running_loop().create_task(linked.stop_mirror())
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not stopping.done()
        released.set()
        await stopping
        await linked.serve_mirror()
        assert linked.shelf is not None
        assert linked.shelf.secondary is not None
        assert linked.shelf.secondary.base is None, "it is whole"
        await linked.stop()

    run(scenario)
