"""Taking back through power cuts: before any change that it makes to the disk the power may go, and of what is
pending then the disk may have nothing, everything or any part. Afterwards the copy is what it was, and can be
taken back once more; or it stands at the common point, with the branch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from revolume.host import Host
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.offline.check.check import check
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.simulated_fs import KEPT, LOST, Cut, Platter, state_of
from revolume.sim.oracle.sample_volume import SimProcess
from revolume.volume.branches.common_point import CommonPoint
from revolume.volume.metadata.manifest_state import State
from revolume.volume.open.directory_state import stated
from revolume.volume.open.open import open_secondary
from revolume.volume.open.rewind import rewind
from revolume.volume.secondary import Secondary

from .diverged import NAME, Diverged
from .driver import BLOCK, SMALL
from .mirrored import carried

PATH = Path("/v")
OPTIONS = replace(SMALL, spare_bytes=0, segment_bytes=1 << 18)
FOLDING = replace(SMALL, spare_bytes=0, keep_s=0.0)
pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Crash:
    platter: Platter
    where: str
    again: bool


@dataclass
class Story:
    """What was played, and every state in which a power cut left it."""

    seed: int
    crashed: bool
    left: bool = False
    """Whether the image has left the common point before."""
    crashes: list[Crash] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    log: list[ReceivedTransfer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = Chance(self.seed, "branch")

    def play(self) -> None:
        with SimProcess(Platter(256 << 20), self.seed) as life:
            life.run(self._play(life))

    async def _play(self, life: SimProcess) -> None:
        options = FOLDING if self.left else OPTIONS
        driver = self.driver = Diverged(life.host, PATH, 64 * BLOCK, options)
        await driver.stand()
        await driver.part()
        await driver.newer_writes(3, 9, 20, 51)
        self.point = await driver.new.point_maker.cut()
        for shipment in await driver.new.feed.older(driver.common.position, 1 << 30):
            self.log.append(carried(shipment))
        await driver.new.close()
        if self.left:
            await driver.volume.snapshot("here")
            await driver.volume.mirrors.detach("m")
        await driver.alone(20)
        await driver.volume.snapshot("early")
        await driver.alone(21)
        await driver.volume.snapshot("late")
        if self.left:
            await driver.cut()
            while await driver.fold():
                pass
            assert driver.volume.folder.horizon.point > driver.common.number
            await driver.write(5)
        await driver.demoted(self.crashed)
        life.platter.before_change = lambda number, what: self._cut_here(life.platter, number, what)
        branch = await driver.rewound()
        assert branch is not None and {each.name for each in branch.moments} >= {"early", "late"}
        await self._followed(await open_secondary(life.host, str(PATH), OPTIONS))
        life.platter.before_change = lambda number, what: None

    async def _followed(self, there: Secondary) -> None:
        """The copy takes up the promoted one's log, as far as it lacks it."""
        await there.make_durable(there.end.position)
        lacks = [each for each in self.log if each.transfer.position > there.end.position]
        for each in lacks:
            await asyncio.wait_for(there.room(there.need([each])), 60)
            there.keep([each])
        if lacks:
            await there.make_durable(there.received)
        for _ in range(400):
            if there.failure is not None:
                raise there.failure
            if not len(there.records):
                break
            await asyncio.sleep(0.005)
        assert there.agreed.number == self.point.number
        assert await self.driver.seen(there, there.agreed.write) == self.driver.content(self.driver.newer)
        await self.driver.check_branch(there)
        await there.close()

    def _cut_here(self, platter: Platter, number: int, what: str) -> None:
        cuts = {"nothing": lambda n: LOST, "all": lambda n: KEPT, "some": Cut.drawn(self.chance).decide}
        for how, decide in cuts.items():
            self.keep(platter.after(Cut(decide, self.chance)), f"change {number} ({what}), {how}", True)

    def keep(self, platter: Platter, where: str, again: bool) -> None:
        if (state := state_of(platter)) not in self.seen:
            self.seen.add(state)
            self.crashes.append(Crash(platter, where, again))

    def judge(self, crash: Crash) -> str:
        """What was found."""
        with SimProcess(crash.platter.copy(), self.seed) as looker:
            problems = check(looker.host, str(PATH)).problems
            assert not problems, f"{crash.where}: {problems}"
        with SimProcess(crash.platter, self.seed) as life:
            if crash.again:
                life.platter.before_change = lambda number, what: self._again(life.platter, number, what, crash)
            try:
                return life.run(self._judge(life.host))
            except Exception as error:
                error.add_note(crash.where)
                raise

    def _again(self, platter: Platter, number: int, what: str, crash: Crash) -> None:
        if self.chance.hit(0.02):
            where = f"{crash.where}; then before change {number} ({what})"
            self.keep(platter.after(Cut.drawn(self.chance)), where, False)

    async def _judge(self, host: Host) -> str:
        state = stated(host.disk, str(PATH))
        before = self._whole(state)
        if before == "old":
            common = self.driver.common
            point = CommonPoint(common.number, common.position, common.chain)
            assert await rewind(host, str(PATH), OPTIONS, point, NAME) is not None
        await self._followed(await open_secondary(host, str(PATH), OPTIONS))
        assert not check(host, str(PATH)).problems
        (branch,) = stated(host.disk, str(PATH)).branches
        with_it = host.disk.open(str(PATH / "branches"))
        assert len(with_it.names()) == 1 + len(branch.tables) == 4 + self.left
        with_it.close()
        return before

    def _whole(self, state: State) -> str:
        """All of it has changed, or nothing."""
        changed = {bool(state.branches), state.cut.edit > 0}
        assert len(changed) == 1, state
        return "new" if state.branches else "old"


@pytest.mark.parametrize(("crashed", "left"), [(False, False), (True, False), (False, True)])
def test_all_or_nothing_is_taken_back_after_every_power_cut(crashed: bool, left: bool) -> None:
    story = Story(1 + crashed, crashed, left)
    story.play()
    found: dict[str, int] = {}
    most = 120
    while story.crashes and sum(found.values()) < most:
        crash = story.crashes.pop(story.chance.randrange(len(story.crashes)))
        what = story.judge(crash)
        found[what] = found.get(what, 0) + 1
    assert found.keys() >= {"old", "new"}, found
