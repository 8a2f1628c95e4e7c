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
from revolume.history.timeline import Spot
from revolume.host import real_host
from revolume.log.carried import Carried
from revolume.log.ops import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.mirror.fetch import fetch_tail
from revolume.mirror.messages import Fetch
from revolume.mirror.origin import VolumeOrigin
from revolume.mirror.shelf import DirectoryShelf
from revolume.mirror.source import MirrorSource
from revolume.mirror.status import MirrorState
from revolume.mirror.target import Target
from revolume.volume.end import End
from revolume.volume.manifest import MirrorMode
from revolume.volume.opening import open_secondary
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
        self.shelf: DirectoryShelf | None = None
        self.target: Target | None = None
        self.source: MirrorSource | None = None
        self.address = f"unix:{folder}/m.sock"
        self.chance = random.Random(7)

    async def serve_mirror(self) -> None:
        secondary = await open_secondary(self.host, str(self.there), THERE) if self.there.exists() else None
        self.shelf = DirectoryShelf(self.host, str(self.there), THERE, secondary)
        self.target = Target(self.host, self.shelf, None, self.told.append)
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
        origin = VolumeOrigin(self.volume)
        node = self.volume.core.manifest.state.node
        self.source = MirrorSource(self.host, origin, mirror, self.address, node, None, self.told.append)
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

        class Keeper:
            received = position

            def keep(self, carried):
                taken.extend(one.transfer.position for one in carried)
                return taken[-1]

            def need(self, carried):
                return 1

            async def room(self, blocks): ...

        volume = linked.volume.volume_id
        node = linked.volume.core.manifest.state.node
        await linked.stop_feeding()
        fetched = await fetch_tail(
            linked.host, linked.address, None, Fetch(volume, node, behind), Keeper(), 16, 5.0
        )
        assert taken == list(range(position + 1, feed.end + 1))
        assert fetched.mirror.position == feed.end
        with pytest.raises(RevolumeError, match="not the one"):
            other = replace(behind, chain=b"x" * 16)
            await fetch_tail(linked.host, linked.address, None, Fetch(volume, node, other), Keeper(), 16, 5.0)
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
        view = await open_view(linked.secondary, Spot(linked.secondary.agreed.write, 0), "test")
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
        volume, appender = linked.volume, linked.volume.core.appender
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
        taken: list[Carried] = []

        class Keeper:
            received = behind

            def keep(self, carried: Sequence[Carried]) -> int:
                taken.extend(replace(one, payload=bytes(one.payload)) for one in carried)
                return taken[-1].transfer.position

            def need(self, carried: Sequence[Carried]) -> int:
                return 1

            async def room(self, blocks: int) -> None: ...

        await linked.stop_feeding()
        end = End(behind, *found, volume.write, appender.time_ns)
        fetch = Fetch(volume.volume_id, volume.core.manifest.state.node, end)
        await fetch_tail(linked.host, linked.address, None, fetch, Keeper(), 16, 5.0)
        assert [one.payload for one in taken] == [b"t" * BLOCK]
        await linked.stop_mirror()
        await abandon(volume)
        await linked.host.work.close()

    run(scenario, 60)
