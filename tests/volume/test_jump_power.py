"""A jump through power cuts: before any change that it makes to the disk the power may go, and of what is pending
then the disk may have nothing, everything or any part."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from revolume.chain.point import Point
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.offline.salvage.salvage import salvage
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.simulated_fs import KEPT, LOST, Cut, Platter, state_of
from revolume.sim.oracle.sample_volume import SimProcess
from revolume.volume.metadata.manifest import load, read_file
from revolume.volume.metadata.manifest_state import JumpTarget, Role
from revolume.volume.open.directory_state import stated
from revolume.volume.open.open import open_secondary, open_volume

from .driver import BLOCK, SMALL
from .jumping import Jumper
from .mirrored import THERE, read_all
from .store import payload

BLOCKS = 80
PATH = Path("/v")
pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Crash:
    platter: Platter
    where: str
    flipped: bool
    next_block: int
    again: bool


@dataclass
class Story:
    """What was played, and every state in which a power cut left it."""

    seed: int
    every: int
    crashes: list[Crash] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    flipped: bool = False
    driver: Jumper | None = None
    old: int = 0
    kept: int = 0
    point: Point | None = None
    target: JumpTarget | None = None

    def __post_init__(self) -> None:
        self.chance = Chance(self.seed, "jump")

    def play(self) -> None:
        with SimProcess(Platter(256 << 20), self.seed) as life:
            life.run(self._play(life))

    async def _play(self, life: SimProcess) -> None:
        driver = self.driver = Jumper(life.host, PATH, BLOCKS * BLOCK, replace(SMALL, spare_bytes=0))
        await driver.stand(replace(THERE, spare_bytes=0))
        await driver.volume.snapshot("kept")
        self.kept = driver.volume.write
        await driver.write(1, 2)
        await driver.cut()
        await driver.write(3)
        await driver.cut()
        await driver.catch_up()
        self.old = driver.copy.agreed.write
        await driver.write(1, 3, 20, 70)
        await driver.ship()  # beyond its point: the jump drops it
        await driver.change([(OP_ZERO, 8 * BLOCK, 9 * BLOCK)])
        await driver.change([(OP_WRITE, 30 * BLOCK, payload(7, 30 * BLOCK))])
        await driver.grow((BLOCKS + 8) * BLOCK)
        await driver.write(BLOCKS + 5)
        await driver.volume.snapshot("new")
        point = driver.volume.retained.newest
        assert point is not None
        self.point, self.target = point, driver.target(point)
        life.platter.before_change = lambda number, what: self._cut_here(life.platter, number, what)
        await driver.copy.begin_jump(self.target)
        await driver.send(point, stop_at=25)
        await driver.copy.settle_jump()
        await driver.send(point)
        await driver.copy.finish_jump()
        self.flipped = True
        await driver.reopen_mirror()
        await driver.write(4)
        await driver.cut()
        await driver.catch_up()
        life.platter.before_change = lambda number, what: None
        await driver.check_mirror()

    def _cut_here(self, platter: Platter, number: int, what: str) -> None:
        if number % self.every:
            return
        assert self.driver is not None
        jump = self.driver.copy.manifest.state.jump
        cuts = {"nothing": lambda n: LOST, "all": lambda n: KEPT, "some": Cut.drawn(self.chance).decide}
        for how, decide in cuts.items():
            progress = jump.next_block if jump is not None else 0
            where = f"change {number} ({what}), {how}"
            self.keep(platter.after(Cut(decide, self.chance)), where, self.flipped, progress, True)

    def keep(self, platter: Platter, where: str, flipped: bool, progress: int, again: bool) -> None:
        if (state := state_of(platter)) not in self.seen:
            self.seen.add(state)
            self.crashes.append(Crash(platter, where, flipped, progress, again))

    # What each of them must be

    def judge(self, crash: Crash) -> str:
        """What was found."""
        with SimProcess(crash.platter.copy(), self.seed) as looker:
            problems = check(looker.host, str(self._there)).problems
            assert not problems, f"{crash.where}: {problems}"
            self._salvaged(looker, crash.where)
        with SimProcess(crash.platter, self.seed) as life:
            if crash.again:
                life.platter.before_change = lambda number, what: self._again(life.platter, number, what, crash)
            try:
                return life.run(self._judge(life, crash))
            except Exception as error:
                error.add_note(crash.where)
                raise

    def _salvaged(self, looker: SimProcess, where: str) -> None:
        """What salvage makes of a copy that has jumped, and whose image may hold any part of it."""
        with closing(looker.host.disk.open(str(self._there))) as directory:
            jump = load(directory).state.jumped
        if jump is None:
            return
        assert self.point is not None
        report = salvage(looker.host, str(self._there), "/out")
        assert report.good and report.write == self.point.write, f"{where}: {report}"
        assert read_file(looker.host.disk.open("/"), "out") == self._content(self.point.write), f"{where}: salvage"

    @property
    def _there(self) -> Path:
        assert self.driver is not None
        return self.driver.there

    def _again(self, platter: Platter, number: int, what: str, crash: Crash) -> None:
        if self.chance.hit(0.04):
            where = f"{crash.where}; then before change {number} ({what})"
            self.keep(platter.after(Cut.drawn(self.chance)), where, crash.flipped, 0, False)

    async def _judge(self, life: SimProcess, crash: Crash) -> str:
        primary = stated(life.host.disk, str(self._there)).role == Role.PRIMARY
        if primary or self.chance.hit(0.2):
            return await self._promoted(life, crash)
        assert self.driver is not None and self.point is not None and self.target is not None
        there = await open_secondary(life.host, str(self._there), THERE)
        life.platter.before_change = lambda number, what: None
        driver = Jumper(life.host, PATH, BLOCKS * BLOCK)
        driver.model, driver.secondary = self.driver.model, there
        assert await content(there, self.kept) == self._content(self.kept), f"{crash.where}: the snapshot"
        newest = there.agreed.write
        assert await content(there, newest) == self._content(newest), f"{crash.where}: w{newest}"
        if newest < self.point.write:
            assert newest == self.old and not crash.flipped, f"{crash.where}: w{newest}"
            jump = there.jump
            assert jump is None or jump.next_block >= crash.next_block, f"{crash.where}: {jump}"
            assert jump is not None or not crash.next_block, crash.where
            await there.begin_jump(self.target)
            await driver.send(self.point)
            await there.finish_jump()
            await there.close()
            there = await open_secondary(life.host, str(self._there), THERE)
            assert there.agreed.number == self.point.number
            assert await content(there, self.kept) == self._content(self.kept), f"{crash.where}: the snapshot"
        assert {pin.name for pin in there.manifest.state.snapshots} == {"kept", "new"}
        assert await content(there, self.point.write) == self._content(self.point.write), crash.where
        await there.close()
        assert not check(life.host, str(self._there)).problems
        return "old" if newest == self.old else "new"

    async def _promoted(self, life: SimProcess, crash: Crash) -> str:
        assert self.driver is not None and self.point is not None
        volume = await open_volume(life.host, str(self._there), replace(THERE, promote=True))
        found = bytes(await read_all(volume))
        moments = [n for n in self.driver.model.moments if n >= (self.point.write if crash.flipped else self.old)]
        assert any(self._content(n) == found for n in moments), f"{crash.where}: promoted"
        assert await content(volume, self.kept) == self._content(self.kept), f"{crash.where}: the snapshot"
        await volume.close()
        assert not check(life.host, str(self._there)).problems
        return "promoted"

    def _content(self, write: int) -> bytes:
        assert self.driver is not None
        size, blocks = self.driver.model.moments[write]
        return bytes(self.driver.model.content(size, blocks))


async def content(volume: Any, write: int) -> bytes:
    view = await open_view(volume, ResolvedMoment(write, 0), "test")  # type: ignore[arg-type]
    try:
        buffer = bytearray(view.size)
        await view.reader.read(0, memoryview(buffer))
        return bytes(buffer)
    finally:
        view.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_copy_is_the_old_point_or_the_new_one_after_every_power_cut(seed: int) -> None:
    story = Story(seed, every=3)
    story.play()
    found: dict[str, int] = {}
    most = 160
    while story.crashes and sum(found.values()) < most:
        crash = story.crashes.pop(story.chance.randrange(len(story.crashes)))
        what = story.judge(crash)
        found[what] = found.get(what, 0) + 1
    assert found.keys() >= {"old", "new", "promoted"}, found
