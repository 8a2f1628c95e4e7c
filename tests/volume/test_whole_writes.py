"""Writes of many places as one, over many turns of the loop: who waits for it, and what a crash leaves of it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from revolume.errors import Poisoned
from revolume.log.format.transfer import Flag, Kind
from revolume.log.write.operations import OP_WRITE, Op, WouldBlock
from revolume.log.write.pool_limits import WholeNeed
from revolume.log.write.writer import Writer
from revolume.offline.check.check import check
from revolume.volume.clocks.clock_step import follow_clock
from revolume.volume.primary import Volume
from revolume.volume.whole_writes import WholeWrites, need_of

from .clocks import SetClock
from .driver import BLOCK, SMALL, Driver
from .store import inline_host, payload

SIZE = 400 * BLOCK
SLICES = 12
IN_SLICE = 3
QUIET = replace(SMALL, rung_versions=1 << 20, sync_interval_s=3600.0)
"""Nothing is synced but by order."""
Play = Callable[[Driver], Awaitable[None]]


def slice_of(number: int) -> list[Op]:
    """Every second block, so that each is an entry of its own."""
    blocks = range(2 * number * IN_SLICE, 2 * (number + 1) * IN_SLICE, 2)
    return [(OP_WRITE, block * BLOCK, BLOCK, memoryview(payload(1000 + block, BLOCK))) for block in blocks]


def need() -> WholeNeed:
    return need_of([op for number in range(SLICES) for op in slice_of(number)])


class Gated:
    """The slices of a whole write, the second half of which comes once ``go_on`` is set."""

    def __init__(self) -> None:
        self.half_there, self.go_on = asyncio.Event(), asyncio.Event()

    async def slices(self) -> AsyncIterator[Sequence[Op]]:
        for number in range(SLICES):
            if number == SLICES // 2:
                self.half_there.set()
                await self.go_on.wait()
            yield slice_of(number)

    def begin(self, volume: Volume) -> asyncio.Task[int]:
        return asyncio.create_task(self._appended(volume))

    async def _appended(self, volume: Volume) -> int:
        await volume.admission.wait(volume.whole_writes.log_blocks(need()))
        return await volume.whole_writes.append(self.slices(), need(), lambda: None)


def took(driver: Driver) -> None:
    """The model, once the whole write is there."""
    for number in range(SLICES):
        for _, offset, _, content in slice_of(number):
            assert content is not None
            driver.model.write(offset, bytes(content))
    driver.model.seal(driver.volume.write)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-whole-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def play(place: Path) -> Callable[[Play], None]:
    """Plays something on a volume that holds something."""

    async def played(story: Play) -> None:
        driver = Driver(inline_host(), place / "v", SIZE, QUIET)
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 90 * BLOCK))])
        await driver.volume.durable(driver.volume.position)
        await story(driver)
        await driver.check_live()
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    return lambda story: asyncio.run(asyncio.wait_for(played(story), 20))


async def rows_of(volume: Volume) -> npt.NDArray[np.void]:
    """Those of the log's transfers, in order."""
    begin, end = volume.folder.horizon.address, volume.log.appender.address
    return np.concatenate([each.rows for each in await volume.log.columns_between(begin, end)])


def test_writes_points_names_and_sizes_wait_until_it_is_over(play: Callable[[Play], None]) -> None:
    async def story(driver: Driver) -> None:
        volume, gated = driver.volume, Gated()
        await volume.snapshot("old")
        before = volume.write, volume.position, volume.log.commit.durable
        whole = gated.begin(volume)
        await gated.half_there.wait()
        one: list[Op] = [(OP_WRITE, 0, BLOCK, memoryview(bytes(BLOCK)))]
        for refused in (lambda: volume.append(one), volume.touch):
            with pytest.raises(WouldBlock):
                refused()
        waiting = [
            asyncio.create_task(each)
            for each in (
                volume.room(one), volume.cut(), volume.snapshot("new"), volume.drop_snapshot("old"),
                volume.grow(SIZE + BLOCK), volume.point_maker.begin(), volume.names.drop_expired(),
            )
        ]  # fmt: skip
        await volume.log.commit.synced()
        for _ in range(20):
            await asyncio.sleep(0.002)
        assert [task.done() for task in waiting] == [False] * 6 + [True]
        assert before == (volume.write, volume.position, volume.log.commit.durable)
        assert volume.log.appender.position > volume.position
        gated.go_on.set()
        position = await whole
        assert volume.log.commit.durable >= position
        await asyncio.gather(*waiting)
        rows = await rows_of(volume)
        parts = np.flatnonzero(rows["flags"] & Flag.UNDIVIDED)
        assert len(parts) >= SLICES and (np.diff(parts) == 1).all(), "nothing lies between its parts"
        end = rows[parts[-1] + 1]
        assert end["kind"] == Kind.WRITES and end["position"] == position
        driver.model.size = SIZE
        took(driver)
        driver.model.size = volume.size

    play(story)


