"""Points that only the policy keeps, on a real volume by a clock that the test moves: what the policy promises can
be opened and is right, what it does not is refused; through clean stops, without one, and when there is no
room."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import NoSpace, NotFound
from revolume.history.moments import AtPoint
from revolume.history.open_history import OpenHistory
from revolume.history.resolver import MomentResolver
from revolume.log.write.operations import OP_WRITE
from revolume.volume.metadata.keep_policy import KeepPolicy, Tier, WhenFull

from .clocks import SetClock
from .driver import BLOCK, SEGMENT, SMALL, Driver, append

S = 1000
TIERS = KeepPolicy(10 * S, tiers=(Tier(60 * S, 600 * S),))
EVERY_POINT = KeepPolicy(10 * S, every_point_ms=100 * S, tiers=(Tier(60 * S, 600 * S),))


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path / "v"
    shutil.rmtree(path)


class Lived:
    """A volume that makes a point every five seconds of its clock, with some blocks written before each."""

    def __init__(self, place: Path, policy: KeepPolicy, budget: int = 1 << 30, blocks: int = 5) -> None:
        self.blocks = blocks
        self.clock = SetClock()
        self.driver = Driver(
            self.clock.host(), place, 4 << 20, replace(SMALL, keep=policy, keep_s=None, budget_bytes=budget)
        )
        self.policy = policy
        self.made: list[tuple[int, int, int]] = []
        """Points: number, write, lived time in ms."""

    async def live(self, seconds: int) -> None:
        volume = self.driver.volume
        for _ in range(seconds // 5):
            first = len(self.made) * 7 % 600
            await self.driver.change(
                [(OP_WRITE, first * BLOCK, bytes([len(self.made) % 251 + 1]) * (self.blocks * BLOCK))]
            )
            self.clock.pass_by(5)
            point = await volume.cut()
            self.made.append((point.number, point.write, point.lived_ms))
            while await volume.folder.step():
                pass

    def promised(self) -> set[int]:
        """Writes of the points that the policy promises, found out by looking at every point."""
        now_ms, found, seen = self.driver.volume.policy.now_ms, set[int](), set[tuple[int, int]]()
        for _, write, lived_ms in self.made:
            for tier in self.policy.tiers:
                first = (tier.period_ms, lived_ms // tier.period_ms) not in seen
                seen.add((tier.period_ms, lived_ms // tier.period_ms))
                if first and now_ms - lived_ms <= tier.span_ms:
                    found.add(write)
            if now_ms - lived_ms <= max(self.policy.every_point_ms, self.policy.every_write_ms):
                found.add(write)
        return found

    async def judge(self) -> None:
        """All that is promised is there and right; what is not, and is not in the log, is refused."""
        volume, promised = self.driver.volume, self.promised()
        resolver = MomentResolver(OpenHistory(volume))
        listed = {point.write for point in OpenHistory(volume).points()}
        assert promised <= listed
        for number, write, _ in self.made:
            if write in promised:
                assert resolver.resolve(AtPoint(number)).write == write
                await self.driver.check_moment(write)
            elif write < volume.oldest.write:
                with pytest.raises(NotFound):
                    resolver.resolve(AtPoint(number))

    async def reopen(self, *, clean: bool = True) -> None:
        await (self.driver.reopen() if clean else self.driver.crash())


@pytest.mark.parametrize("policy", [TIERS, EVERY_POINT], ids=["periods", "every-point"])
def test_what_the_policy_promises_is_open(place: Path, policy: KeepPolicy) -> None:
    async def scenario() -> None:
        world = Lived(place, policy)
        await world.driver.open()
        for round_ in range(8):
            await world.live(120)
            await world.judge()
            if round_ % 3 == 1:
                await world.reopen()
                await world.judge()
        volume = world.driver.volume
        kept = {write for write in world.promised() if write < volume.oldest.write}
        assert kept == {point.write for point in volume.isolated_points() if point.write in world.promised()}
        assert len(kept) >= 9
        await volume.close()

    asyncio.run(scenario())


def test_a_kill_changes_nothing_of_what_is_promised(place: Path) -> None:
    async def scenario() -> None:
        world = Lived(place, EVERY_POINT)
        await world.driver.open()
        for _ in range(4):
            await world.live(100)
            await world.reopen(clean=False)
            await world.judge()
        await world.driver.volume.close()

    asyncio.run(scenario())


def test_the_policy_is_remembered_and_changed_online(place: Path) -> None:
    async def scenario() -> None:
        world = Lived(place, TIERS)
        await world.driver.open()
        await world.live(300)
        world.driver.options = replace(world.driver.options, keep=None)
        await world.reopen()
        volume = world.driver.volume
        assert volume.policy.policy == TIERS
        await world.judge()
        would = volume.retention.going(KeepPolicy(10 * S))
        before = len(volume.isolated_points())
        assert would.points >= before - 1 > 2 and would.bytes > 0 and would.since_ns < would.until_ns
        assert len(volume.isolated_points()) == before, "a dry run has changed something"
        world.policy = KeepPolicy(10 * S)
        await volume.retention.set(world.policy, None)
        await world.live(10)
        assert not volume.isolated_points() and not volume.manifest.state.rescues
        await world.judge()
        await world.reopen(clean=False)
        assert world.driver.volume.policy.policy == KeepPolicy(10 * S)
        await world.driver.volume.close()

    asyncio.run(scenario())


def test_points_of_the_policy_give_way_oldest_first_before_the_window_does(place: Path) -> None:
    """Each is told before it goes, and a named snapshot never goes."""

    async def scenario() -> None:
        world = Lived(place, KeepPolicy(20 * S, tiers=(Tier(10 * S, 2000 * S),)), budget=30 * SEGMENT, blocks=20)
        await world.driver.open()
        await world.live(50)
        named = await world.driver.volume.snapshot("named")
        for _ in range(12):
            await world.live(50)
            volume = world.driver.volume
            kept = volume.retention.kept()
            assert kept.log_bytes + kept.pinned_bytes <= kept.budget_bytes
            await world.driver.check_moment(named.write)
            gone = volume.manifest.state.retention.given_up_ms
            expected = {w for _, w, lived_ms in world.made if lived_ms // (10 * S) > gone // (10 * S)}
            assert world.promised() & expected <= {point.write for point in volume.open_points()}
        texts = world.driver.volume.events.texts()
        assert world.driver.volume.manifest.state.retention.given_up_ms
        assert any("the budget for history is used up: the oldest" in text for text in texts)
        limit = world.driver.volume.policy.now_ms - 20 * S
        assert all(w >= world.driver.volume.oldest.write for _, w, lived_ms in world.made if lived_ms > limit)
        await world.reopen()
        await world.driver.check_moment(named.write)
        await world.driver.volume.close()

    asyncio.run(scenario())


def test_a_burst_that_fills_the_log_passes_over_points_and_refuses_no_write(place: Path) -> None:
    async def scenario() -> None:
        world = Lived(place, KeepPolicy(1000 * S, tiers=(Tier(1100 * S, 20000 * S),)), budget=30 * SEGMENT)
        await world.driver.open()
        volume = world.driver.volume
        volume.start()
        for round_ in range(60):
            await world.driver.change([(OP_WRITE, 0, bytes([round_ + 1]) * (15 * BLOCK))])
            await world.driver.change([(OP_WRITE, 20 * BLOCK, bytes([round_ + 1]) * (15 * BLOCK))])
            world.clock.pass_by(60)
            await volume.cut()
        assert not volume.admission.refused and volume.folder.folds
        await world.driver.check_live()
        await world.driver.check_moments(20)
        await volume.close()

    asyncio.run(scenario())


def test_more_points_than_there_are_places_for_keep_the_log(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is promised is lost by that."""
    monkeypatch.setattr("revolume.volume.space.policy_pins.POINT_PINS_MAX", 6)

    async def scenario() -> None:
        world = Lived(place, KeepPolicy(10 * S, every_point_ms=150 * S))
        await world.driver.open()
        for _ in range(5):
            await world.live(60)
            await world.judge()
            assert len(world.driver.volume.policy.behind()) <= 6
        assert len(world.driver.volume.retained) > 20
        await world.driver.volume.close()

    asyncio.run(scenario())


