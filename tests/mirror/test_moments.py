"""Snapshots that the horizon has left are on a new mirror too: their moments travel before the base."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.digest import digest_array
from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.mirror.mirror_status import MirrorState
from revolume.mirror.recorded_status import lacked_by
from revolume.mirror.source.moment_reader import PinnedMoments, RescuedMoment
from revolume.mirror.wire.block_messages import BlockRows
from revolume.mirror.wire.frames import ProtocolError, Type, control
from revolume.mirror.wire.moment_messages import PinnedMoment, pack_moment, unpack_moment
from revolume.offline.check.check import check
from revolume.volume.metadata.manifest_state import Horizon, MirrorMode
from revolume.volume.secondary import Secondary
from tests.mirror.harness import until
from tests.mirror.test_volumes import Linked
from tests.volume.driver import SEGMENT, SMALL

pytestmark = pytest.mark.timeout(120)
BUDGET = replace(SMALL, budget_bytes=60 * SEGMENT, keep_s=0.0)


class Narrow(Linked):
    """Its log folds soon, so that snapshots are left behind."""

    def __init__(self, folder: Path, mode: MirrorMode = MirrorMode.SYNC) -> None:
        super().__init__(folder)
        self.options = BUDGET
        self.mode = mode

    async def past(self) -> dict[str, int]:
        """Three snapshots that the horizon has left, one of them dropped; names and writes of those that are."""
        for name in ("one", "gone", "two"):
            await self.churn(20)
            await self.volume.snapshot(name)
            for _ in range(3):
                await self.churn(20)
                await self.volume.point_maker.cut()
                await self.fold()
        await self.volume.drop_snapshot("gone")
        named = {s.name: s.write for s in self.volume.snapshots()}
        assert self.volume.folder.horizon.write > max(named.values())
        return named


async def check_there(driver: Linked, named: dict[str, int]) -> None:
    there = driver.shelf.secondary if driver.shelf is not None else None
    assert isinstance(there, Secondary)
    assert {s.name: s.write for s in there.snapshots()} == named
    assert not there.manifest.state.lacking
    for write in named.values():
        view = await open_view(there, ResolvedMoment(write, 0), "test")
        buffer = bytearray(view.size)
        await view.reader.read(0, memoryview(buffer))
        view.close()
        assert buffer == driver.model.content(*driver.model.moments[write]), write


@pytest.mark.parametrize("mode", list(MirrorMode))
def test_a_new_mirror_has_every_snapshot_however_old(folder: Path, mode: MirrorMode) -> None:
    async def run() -> None:
        driver = Narrow(folder, mode)
        await driver.open()
        named = await driver.past()
        await driver.serve_mirror()
        await driver.feed_mirror()
        await driver.in_sync()
        await check_there(driver, named)
        recorded = driver.volume.manifest.state.mirrors[0]
        assert recorded.moments and not lacked_by(recorded, driver.volume.manifest.state.snapshots)
        for _ in range(4):
            await driver.churn(60)
            await driver.agreed()
        await check_there(driver, named)
        await driver.stop()
        assert check(driver.host, str(driver.there)).good

    asyncio.run(run())


def test_writes_and_folds_go_on_while_they_travel_and_the_link_breaks(folder: Path) -> None:
    async def run() -> None:
        driver = Narrow(folder, MirrorMode.ASYNC)
        await driver.open()
        named = await driver.past()
        await driver.serve_mirror()
        await driver.feed_mirror()
        for _ in range(6):
            await driver.churn(8)  # all within the budget: a mirror that is away loses no log by it
            await driver.volume.point_maker.cut()
            await driver.fold()
            await driver.stop_feeding()
            await driver.feed_mirror()
            await asyncio.sleep(0.02)
        source = driver.source
        assert source is not None
        await until(lambda: source.status().state == MirrorState.IN_SYNC)
        await driver.agreed()
        await check_there(driver, named)
        await driver.stop()
        assert check(driver.host, str(driver.there)).good

    asyncio.run(run())


@pytest.mark.parametrize("dropped", ["one", "two"])
def test_a_name_that_is_dropped_while_they_travel_is_not_waited_for(
    folder: Path, dropped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is being sent goes on, the other is not there any more when its turn comes."""

    async def run() -> None:
        driver = Narrow(folder)
        await driver.open()
        named = await driver.past()
        opened = PinnedMoments.open

        async def then_dropped(self: PinnedMoments, moment: Point, base: Point) -> RescuedMoment:
            reader = await opened(self, moment, base)
            if dropped in named:
                del named[dropped]
                await driver.volume.drop_snapshot(dropped)
                await driver.fold()
            return reader

        monkeypatch.setattr(PinnedMoments, "open", then_dropped)
        await driver.serve_mirror()
        await driver.feed_mirror()
        await driver.in_sync()
        await driver.churn(3)
        await driver.agreed()  # a point behind the drop, which has been dealt with then
        await check_there(driver, named)
        await driver.stop()
        assert check(driver.host, str(driver.there)).good

    asyncio.run(run())


def test_a_moment_that_does_not_sum_up_is_refused(folder: Path) -> None:
    """The source's word for a moment's root is compared with what came."""

    async def run() -> None:
        driver = Narrow(folder)
        await driver.open()
        await driver.past()
        put = Secondary.put_moment

        async def other(self: Secondary, moment: Horizon, *rows: object) -> None:
            await put(self, replace(moment, root_low=moment.root_low ^ 1), *rows)  # type: ignore[arg-type]

        Secondary.put_moment = other  # type: ignore[method-assign, assignment]
        try:
            await driver.serve_mirror()
            await driver.feed_mirror()
            await until(lambda: any("summed up, differs" in told for told in driver.told))
        finally:
            Secondary.put_moment = put  # type: ignore[method-assign]
        await driver.stop()

    asyncio.run(run())


MOMENT = PinnedMoment(3, 40, 17, 99, 1 << 20, (5, 6), b"c" * 16)


def frame(blocks: list[int], content: bytes, last: bool, digests: list[int] | None = None) -> memoryview:
    stated = digest_array(memoryview(content), len(content) // 4096)
    rows = BlockRows(
        np.array(blocks, np.uint64),
        stated if digests is None else np.array(digests, np.uint64),
        memoryview(content),
    )
    return memoryview(control(Type.MOMENT, 1, pack_moment(MOMENT, rows, last), payload=len(content)) + content)


def test_a_frame_of_a_moment_is_read_as_it_was_written() -> None:
    content = random.Random(1).randbytes(2 * 4096)
    moment, rows, last = unpack_moment(frame([4, 9], content, True))
    assert (moment, last, rows.blocks.tolist(), bytes(rows.payload)) == (MOMENT, True, [4, 9], content)
    _, rows, last = unpack_moment(frame([7], b"", False, [0]))
    assert (rows.digests.tolist(), len(rows.payload), last) == ([0], 0, False)


@pytest.mark.parametrize(
    ("blocks", "content", "last", "digests"),
    [
        ([9, 4], bytes(8192), False, None),
        ([4, 9], bytes(4096), False, [1, 2]),
        ([4], b"x" * 4096, False, [12345]),
        ([], b"", False, None),
    ],
)
def test_a_frame_that_lies_is_refused(
    blocks: list[int], content: bytes, last: bool, digests: list[int] | None
) -> None:
    with pytest.raises((ProtocolError, RevolumeError)):
        unpack_moment(frame(blocks, content, last, digests))
