"""What is left of a pair, in other processes that find nothing wrong with their disks.

Two states of both: the primary's disk as a power cut leaves it with the mirror's as ``kill -9`` does, and the
other way round. What was promised of each disk is there, both come to the same point with equal roots, remember
what they were, and stop. And what is left of a mirror in whose promotion a call failed: it is promoted again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from revolume.blocks.geometry import BLOCK
from revolume.errors import RevolumeError
from revolume.log.write.operations import OP_WRITE
from revolume.sim.campaigns.call_failures.case import Found
from revolume.sim.campaigns.call_failures.oracle import Oracle
from revolume.sim.campaigns.call_failures.pair import Mark, Pair, Promised
from revolume.sim.campaigns.call_failures.run import live, payload
from revolume.sim.campaigns.call_failures.tended_pair import TendedPair
from revolume.sim.checks.equal import check_equal
from revolume.sim.kernel.machine import Ended, Machine
from revolume.sim.kernel.simulated_fs import NOTHING, Platter
from revolume.sim.oracle.model import Model

NEVER = 1 << 62
WRONG = (RevolumeError, OSError, AssertionError, TimeoutError, Ended)


@dataclass(slots=True)
class Left:
    """The disks of both at a moment, as processes left them and as a power cut would; what was promised; and what
    snapshots there were."""

    killed: dict[str, Platter]
    cut: dict[str, Platter]
    model: Model
    promised: Promised
    memory_lost: bool
    snapshots: set[str]

    @classmethod
    def by(cls, pair: Pair, snapshots: set[str]) -> Left:
        """Now."""
        disks = {name: machine.platter for name, machine in pair.machines.items()}
        return cls(
            {name: disk.copy() for name, disk in disks.items()},
            {name: disk.after(NOTHING) for name, disk in disks.items()},
            copy.deepcopy(pair.oracle.model), replace(pair.promised), pair.memory_lost, set(snapshots),
        )  # fmt: skip


class Again:
    """Judges what is left. ``failing``: on which of the machines a call had failed."""

    def __init__(self, found: Found, failing: str, left: Left) -> None:
        self.found = found
        self._at = failing
        self._left = left

    def both(self) -> None:
        """Where nothing fails any more only the disk that had the fault loses what was not synced."""
        left, promised = self._left, self._left.promised
        killed, cut = left.killed, left.cut
        if self._at == "a" or not self.found.once:
            there = self._in_memory(promised)
            self._again("a without power", {"a": cut["a"], "b": killed["b"]}, max(promised.flushed, there), there)
        if self._at == "b" or not self.found.once:
            lost = left.memory_lost or (self._at == "a" and self._forgets)
            here = promised.flushed if lost else promised.answered
            self._again("b without power", {"a": killed["a"], "b": cut["b"]}, here, promised.flushed_there)

    @property
    def _forgets(self) -> bool:
        """A sync has failed: what the kernel showed then it need not show any more."""
        return self.found.case is not None and self.found.case.call == "datasync"

    def _in_memory(self, promised: Promised) -> Mark:
        """What the mirror has, as long as its machine has power."""
        return promised.flushed_there if self._at == "b" and self._forgets else promised.answered_there

    def promoted(self) -> None:
        """The mirror, once more."""
        left = self._left
        self._promoted(left.killed["b"], self._in_memory(left.promised), "killed")
        self._promoted(left.cut["b"], left.promised.flushed_there, "power cut")

    def _anew(self, machines: dict[str, Machine], answered: Mark, there: Mark) -> Pair:
        oracle = Oracle(copy.deepcopy(self._left.model), self.found)
        pair = Pair(machines, {name: m.boot for name, m in machines.items()}, oracle, self.found)
        pair.promised = Promised(answered, answered, there, there)
        return pair

    def _again(self, where: str, disks: dict[str, Platter], answered: Mark, there: Mark) -> None:
        async def life(machines: dict[str, Machine]) -> None:
            pair = self._anew(machines, answered, there)
            for machine in machines.values():
                machine.boot()
            self._check(pair, where)
            try:
                await self._goes_on(pair, where)
            except WRONG as error:
                self.found.wrong.append(f"{where}: {error!r} {pair.told[-3:]}")

        live(disks, life, self.found, where)

    def _check(self, pair: Pair, who: str) -> None:
        self.found.wrong += pair.oracle.checked(pair.machines[self._at], who)

    async def _goes_on(self, pair: Pair, where: str) -> None:
        tended = TendedPair(pair, self.found)
        await pair.start_mirror()
        await pair.start_primary()
        kept = {snapshot.name for snapshot in pair.volume.manifest.state.snapshots}
        assert kept >= self._left.snapshots, f"snapshots {kept}, {self._left.snapshots} were promised"
        await tended.write((OP_WRITE, 21 * BLOCK, payload(25, BLOCK)))
        await tended.cut()
        await tended.agreed()
        assert not pair.restarts, "it was opened anew once more"
        self.found.wrong += [f"{where}: {one}" for one in check_equal(pair.volume, pair.there)]
        await self._remember(pair)
        await pair.stop("b")
        await pair.stop("a")
        machine = pair.machines[self._at]
        after = machine.platter.after(NOTHING)
        self.found.wrong += pair.oracle.checked(machine, f"{where}: stopped, and without power", after)

    async def _remember(self, pair: Pair) -> None:
        """Some of what each of them retains, the oldest and the newest always."""
        for name, volume, newest in (("a", pair.volume, NEVER), ("b", pair.there, pair.there.agreed.write)):
            retained = [n for n in pair.oracle.model.numbers if volume.folder.retired_write <= n <= newest]
            for number in {*retained[:: max(1, len(retained) // 4)], *retained[-1:]}:
                await pair.machines[name].run(pair.oracle.look(volume, number))

    def _promoted(self, disk: Platter, promised: Mark, where: str) -> None:
        async def life(machines: dict[str, Machine]) -> None:
            pair = self._anew(machines, promised, promised)
            machines["b"].boot()
            self._check(pair, f"promoted, {where}")
            try:
                await pair.promote()
                await self._works_again(pair)
            except WRONG as error:
                self.found.wrong.append(f"promoted, {where}: {error!r}")
            self._check(pair, f"promoted, {where}, stopped")

        live({"a": Platter(1 << 20), "b": disk}, life, self.found, where)

    async def _works_again(self, pair: Pair) -> None:
        await pair.machines["b"].run(pair.volume.cut())
        assert pair.primary is not None
        await pair.machines["b"].run(pair.primary.close())
        pair.machines["b"].stopped()