FULL = KeepPolicy(60 * S)


async def _until_full(world: Lived, limit: int = 400) -> None:
    """Write until one that does not get through at once."""
    for at in range(limit):
        await world.driver.change([(OP_WRITE, at % 40 * 16 * BLOCK, bytes([at % 250 + 1]) * (12 * BLOCK))])
        await world.driver.volume.cut()


def test_writers_wait_until_something_is_older_than_was_promised(place: Path) -> None:
    async def scenario() -> None:
        world = Lived(place, replace(FULL, when_full=WhenFull.BLOCK), budget=30 * SEGMENT)
        await world.driver.open()
        volume = world.driver.volume
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_until_full(world), 8)
        oldest = volume.oldest.write
        assert oldest == 0 and not volume.admission.refused
        assert any("--when-full is block" in text for text in volume.events.texts())
        waiting = asyncio.create_task(append(volume, [(OP_WRITE, 0, 12 * BLOCK, memoryview(bytes(12 * BLOCK)))]))
        await asyncio.sleep(0.6)
        assert not waiting.done() and "Writes wait" in volume.status().reason
        world.clock.pass_by(61)
        await asyncio.wait_for(waiting, 20)
        assert volume.oldest.write > oldest
        await volume.close()

    asyncio.run(scenario())


def test_writes_are_refused_at_once_and_nothing_promised_goes(place: Path) -> None:
    async def scenario() -> None:
        world = Lived(place, replace(FULL, when_full=WhenFull.REFUSE), budget=30 * SEGMENT)
        await world.driver.open()
        volume = world.driver.volume
        with pytest.raises(NoSpace):
            await _until_full(world)
        assert volume.oldest.write == 0 and volume.admission.refused == 1
        began = time.monotonic()
        with pytest.raises(NoSpace):
            await append(volume, [(OP_WRITE, 0, 12 * BLOCK, memoryview(bytes(12 * BLOCK)))])
        assert time.monotonic() - began < 2
        world.clock.pass_by(61)
        await append(volume, [(OP_WRITE, 0, BLOCK, memoryview(b"w" * BLOCK))])
        await volume.retention.set(FULL, None)
        await _until_full(world, 100)
        assert volume.oldest.write > 0
        await volume.close()

    asyncio.run(scenario())