def test_the_wall_clock_is_taken_up_behind_it(place: Path) -> None:
    async def story() -> None:
        clock = SetClock()
        driver = Driver(clock.host(), place / "v", SIZE, QUIET)
        await driver.open()
        volume, gated = driver.volume, Gated()
        whole = gated.begin(volume)
        await gated.half_there.wait()
        clock.set_by(-7200)
        assert follow_clock(volume.clocks, volume.log, volume.events) is None
        gated.go_on.set()
        await whole
        assert follow_clock(volume.clocks, volume.log, volume.events) is not None
        await volume.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_the_loop_goes_on_meanwhile(play: Callable[[Play], None]) -> None:
    async def story(driver: Driver) -> None:
        turns = 0

        async def counting() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        gated = Gated()
        gated.go_on.set()
        counter = asyncio.create_task(counting())
        await gated.begin(driver.volume)
        counter.cancel()
        assert turns >= SLICES
        took(driver)

    play(story)


def recovered(driver: Driver) -> int:
    """How many transfers the last opening copied."""
    told = [event.message for event in driver.volume.events.all() if "recovered after" in event.message]
    return int(told[-1].split(": ")[1].split()[0])


@pytest.mark.parametrize("synced", [False, True])
def test_a_crash_in_its_middle_leaves_what_was_and_copies_nothing(
    play: Callable[[Play], None], synced: bool
) -> None:
    async def story(driver: Driver) -> None:
        gated = Gated()
        whole = gated.begin(driver.volume)
        await gated.half_there.wait()
        if synced:
            await driver.volume.log.commit.synced()
        await crashed(driver, whole)
        assert recovered(driver) == 0
        await driver.check_live()
        gated = Gated()
        gated.go_on.set()
        await gated.begin(driver.volume)
        took(driver)

    play(story)


async def crashed(driver: Driver, whole: asyncio.Task[int]) -> None:
    driver.volume.log.commit.poison("killed")  # what follows is not written any more
    whole.cancel()
    await asyncio.wait([whole])
    await driver.crash()


def test_a_crash_just_behind_its_end_copies_none_of_its_content(
    play: Callable[[Play], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(driver: Driver) -> None:
        ended, resize = asyncio.Event(), Writer.resize

        def at_its_end(writer: Writer, size: int) -> None:
            resize(writer, size)
            ended.set()

        monkeypatch.setattr(Writer, "resize", at_its_end)
        gated, volume = Gated(), driver.volume
        gated.go_on.set()

        async def never(position: int) -> None:
            await asyncio.Event().wait()

        volume.log.commit.wait_durable = never  # type: ignore[method-assign]
        whole = gated.begin(volume)
        await ended.wait()
        assert volume.log.commit.durable < volume.position
        took(driver)
        await crashed(driver, whole)
        monkeypatch.undo()
        assert recovered(driver) == 1
        await driver.check_live()

    play(story)


def test_one_that_is_broken_off_stops_the_store(play: Callable[[Play], None]) -> None:
    async def story(driver: Driver) -> None:
        gated = Gated()
        whole = gated.begin(driver.volume)
        await gated.half_there.wait()
        whole.cancel()
        with pytest.raises(Poisoned, match="broken off"):
            await whole
        with pytest.raises(Poisoned):
            driver.volume.append([(OP_WRITE, 0, BLOCK, memoryview(bytes(BLOCK)))])
        await driver.crash()

    play(story)


def test_one_that_must_not_be_done_is_not_begun(play: Callable[[Play], None]) -> None:
    async def story(driver: Driver) -> None:
        volume, before = driver.volume, driver.volume.position

        def refuse() -> None:
            raise ValueError

        with pytest.raises(ValueError):
            await volume.whole_writes.append(Gated().slices(), need(), refuse)
        volume.admission.admits = lambda blocks: False  # type: ignore[method-assign]
        with pytest.raises(WouldBlock):
            await volume.whole_writes.append(Gated().slices(), need(), lambda: None)
        del volume.admission.admits
        assert volume.position == before
        await driver.change([(OP_WRITE, 0, payload(7, BLOCK))])

    play(story)


def test_it_waits_for_a_segment_that_is_withdrawn_for_a_moment(
    play: Callable[[Play], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(driver: Driver) -> None:
        writer, refused = driver.volume.log.writer, [True] * 5
        holds = writer.holds

        def seldom(blocks: int, spare: int) -> bool:
            return holds(blocks, spare) and not (spare == 0 and refused and refused.pop())

        monkeypatch.setattr(writer, "holds", seldom)
        monkeypatch.setattr("revolume.volume.whole_writes.PATIENCE_S", 0.001)
        gated = Gated()
        gated.go_on.set()
        await gated.begin(driver.volume)
        assert not refused
        took(driver)

    play(story)


def test_a_slice_is_small_beside_a_segment(play: Callable[[Play], None]) -> None:
    async def story(driver: Driver) -> None:
        whole: WholeWrites = driver.volume.whole_writes
        assert whole.slice_blocks == driver.volume.log.pool.segment_blocks // 8 == 2

    play(story)
