"""A moment that is fetched, through power cuts: before any change to the disk the power may go, and then all
of the moment is there or nothing."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.simulated_fs import KEPT, LOST, Cut, Platter, state_of
from revolume.sim.oracle.sample_volume import SimProcess
from revolume.volume.metadata.layout import RESCUE
from revolume.volume.open.open import open_volume

from .driver import BLOCK, SMALL, Model
from .jumping import Jumper
from .mirrored import THERE
from .test_fetched_moment import Direct, fetch, hold

BLOCKS = 80
PATH = Path("/v")
pytestmark = pytest.mark.timeout(300)


class Story:
    """``older`` is an isolated moment that was fetched before, ``then`` one that is fetched while the power may
    go. ``crashes``: state, where, and whether the fetch had been answered."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = Chance(seed, "fetch")
        self.crashes: list[tuple[Platter, str, bool]] = []
        self.seen: set[int] = set()
        self.older = self.then = 0
        self.answered = False
        self.model = Model(BLOCKS * BLOCK)

    def play(self) -> None:
        with SimProcess(Platter(256 << 20), self.seed) as life:
            life.run(self._play(life))

    async def _play(self, life: SimProcess) -> None:
        driver = Jumper(life.host, PATH, BLOCKS * BLOCK, replace(SMALL, spare_bytes=0))
        self.model = driver.model
        await driver.stand(replace(THERE, spare_bytes=0))
        await driver.write(1, 2, 3)
        self.older = (await driver.cut()).write
        before = driver.model.blocks[2]
        await driver.write(2, 4, 5, 9)
        self.then = (await driver.cut()).write
        await driver.write(4, 6, 70)
        await driver.change([(OP_WRITE, 2 * BLOCK, before)])  # as it was at the older one
        point = await driver.cut()
        await driver.catch_up()
        await driver.volume.mirrors.detach("m")  # nothing is kept for it
        await driver.volume.folder.fold_to(point, lambda write: None)
        held = await hold(driver.copy, f"w{self.older}")  # type: ignore[arg-type]
        await fetch(driver.volume, Direct(held), "older")
        held.close()
        await driver.volume.durable(driver.volume.position)
        life.platter.before_change = lambda number, what: self._cut_here(life.platter, number, what)
        held = await hold(driver.copy, f"w{self.then}")  # type: ignore[arg-type]
        await fetch(driver.volume, Direct(held), "then")
        self.answered = True
        held.close()
        await driver.write(4)
        await driver.volume.folder.fold_to(await driver.cut(), lambda write: None)
        life.platter.before_change = lambda number, what: None
        for write in (self.older, self.then):
            await driver.check_moment(write)

    def _cut_here(self, platter: Platter, number: int, what: str) -> None:
        cuts = {"nothing": lambda n: LOST, "all": lambda n: KEPT, "some": Cut.drawn(self.chance).decide}
        for how, decide in cuts.items():
            cut = platter.after(Cut(decide, self.chance))
            if (state := state_of(cut)) not in self.seen:
                self.seen.add(state)
                self.crashes.append((cut, f"change {number} ({what}), {how}", self.answered))

    def judge(self, platter: Platter, where: str, answered: bool) -> bool:
        """Whether the moment was there."""
        with SimProcess(platter.copy(), self.seed) as looker:
            problems = check(looker.host, str(PATH)).problems
            assert not problems, f"{where}: {problems}"
        with SimProcess(platter, self.seed) as life:
            there = life.run(self._found(life, where))
        assert there or not answered, f"{where}: it had been answered"
        return there

    async def _found(self, life: SimProcess, where: str) -> bool:
        driver = Jumper(life.host, PATH, BLOCKS * BLOCK, replace(SMALL, spare_bytes=0))
        driver.volume = await open_volume(life.host, str(PATH), driver.options)
        driver.model.moments = self.model.moments
        named = {snapshot.name: snapshot.write for snapshot in driver.volume.snapshots()}
        await driver.check_moment(named["older"])
        if "then" in named:
            await driver.check_moment(named["then"])
        state = driver.volume.manifest.state
        files = {table.number for rescue in state.rescues for table in rescue.tables}
        files |= {file.number for rescue in state.rescues for file in rescue.files}
        with closing(driver.volume.context.directory.child(RESCUE)) as rescued:
            assert {int(name.split(".")[0]) for name in rescued.names()} <= files, f"{where}: left behind"
        await driver.volume.close()
        return "then" in named


def test_after_a_power_cut_the_moment_is_there_or_nothing_of_it() -> None:
    story = Story(5)
    story.play()
    found = [story.judge(*crash) for crash in story.crashes]
    assert len(found) > 30 and any(found) and not all(found)
