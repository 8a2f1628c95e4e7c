"""A volume and its mirror against one model, at every write number on both sides: whatever the source does and
however the log gets over, in pieces, with either side stopped, killed and folding in between."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revolume.errors import Damaged
from revolume.host import Host
from revolume.log.write.operations import OP_WRITE
from revolume.mirror.catch_up_plan import Rule
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.offline.check.check import check
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Epoch
from revolume.volume.metadata.moment_edits import pack_epoch

from .driver import BLOCK, abandon, climb
from .mirrored import THERE, Mirrored, abandon_secondary
from .test_model import MEMORY, SIZE, act, batch, loop_host, other, payload

__all__ = ["loop_host"]

mirroring = st.sampled_from(
    ["ship", "ship", "settle", "mirror-reopen", "mirror-crash", "mirror-fold", "mirror-rebase", "mirror-moment",
     "base", "begin", "acknowledge", "lose-hold", "drop-snapshot", "power-cut", "power-cut-alone", "climb",
     "mirror-climb"]
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
    if await driver.volume.point_maker.cut() is not None:
        await finish(driver, 1 + seed % 3)
    else:
        await driver.volume.close()


OURS = {
    "ship", "settle", "mirror-reopen", "mirror-crash", "mirror-fold", "mirror-rebase", "mirror-moment", "base",
    "begin", "acknowledge", "lose-hold", "drop-snapshot", "power-cut", "power-cut-alone", "climb", "mirror-climb",
}  # fmt: skip


async def mirror_act(driver: Mirrored, name: str, number: int) -> None:
    there = driver.secondary
    if there is None:
        if name == "begin" and await driver.volume.point_maker.cut() is not None:
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
        case "power-cut" | "power-cut-alone":
            await driver.power_cut(number, name == "power-cut-alone")
        case "climb":
            await climb(driver.volume)
        case "mirror-climb":
            if there.base is None:
                await climb(there)
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
                await there.base_maps.renew(force=True)
        case "mirror-moment":
            kept = driver.mirror_moments()
            if there.base is None and kept:
                await driver.check_mirror_moment(kept[number % len(kept)])


async def finish(driver: Mirrored, openings: int) -> None:
    """Everything gets over; both sides are what they should be, and so is the mirror once promoted; the source
    that comes back then is refused."""
    there = driver.secondary or await driver.begin()
    await driver.volume.point_maker.cut()
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
    third = Path(f"{driver.there}-third")
    shutil.copytree(driver.there, third, ignore=shutil.ignore_patterns("*.sock"))
    await driver.check_promoted()
    await driver.check_old_source_returns(openings)
    for path in (driver.path, driver.there, third):
        report = check(driver.host, str(path))
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


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_source_that_lost_its_logs_end(
    loop_host: tuple[asyncio.AbstractEventLoop, Host], seed: int, alone: bool
) -> None:
    """What its mirror has of it comes back, points and snapshots too; opened alone it goes on without, and the
    mirror that has more is told apart."""
    chance = random.Random(seed)

    def changes() -> tuple[str, object]:
        made: list[tuple[int, int, int]] = []
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(40) * BLOCK + chance.choice((0, 0, 100))
            made.append((OP_WRITE, at, chance.choice((512, BLOCK, 3 * BLOCK, 30 * BLOCK))))
        return "change", made

    steps: list[tuple[str, object]] = [changes(), ("cut", 0), ("begin", 0), ("base", 0), ("ship", 1 << 20)]
    for number in range(5):
        steps += [("flush", 0), changes(), changes(), ("cut", 0), ("snapshot", number), changes()]
        steps += [("ship", chance.choice((1 << 14, 1 << 20))), changes(), ("acknowledge", 0)]
        steps += [
            changes(),
            ("power-cut-alone" if alone else "power-cut", chance.randrange(1000)),
            changes(),
            ("begin", 0),
        ]
    loop, host = loop_host
    directory = Path(tempfile.mkdtemp(prefix="revolume-mirrored-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        loop.run_until_complete(play_to_the_end(Mirrored(host, directory / "v", SIZE), steps))
    finally:
        shutil.rmtree(directory)


def played(
    loop_host: tuple[asyncio.AbstractEventLoop, Host], scenario: Callable[[Mirrored], Awaitable[None]]
) -> None:
    """On a directory of its own."""
    loop, host = loop_host
    directory = Path(tempfile.mkdtemp(prefix="revolume-mirrored-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        loop.run_until_complete(scenario(Mirrored(host, directory / "v", SIZE)))
    finally:
        shutil.rmtree(directory)


def test_half_a_write_that_its_source_lost_does_not_part_them(
    loop_host: tuple[asyncio.AbstractEventLoop, Host],
) -> None:
    """Of a write that takes several transfers the mirror has the first, and its source none any more: it goes on
    with another opening in that place, and the mirror with it."""

    async def scenario(driver: Mirrored) -> None:
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 3 * BLOCK))])
        await driver.volume.point_maker.cut()
        there = await driver.begin()
        await driver.send_base()
        await driver.ship()
        await driver.volume.durable(driver.volume.position)
        await driver.change([(OP_WRITE, 0, payload(2, 40 * BLOCK))])
        await driver.ship(1)
        assert there.received < there.end.position < driver.volume.feed.end, "it has a half"
        await driver.power_cut(0, False)
        await driver.change([(OP_WRITE, 0, payload(3, 40 * BLOCK))])
        await finish(driver, 1)

    played(loop_host, scenario)


def test_half_a_write_is_dropped_although_the_copy_could_not_be_opened_at_once(
    loop_host: tuple[asyncio.AbstractEventLoop, Host],
) -> None:
    """Every later session was answered by the closed copy, until the process ended."""

    async def scenario(driver: Mirrored) -> None:
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 3 * BLOCK))])
        await driver.volume.point_maker.cut()
        there = await driver.begin()
        await driver.send_base()
        await driver.ship()
        await driver.volume.durable(driver.volume.position)
        await driver.change([(OP_WRITE, 0, payload(2, 40 * BLOCK))])
        await driver.ship(1)
        assert there.received < there.end.position, "it has a half"
        driver.secondary = None
        await driver.reopen()
        shelf = RealCopyDirectory(driver.host, str(driver.there), THERE, there)
        (driver.there / "image").rename(driver.there / "away")
        with pytest.raises(Damaged, match="has lost its image"):
            await driver.rule(driver.volume, shelf)
        (driver.there / "away").rename(driver.there / "image")
        assert (await driver.rule(driver.volume, shelf)).rule == Rule.LOG
        assert shelf.secondary is not None and shelf.secondary is not there
        assert shelf.secondary.received == shelf.secondary.end.position == there.received
        driver.secondary = shelf.secondary
        driver._set_up()
        shelf.secondary.resume()
        await finish(driver, 1)

    played(loop_host, scenario)


def test_who_has_begun_a_base_keeps_no_source_away(
    loop_host: tuple[asyncio.AbstractEventLoop, Host],
) -> None:
    """A peer that named a later opening and never came to the end of its base locked the true source out."""

    async def scenario(driver: Mirrored) -> None:
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 3 * BLOCK))])
        await driver.volume.point_maker.cut()
        there = await driver.begin()
        await there.manifest.record((EditKind.EPOCH, pack_epoch(Epoch(1 << 40, b"l" * 16, 0, 0))))
        shelf = RealCopyDirectory(driver.host, str(driver.there), THERE, there)
        decision = await driver.rule(driver.volume, shelf)
        assert decision.rule in (Rule.BASE, Rule.RESUME_BASE), decision
        await there.close()
        await driver.volume.close()

    played(loop_host, scenario)


def test_a_mirror_that_has_half_a_write_folds_and_is_stopped(
    loop_host: tuple[asyncio.AbstractEventLoop, Host],
) -> None:
    """Half a write becomes durable when its rest arrives, which may be never: nothing else waits for that."""

    async def scenario(driver: Mirrored) -> None:
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 3 * BLOCK))])
        await driver.volume.point_maker.cut()
        there = await driver.begin()
        await driver.send_base()
        await driver.ship()
        for number in range(2, 12):  # several segments of it
            await driver.change([(OP_WRITE, number * BLOCK, payload(number, 20 * BLOCK))])
            await driver.volume.point_maker.cut()
        await driver.ship()
        async with asyncio.timeout(60):
            while there.agreed.number < driver.volume.retained.points[-1].number:
                await asyncio.sleep(0.01)
        await driver.change([(OP_WRITE, 0, payload(5, 40 * BLOCK))])
        await driver.ship(1)
        assert there.received < there.end.position, "it has a half"
        before = there.folder.folds
        async with asyncio.timeout(60):
            assert await there.folder.step(True)
        assert there.folder.folds > before
        async with asyncio.timeout(60):
            await there.close()
        await abandon(driver.volume)

    played(loop_host, scenario)
