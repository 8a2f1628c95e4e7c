"""What of the log is kept for a mirror that is a whole copy already, is replaced, or loses its hold meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Refused
from revolume.log.write.operations import OP_WRITE
from revolume.mirror.source.volume_source import VolumeSource
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.manifest_state import MirrorMode

from .driver import BLOCK, Driver, abandon
from .store import TINY, inline_host, payload

SIZE = 1 << 20
pytestmark = pytest.mark.timeout(60)


class Fed(Driver):
    """A driver whose volume has two points, and a sync mirror ``m`` of which nothing is known yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(inline_host(), path, SIZE, replace(TINY, spare_bytes=1 << 20))

    async def begin(self) -> Mirror:
        await self.open()
        for seed in (1, 2):
            await self.change([(OP_WRITE, seed * BLOCK, payload(seed, BLOCK))])
            await self.volume.cut()
        return await self.volume.mirrors.register("m", MirrorMode.SYNC)


def play(scenario: Callable[[Fed, Mirror], Awaitable[None]], path: Path) -> None:
    async def run() -> None:
        driver = Fed(path / "v")
        mirror = await driver.begin()
        try:
            await scenario(driver, mirror)
        finally:
            await abandon(driver.volume)

    asyncio.run(run())


def test_for_a_whole_copy_that_another_source_fed_the_log_is_kept_from_where_it_stands(tmp_path: Path) -> None:
    """After a failover the new primary knows nothing of the other mirrors. They may lack much of its log."""

    async def scenario(driver: Fed, mirror: Mirror) -> None:
        mirrors, first = driver.volume.mirrors, driver.volume.retained.points[0]
        there = Positions(first.position + 1, first.position + 1, first.number, first.position + 1)
        mirrors.connected(mirror, there)
        await mirrors.based(mirror)
        assert (mirror.state.kept, mirror.state.point, mirror.state.write) == (True, first.number, first.write)
        await mirrors.joined(mirror, b"n" * 16)
        assert mirror.required and mirror.state.point == first.number

    play(scenario, tmp_path)


def test_who_is_replaced_while_it_joins_does_not_join_with_nothing_kept(tmp_path: Path) -> None:
    async def scenario(driver: Fed, mirror: Mirror) -> None:
        mirrors = driver.volume.mirrors
        await mirrors.pin_base(mirror)
        replaced = asyncio.ensure_future(mirrors.replace("m"))
        joined = asyncio.ensure_future(mirrors.joined(mirror, b"n" * 16))
        await replaced
        with pytest.raises(Refused) as refused:
            await joined
        assert refused.value.code == "mirror-given-up"
        assert not mirror.required

    play(scenario, tmp_path)


def test_what_is_kept_for_a_base_that_is_completed_at_this_moment_does_not_give_way(tmp_path: Path) -> None:
    async def scenario(driver: Fed, mirror: Mirror) -> None:
        mirrors = driver.volume.mirrors
        await mirrors.pin_base(mirror)
        based = asyncio.ensure_future(mirrors.based(mirror))
        await asyncio.sleep(0)
        dropped = asyncio.ensure_future(mirrors.drop_hold())
        await asyncio.gather(based, dropped)
        assert mirror.firm and mirror.state.kept

    play(scenario, tmp_path)


def test_a_base_that_begins_where_a_whole_copy_is_gone_can_give_way(tmp_path: Path) -> None:
    """Its base was complete; before it had joined an empty directory appeared in its place."""

    async def scenario(driver: Fed, mirror: Mirror) -> None:
        mirrors, origin = driver.volume.mirrors, VolumeSource(driver.volume)
        await origin.plan_base(mirror)
        await mirrors.based(mirror)
        assert mirror.firm
        plan = await origin.plan_base(mirror)
        assert not mirror.firm and mirror.state.write == mirror.state.since == plan.point.write
        assert await mirrors.drop_hold()

    play(scenario, tmp_path)
