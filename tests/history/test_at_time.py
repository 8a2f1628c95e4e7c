"""``@TIME`` under a clock that only goes forward: the last write whose label is at or before that time.

A write's own time names it (or the last of its transfer, which share a label); a nanosecond earlier names the
write before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import NotFound
from revolume.history.moments import AtTime, AtWrite
from revolume.history.open_history import OpenHistory
from revolume.history.resolver import MomentResolver
from revolume.log.write.operations import OP_WRITE
from tests.volume.driver import BLOCK, Driver, abandon
from tests.volume.store import TINY, inline_host, payload

SIZE = 1 << 20
pytestmark = pytest.mark.timeout(60)


async def history(driver: Driver) -> None:
    """Transfers of one write and of several, among points, over some segments; a restart in the middle."""
    for number in range(30):
        many = number % 4 + 1 if number % 3 == 0 else 1
        await driver.change([(OP_WRITE, (number + i) * BLOCK, payload(number, BLOCK)) for i in range(many)])
        if number % 7 == 6:
            await driver.volume.point_maker.cut()
        if number == 17:
            await driver.reopen()
        await asyncio.sleep(0)


def labels(resolver: MomentResolver, driver: Driver) -> dict[int, int]:
    """Every write's label."""
    return {write: resolver.resolve(AtWrite(write)).time_ns for write in driver.model.moments if write}


def play(path: Path, fold: bool) -> None:
    async def run() -> None:
        driver = Driver(inline_host(), path / "v", SIZE, replace(TINY, spare_bytes=1 << 20))
        await driver.open()
        try:
            await history(driver)
            if fold:
                assert await driver.fold()
                oldest = driver.volume.folder.horizon.write
                driver.model.moments = {n: s for n, s in driver.model.moments.items() if n >= oldest}
            judge(driver)
        finally:
            await abandon(driver.volume)

    asyncio.run(run())


def judge(driver: Driver) -> None:
    resolver = MomentResolver(OpenHistory(driver.volume))
    known = labels(resolver, driver)
    assert sorted(known.values()) == [known[write] for write in sorted(known)]
    oldest = min(known.values())
    for write, label in known.items():
        same = max(other for other, time in known.items() if time == label)
        assert resolver.resolve(AtTime(label)).write == same, f"at the time of w{write}"
        assert resolver.resolve(AtTime(label)).time_ns == label
        before = [other for other, time in known.items() if time < label]
        if before:
            found = resolver.resolve(AtTime(label - 1))
            assert (found.write, found.time_ns) == (max(before), known[max(before)]), f"just before w{write}"
    newest = max(known)
    now = driver.host.clock.wall_ns()
    assert resolver.resolve(AtTime(now)).write == newest
    with pytest.raises(NotFound) as early:
        resolver.resolve(AtTime(oldest - 10**12))
    assert early.value.code == "moment-not-retained"
    with pytest.raises(NotFound) as late:
        resolver.resolve(AtTime(now + 10**12))
    assert late.value.code == "moment-in-future"


@pytest.mark.parametrize("fold", [False, True])
def test_a_time_is_the_last_write_at_or_before_it(fold: bool, tmp_path: Path) -> None:
    play(tmp_path, fold)
