"""A volume against a plain model, at every write number: any alignment, zeroes, trims, growing, flushes,
points, clean and unclean reopenings, folding, new base maps, in any order."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revolume.host import Host, real_host
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.offline.check.check import check

from .driver import BLOCK, Driver, abandon

SIZE = 6 << 20
MEMORY = Path("/dev/shm")  # syncs cost nothing there, and nothing here is about the disk


@pytest.fixture(scope="module")
def loop_host() -> Iterator[tuple[asyncio.AbstractEventLoop, Host]]:
    loop = asyncio.new_event_loop()
    host = real_host()
    yield loop, host
    loop.run_until_complete(host.work.close())
    loop.close()


def payload(seed: int, length: int) -> bytes:
    """Bytes that differ from block to block and from write to write."""
    return (f"{seed:08x}".encode() * (length // 8 + 1))[:length]


hot = st.integers(0, 40 * BLOCK)
cold = st.integers(0, SIZE - 1)
offsets = st.one_of(hot, cold)
aligned = offsets.map(lambda o: o // BLOCK * BLOCK)
small = st.integers(1, 3 * BLOCK)
whole = st.integers(1, 24).map(lambda n: n * BLOCK)
large = st.integers(1, 400).map(lambda n: n * BLOCK)
huge = st.integers(1000 * BLOCK, SIZE)


def clipped(kind: int, offset: int, length: int) -> tuple[int, int, int]:
    return kind, offset, max(1, min(length, SIZE - offset))


change = st.one_of(
    st.builds(clipped, st.just(OP_WRITE), aligned, whole),
    st.builds(clipped, st.just(OP_WRITE), aligned, whole),
    st.builds(clipped, st.just(OP_WRITE), offsets, small),
    st.builds(clipped, st.just(OP_WRITE), aligned, large),
    st.builds(clipped, st.sampled_from([OP_ZERO, OP_TRIM]), offsets, small),
    st.builds(clipped, st.sampled_from([OP_ZERO, OP_TRIM]), aligned, whole),
    st.builds(clipped, st.sampled_from([OP_ZERO, OP_TRIM]), offsets, huge),
)
batch = st.tuples(st.just("change"), st.lists(change, min_size=1, max_size=6))
other = st.sampled_from(
    ["flush", "cut", "reopen", "crash", "fold", "rebase", "snapshot", "grow", "live", "moment"]
)
step = st.one_of(batch, batch, batch, st.tuples(other, st.integers(0, 1000)))


Act = Callable[[Driver, str, int], Awaitable[None]]


async def play(driver: Driver, steps: list[tuple[str, object]], acted: Act) -> None:
    await driver.open()
    seed = 0
    for name, what in steps:
        if name == "change":
            changes: list[tuple[int, int, bytes | int]] = []
            for kind, offset, length in what:  # type: ignore[attr-defined]
                seed += 1
                changes.append((kind, offset, payload(seed, length) if kind == OP_WRITE else length))
            await driver.change(changes)
        else:
            await acted(driver, name, int(what))  # type: ignore[call-overload]
    await driver.check_live()
    await driver.check_moments(12)
    await driver.volume.close()
    report = check(driver.host, str(driver.path))
    assert report.good, report.problems
    await driver.open()
    await driver.check_live()
    await driver.check_moments(4)
    await driver.volume.close()


async def play_to_the_end(driver: Driver, steps: list[tuple[str, object]], acted: Act | None = None) -> None:
    """``play``, and nothing left behind if it fails."""
    try:
        await play(driver, steps, acted or act)
    except BaseException:
        await abandon(driver.volume)
        raise


async def act(driver: Driver, name: str, number: int) -> None:
    volume = driver.volume
    match name:
        case "flush":
            await volume.durable(volume.position)
        case "cut":
            await volume.point_maker.cut()
        case "reopen":
            await driver.reopen()
        case "crash":
            await driver.crash()
        case "fold":
            await volume.point_maker.cut()
            await driver.fold()
        case "rebase":
            await volume.point_maker.cut()
            await volume.base_maps.renew(force=True)
        case "snapshot":
            name = f"s-{number}"
            if name not in [s.name for s in volume.snapshots()] and volume.write:
                await volume.snapshot(name)
        case "grow":
            await driver.grow(volume.size + (number % 5 + 1) * 512)
        case "live":
            await driver.check_live()
        case "moment":
            kept = [n for n in driver.model.moments if n >= volume.folder.retired_write]
            await driver.check_moment(sorted(kept)[number % len(kept)])


@settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps=st.lists(step, max_size=40))
def test_every_retained_moment_equals_the_model(
    loop_host: tuple[asyncio.AbstractEventLoop, Host], steps: list[tuple[str, object]]
) -> None:
    loop, host = loop_host
    directory = Path(tempfile.mkdtemp(prefix="revolume-model-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        loop.run_until_complete(play_to_the_end(Driver(host, directory / "v", SIZE), steps))
    finally:
        shutil.rmtree(directory)
