"""A volume and its mirror against one model, at every write number on both sides: whatever the source does and
however the log gets over, in pieces, with either side stopped, killed and folding in between."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revolume.host import Host
from revolume.log.ops import OP_WRITE
from revolume.volume.check import check

from .driver import abandon
from .mirrored import Mirrored, abandon_secondary
from .test_model import MEMORY, SIZE, act, batch, loop_host, other, payload

__all__ = ["loop_host"]

mirroring = st.sampled_from(
    ["ship", "ship", "settle", "mirror-reopen", "mirror-crash", "mirror-fold", "mirror-rebase", "mirror-moment",
     "base", "begin", "acknowledge", "lose-hold", "drop-snapshot"]
)  # fmt: skip
step = st.one_of(
    batch, batch, st.tuples(other, st.integers(0, 1000)), st.tuples(mirroring, st.integers(0, 1 << 20))
)


async def play(driver: Mirrored, steps: list[tuple[str, object]]) -> None:
    await driver.open()
    seed = 0
    for name, what in steps:
        if name == "change":
            changes: list[tuple[int, int, bytes | int]] = []
            for kind, offset, length in what:  # type: ignore[attr-defined]
                seed += 1
                changes.append((kind, offset, payload(seed, length) if kind == OP_WRITE else length))
            await driver.change(changes)
        elif name in OURS:
            await mirror_act(driver, name, int(what))  # type: ignore[call-overload]
        else:
            await act(driver, name, int(what))  # type: ignore[call-overload]
    if await driver.volume.cutter.cut() is not None:
        await finish(driver)
    else:
        await driver.volume.close()


OURS = {
    "ship", "settle", "mirror-reopen", "mirror-crash", "mirror-fold", "mirror-rebase", "mirror-moment", "base",
    "begin", "acknowledge", "lose-hold", "drop-snapshot",
}  # fmt: skip


async def mirror_act(driver: Mirrored, name: str, number: int) -> None:
    there = driver.secondary
    if there is None:
        if name == "begin" and await driver.volume.cutter.cut() is not None:
            await driver.begin()
        return
    match name:
        case "acknowledge":
            await driver.acknowledge()
        case "lose-hold":
            if number % 8 == 0:
                await driver.lose_hold()
        case "drop-snapshot":
            if taken := driver.volume.snapshots():
                await driver.volume.drop_snapshot(taken[number % len(taken)].name)
        case "ship":
            await driver.ship(number)
        case "settle":
            await driver.settle()
        case "mirror-reopen":
            await driver.reopen_mirror()
        case "mirror-crash":
            await driver.crash_mirror()
        case "base":
            if there.base is not None:
                await driver.send_base(number % (SIZE // 4096) if number % 2 else None)
        case "mirror-fold":
            if there.base is None:
                await there.folder.step(True)
        case "mirror-rebase":
            if there.base is None:
                await there.folder.rebase(force=True)
        case "mirror-moment":
            kept = driver.mirror_moments()
            if there.base is None and kept:
                await driver.check_mirror_moment(kept[number % len(kept)])


async def finish(driver: Mirrored) -> None:
    """Everything gets over; both sides are what they should be, and so is the mirror once promoted."""
    there = driver.secondary or await driver.begin()
    await driver.volume.cutter.cut()
    if there.base is not None:
        await driver.send_base()
    await driver.ship()
    await driver.settle()
    await driver.check_mirror(12)
    await driver.crash_mirror()
    await driver.settle()
    await driver.check_mirror(4)
    await driver.check_live()
    assert driver.secondary is not None
    await driver.secondary.close()
    await driver.volume.close()
    for path in (driver.path, driver.there):
        report = check(driver.host, str(path))
        assert report.good, report.problems
    await driver.check_promoted()
    report = check(driver.host, str(driver.there))
    assert report.good, report.problems


async def play_to_the_end(driver: Mirrored, steps: list[tuple[str, object]]) -> None:
    try:
        await play(driver, steps)
    except BaseException:
        if driver.secondary is not None and not driver.secondary._closing:
            await abandon_secondary(driver.secondary)
        if not driver.volume._closing:
            await abandon(driver.volume)
        raise


@settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps=st.lists(step, max_size=40))
def test_every_moment_on_both_sides_equals_the_model(
    loop_host: tuple[asyncio.AbstractEventLoop, Host], steps: list[tuple[str, object]]
) -> None:
    loop, host = loop_host
    directory = Path(tempfile.mkdtemp(prefix="revolume-mirrored-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        loop.run_until_complete(play_to_the_end(Mirrored(host, directory / "v", SIZE), steps))
    finally:
        shutil.rmtree(directory)
