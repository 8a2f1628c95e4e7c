"""No clock destroys history: not one that runs ahead, not one that is set back, not at either end of a mirror, not
across a stop or a crash. And what is asked for by time is what was there at that time."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import NotFound
from revolume.history.moments import Ago, AtTime
from revolume.history.offline_volume import open_offline
from revolume.history.open_history import OpenHistory
from revolume.history.resolver import MomentResolver
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check
from revolume.volume.clocks.clock_step import follow_clock

from .clocks import SECOND, SetClock
from .driver import BLOCK, SMALL, Driver, abandon
from .mirrored import Mirrored

HOUR, DAY = 3600.0, 86400.0
YEARS = 3650 * DAY
KEEP_S = 100.0
OPTIONS = replace(SMALL, keep_s=KEEP_S)
SIZE = 4 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-clocks-", dir="/dev/shm"))
    yield made / "v"
    shutil.rmtree(made)


class History:
    """A volume, its clock, and when each of its writes truly was."""

    def __init__(self, place: Path) -> None:
        self.clock = SetClock()
        self.driver = Driver(self.clock.host(), place, SIZE, OPTIONS)
        self.times: list[tuple[int, int]] = []
        self.lived: list[tuple[int, int]] = []

    async def write(self, seconds: float = 1.0, blocks: int = 8) -> None:
        """Time goes by, then a write."""
        self.clock.pass_by(seconds)
        at = len(self.times) % 60 * blocks * BLOCK
        await self.driver.change([(OP_WRITE, at, bytes([len(self.times) % 255 + 1]) * (blocks * BLOCK))])
        self.times.append((self.clock.true_ns, self.driver.volume.write))

    async def tick(self) -> None:
        """As every second: labels follow the clock, a point, a fold if one is due."""
        volume = self.driver.volume
        follow_clock(volume.clocks, volume.log, volume.events)
        await volume.clocks.remember_steps(volume.log.appender.position)
        await self.driver.volume.cut()
        await self.driver.volume.folder.step()

    def at(self, ago_s: float) -> int:
        """The last write so long ago or earlier."""
        limit = self.clock.true_ns - int(ago_s * SECOND)
        return ([write for time_ns, write in self.times if time_ns <= limit] or [0])[-1]

    def number(self, number: int) -> int:
        """A number that a crash left out means the write before it."""
        return max([0, *(write for _, write in self.times if write <= number)])

    def asked(self, ago_s: int) -> int:
        return MomentResolver(OpenHistory(self.driver.volume)).resolve(Ago(ago_s)).write

    async def stop(self) -> None:
        await self.driver.volume.close()

    async def crash(self) -> None:
        await self.driver.crash()


Trouble = Callable[[History, float], Awaitable[None]]


async def running(history: History, by: float) -> None:
    """The clock is wrong for eight seconds while the volume is open."""
    history.clock.set_by(by)
    for _ in range(8):
        await history.tick()
        await history.write()
    history.clock.set_by(-by)
    await history.tick()


async def restarted(history: History, by: float) -> None:
    """It is wrong from a stop to the next."""
    await history.stop()
    history.clock.set_by(by)
    await history.driver.open()
    for _ in range(8):
        await history.tick()
        await history.write()
    await history.stop()
    history.clock.set_by(-by)
    await history.driver.open()
    await history.tick()


async def crashed(history: History, by: float) -> None:
    """Unclean stops while it is wrong, and right again."""
    history.clock.set_by(by)
    await history.tick()
    await history.write()
    await history.crash()
    await history.tick()
    await history.write()
    history.clock.set_by(-by)
    await history.crash()
    await history.tick()


async def another_start(history: History, by: float) -> None:
    """The machine is started with a wrong clock, which is set right while the volume is open."""
    history.clock.boots += 1
    history.clock.set_by(abs(by))
    await history.crash()
    await history.write()
    await history.tick()
    history.clock.boots += 1
    history.clock.set_by(-abs(by))
    await history.crash()
    await history.tick()


@pytest.mark.parametrize("by", [HOUR, -HOUR, 2 * DAY, -2 * DAY, YEARS, -YEARS])
@pytest.mark.parametrize("trouble", [running, restarted, crashed])
def test_a_wrong_clock_ages_nothing(place: Path, trouble: Trouble, by: float) -> None:
    """Everything retained before is retained behind it, and so long ago is what it truly was."""

    async def play() -> None:
        history = History(place)
        await history.driver.open()
        for _ in range(30):
            await history.write()
        await history.tick()
        oldest = history.driver.volume.folder.retired_write
        await trouble(history, by)
        for _ in range(5):
            await history.write()
            await history.tick()
        volume = history.driver.volume
        assert volume.folder.retired_write == oldest
        await history.driver.check_moments(10)
        for ago_s in (0, 1, 2, 3, 4, 6, 9, 12, 20, 35):
            assert history.asked(ago_s) == history.at(ago_s), f"@-{ago_s}s"
        await history.stop()
        history.clock.pass_by(3)
        stopped = open_offline(history.driver.host, str(place))
        for ago_s in (2, 4, 9, 20, 35):
            assert stopped.resolve(Ago(ago_s)).write == history.at(ago_s), f"stopped, @-{ago_s}s"
        assert check(history.driver.host, str(place)).good

    asyncio.run(play())


@pytest.mark.parametrize("by", [2 * DAY, YEARS])
def test_a_wrong_clock_at_the_start_of_the_machine(place: Path, by: float) -> None:
    """How long the machine was off nobody knows then. Nothing goes for that, nothing older than asked opens."""

    async def play() -> None:
        history = History(place)
        await history.driver.open()
        for _ in range(30):
            await history.write()
        await history.tick()
        await another_start(history, by)
        for _ in range(5):
            await history.write()
            await history.tick()
        assert history.driver.volume.folder.retired_write == 0
        await history.driver.check_moments(5)
        for ago_s in (0, 1, 3, 4, 6, 9, 20):
            assert history.number(history.asked(ago_s)) >= history.at(ago_s), f"@-{ago_s}s"
        await history.stop()

    asyncio.run(play())


def test_what_is_older_goes_by_lived_time(place: Path) -> None:
    """Neither stops nor a suspended machine count; what has been lived does."""

    async def play() -> None:
        history = History(place)
        await history.driver.open()
        for _ in range(40):
            await history.write(0.5)
        await history.tick()
        await history.stop()
        history.clock.pass_by(10 * KEEP_S)
        await history.driver.open()
        history.clock.suspend(10 * KEEP_S)
        await history.write()
        await history.tick()
        assert history.driver.volume.folder.retired_write == 0
        history.clock.pass_by(KEEP_S)
        await history.stop()  # an idle volume ages too
        await history.driver.open()
        await history.write()
        await history.tick()
        assert history.driver.volume.folder.retired_write >= 40
        await history.stop()

    asyncio.run(play())


def test_time_after_a_kill_counts_although_the_clock_step_before_it_was_folded_away(place: Path) -> None:
    """Its mark is of the opening, before the step: what the log says of the step has to reach the mark."""

    async def play() -> None:
        history = History(place)
        await history.driver.open()
        for _ in range(4):
            await history.write()
        history.clock.set_by(2 * DAY)
        await history.tick()
        for _ in range(30):
            await history.write()
            await history.tick()
        history.clock.pass_by(KEEP_S + 10)
        for _ in range(12):
            await history.write()
            await history.tick()
        volume = history.driver.volume
        assert volume.folder.horizon.position > volume.clocks.steps[-1].position
        await abandon(volume)
        history.clock.pass_by(20)
        await history.driver.open()
        assert history.asked(15) == history.at(15) == history.times[-1][1]
        assert not any("was set" in event.message for event in history.driver.volume.status().events)
        await history.stop()

    asyncio.run(play())


def test_time_while_stopped_counts_back(place: Path) -> None:
    async def play() -> None:
        history = History(place)
        await history.driver.open()
        for _ in range(10):
            await history.write()
        await history.stop()
        history.clock.pass_by(600)
        history.clock.set_by(2 * DAY)
        await history.driver.open()
        await history.tick()
        history.clock.suspend(300)
        await history.write()
        for ago_s in (1, 300, 302, 899, 901, 905):
            assert history.asked(ago_s) == history.at(ago_s), f"@-{ago_s}s"
        await history.stop()

    asyncio.run(play())


def test_a_time_that_was_twice_is_said_to_be(place: Path) -> None:
    async def play() -> None:
        history = History(place)
        await history.driver.open()
        await history.write(10)
        first, at_first = history.driver.volume.write, history.clock.wall_ns()
        await history.write(10)
        history.clock.set_by(-15)
        await history.tick()
        assert history.driver.volume.clocks.steps
        before_set = history.driver.volume.write
        await history.write(5)
        resolver = MomentResolver(OpenHistory(history.driver.volume))
        twice = resolver.resolve(AtTime(at_first - SECOND))
        assert twice.write == before_set and f"up to w{before_set}" in twice.note
        later = resolver.resolve(AtTime(history.clock.wall_ns()))
        assert later.write == history.driver.volume.write and later.note
        early = resolver.resolve(AtTime(at_first - 6 * SECOND))
        assert (early.write, early.note) == (0, "")
        assert first < before_set
        with pytest.raises(NotFound) as future:
            resolver.resolve(AtTime(history.clock.wall_ns() + int(HOUR) * SECOND))
        assert future.value.code == "moment-in-future"
        await history.stop()
        stopped = open_offline(history.driver.host, str(place))
        assert stopped.resolve(AtTime(at_first - SECOND)) == twice

    asyncio.run(play())


@pytest.mark.parametrize("by", [2 * DAY, -2 * DAY])
@pytest.mark.parametrize("wrong_at", ["source", "mirror"])
def test_a_mirror_ages_by_its_own_lived_time(place: Path, by: float, wrong_at: str) -> None:
    """A clock that is wrong at one end costs the other nothing; steps come with the log."""

    async def play() -> None:
        history = History(place)
        there_clock = SetClock()
        mirrored = history.driver = Mirrored(history.clock.host(), place, SIZE, OPTIONS)
        await mirrored.open()
        mirrored.host = there_clock.host()
        await mirrored.begin(replace(OPTIONS, segment_bytes=2 * OPTIONS.segment_bytes))
        await mirrored.send_base()
        wrong = history.clock if wrong_at == "source" else there_clock

        async def step() -> None:
            await history.write()
            there_clock.pass_by(1.0)
            await history.tick()
            await mirrored.ship()
            await mirrored.settle()
            assert mirrored.secondary is not None
            await mirrored.secondary.folder.step()

        for _ in range(20):
            await step()
        there = mirrored.secondary
        assert there is not None
        oldest = there.folder.retired_write
        wrong.set_by(by)
        for _ in range(5):
            await step()
        wrong.set_by(-by)
        for _ in range(5):
            await step()
        assert there.folder.retired_write == oldest
        assert there.failure is None
        assert [s.by_ns for s in there.clocks.steps] == [s.by_ns for s in mirrored.volume.clocks.steps]
        assert len(there.clocks.steps) == (2 if wrong_at == "source" else 0)
        for ago_s in (1, 4, 8, 15, 25):
            assert MomentResolver(OpenHistory(there)).resolve(Ago(ago_s)).write == history.at(ago_s), f"@-{ago_s}s"
        await there.close()
        await history.stop()

    asyncio.run(play())
