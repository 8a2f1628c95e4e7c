"""The present is the last write, and its time is that write's: facts and openings have labels of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from revolume.history.exports import VolumeExports
from revolume.history.moments import Now
from revolume.log.write.operations import OP_WRITE
from tests.volume.driver import BLOCK, Driver
from tests.volume.store import TINY, inline_host, payload


def test_a_restart_does_not_make_the_present_younger(tmp_path: Path) -> None:
    async def run() -> None:
        driver = Driver(inline_host(), tmp_path / "v", 64 * BLOCK, TINY)
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        then = driver.volume.newest
        assert driver.volume.status().time_ns == then[1]
        await driver.volume.snapshot("s")
        await driver.reopen()
        assert driver.volume.newest == then
        await driver.volume.durable(driver.volume.position)
        await driver.crash()
        resolved = VolumeExports(driver.volume, driver.volume).resolver.resolve(Now())
        assert (resolved.write, resolved.time_ns) == then == driver.volume.newest
        await driver.fold()
        await driver.volume.close()

    asyncio.run(run())
