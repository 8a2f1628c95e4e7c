"""A client that waits for a sync waits for all disks at once, not for one after the other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from revolume.log.write.operations import OP_WRITE
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.manifest_state import MirrorMode

from .driver import BLOCK, Driver, abandon
from .store import TINY, inline_host, payload
from .test_cuts_among_writes import GatedSync


def test_a_required_mirror_is_asked_to_sync_before_the_own_sync_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        work = GatedSync()
        host = replace(inline_host(), work=work)
        driver = Driver(host, tmp_path / "v", 1 << 20, TINY)
        await driver.open()
        volume, asked = driver.volume, list[int]()
        mirror = await volume.mirrors.register("m", MirrorMode.SYNC)
        await volume.mirrors.pin_base(mirror)
        await volume.mirrors.joined(mirror, b"n" * 16)
        mirror.ask_durable = asked.append
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        work.gate.clear()
        waiter = asyncio.ensure_future(volume.durable(volume.position))
        while not work.waiting:
            await asyncio.sleep(0)
        assert asked[:1] == [volume.position] and volume.log.commit.durable < volume.position
        work.gate.set()
        await volume.log.commit.wait_durable(volume.position)
        await asyncio.sleep(0)
        assert not waiter.done(), "answered without the mirror's disk"
        volume.mirrors.acknowledged(mirror, Positions(volume.position, volume.position, 0, 0))
        await asyncio.wait_for(waiter, 60)
        await abandon(volume)

    asyncio.run(scenario())
