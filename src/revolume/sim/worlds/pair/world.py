"""A primary and a mirror, with everything that may happen to two machines and the network between them.

The world has a state (``state``: the two machines, what runs on them, what is promised) and groups of operations,
each an object with what it needs: starting and stopping services (``running``), ``crashes``, ``disks`` that fail,
``network_faults``, the ``remedies`` that refusals name, logs that part (``divergence``), ``bases`` that are
interrupted, ``intruders``, who takes over (``takeover``), ``strangers`` in the mirror's place, ``inspections``.
Here is how it all begins and ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from revolume.errors import NotFound
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.equal import check_equal
from revolume.sim.checks.moments import check_moments
from revolume.sim.checks.names import check_same_names
from revolume.sim.checks.salvage_result import check_salvaged
from revolume.sim.kernel.monkeypatch import patched
from revolume.sim.kernel.process import Process
from revolume.sim.oracle.jump_watch import JumpWatch
from revolume.sim.worlds.pair.away import Away
from revolume.sim.worlds.pair.bases import InterruptedBases, drawn_pieces, small_pieces
from revolume.sim.worlds.pair.blows import Blows
from revolume.sim.worlds.pair.comparisons import Comparisons
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.disks import DiskFailures
from revolume.sim.worlds.pair.divergence import Divergence
from revolume.sim.worlds.pair.inspections import Inspections
from revolume.sim.worlds.pair.intruders import Intruders
from revolume.sim.worlds.pair.network_faults import NetworkFaults
from revolume.sim.worlds.pair.remedies import Remedies
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.sim.worlds.pair.strangers import Strangers
from revolume.sim.worlds.pair.takeover import Takeover
from revolume.sim.worlds.world import Verdict, World
from revolume.volume.metadata.base_history import History


class PairWorld(World):
    """One life of a primary and its mirror: begun, troubled, healed and judged."""

    name = "pair"
    steps = 9

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        self.watch = JumpWatch(self.model, self.say, self._is_foreign)
        self.pair = self.pair_state()
        self.running = Running(self.pair, self.watch)
        self.crashes = Crashes(self.pair, self.running)
        self.disks = DiskFailures(self.pair, self.running, self.crashes)
        self.network = NetworkFaults(self.pair)
        self.remedies = Remedies(self.pair, self.running, self.crashes, self.watch)
        self.divergence = Divergence(self.pair, self.running, self.crashes)
        self.bases = InterruptedBases(self.pair, self.crashes, self.running, self.network)
        self.intruders = Intruders(self.pair, self.running, self.crashes)
        self.takeover = Takeover(self.pair, self.running, self.crashes, self.intruders)
        self.strangers = Strangers(self.pair, self.running, self.crashes, self.intruders, self.takeover)
        self.inspections = Inspections(self.pair)
        self.comparisons = Comparisons(self.pair, self.running)
        self.blows = Blows(
            self.pair, self.running, self.crashes, self.disks, self.network, self.takeover, self.inspections
        )
        self.away = Away(self.pair, self.running, self.crashes, self.inspections, self.blows, self.watch)
        self.pieces = drawn_pieces(self.chance)
        """Blocks of a piece of a base, and blocks between two syncs of one."""

    def pair_state(self) -> PairState:
        """The two machines."""
        return PairState(self)

    def operations(self) -> dict[str, int]:
        return {
            "kill": 2, "power": 3, "stop": 1, "kill_mirror": 3, "power_mirror": 3, "stop_mirror": 1, "cut": 3,
            "cut_one_way": 1, "slow_link": 1, "moments": 2, "snapshot": 4, "point": 2, "slow": 1, "promote": 2,
            "both": 1, "wipe_mirror": 1, "half_base": 2, "bend": 1, "clock": 1, "stutter": 4, "partition": 1,
            "mode": 1, "replay": 2, "stale": 1, "copy": 1, "cut_off_power": 2, "write_error": 2, "sync_error": 2,
            "read_error": 2, "full": 1, "helper": 1, "readers": 2, "endless": 1,
            "stranger": 2, "replace": 1, "older": 1, "set_mode": 2, "remove": 1,
            "away": 4, "jump_power": 1, "resync": 2, "lost_point": 1, "scrub": 3,
        }  # fmt: skip

    def groups(self) -> Sequence[object]:
        return (
            self, self.running, self.crashes, self.disks, self.network, self.remedies, self.divergence, self.bases,
            self.intruders, self.takeover, self.strangers, self.inspections, self.away,
        )  # fmt: skip

    # Life

    def live(self) -> Verdict:
        with small_pieces(*self.pieces), patched(self.watch.patches()):
            verdict = super().live()
        for what, count in {**self.watch.counts, **self.watch.rules}.items():
            self.happened[f"- {what}"] = count
        return verdict

    def _is_foreign(self, process: Process) -> bool:
        beside = "." in process.name.removeprefix(f"{process.machine}.")
        return beside or process.machine == self.pair.intruder.name

    async def begin(self) -> None:
        self.orders.holders = self.pair.holders
        self.intruders.overhear()
        await self.running.start_mirror()
        await self.running.start_primary()
        self.start_clients(self.chance.choice((1, 2)))

    async def end(self) -> None:
        for machine in self.machines.values():
            machine.faults.quiet()
        await self.pair.heal()
        await self.running.all_up()
        await self.disks.open_broken()
        await self.running.all_up()
        if self.pair.lacks_room(0):  # answers may wait for a mirror that has none
            await self.remedies.more_room()
        await self.rest()
        if self.pair.was_told("its budget is used up", 0):
            self.say("a mirror held its source up for its budget's sake" + self.state())
        await self.readers.leave()
        await self.remedies.follow_advice()
        await self._judge()
        await self.running.op_stop_mirror(start=False)
        await self.running.stop_primary()
        for machine in (self.pair.first, self.pair.second):
            platter, who = machine.platter, f"{machine.name} at the end"
            self.wrong += check_clean(machine, platter, who)
            if self.pair.wrong_once(machine):
                continue  # without its manifest nobody knows which of its moments are suspect
            self.wrong += check_salvaged(machine, platter, self.model, who, bare=True, floor=self.model.newest)

    async def _judge(self) -> None:
        """Both sides come to the same point, with the same root, and each holds its past."""
        pair = self.pair
        primary = pair.primary
        assert primary is not None
        content = await pair.first.run(primary.content())
        if found := self.model.differs(self.model.newest, content):
            self.say(f"at the end: live, {found}")
        self.register.read(0, content[: self.register.sectors * 512], self.register.tick(), "at the end")
        with contextlib.suppress(NotFound):
            await pair.first.run(primary.volume.cut())
        if await self.patiently("the mirror has everything", pair.caught_up, 120):
            assert pair.there is not None
            self.wrong += check_equal(primary.volume, pair.there)
            if pair.history != History.NONE:
                lacks = partial(self.watch.lacks, pair.node_there)
                self.wrong += check_same_names(primary.volume, pair.there, lacks, pair.dropping)
            self.wrong += await pair.second.run(
                check_moments(pair.there, self.model, self.chance, "mirror", 6, pair.agreed_write())
            )
        self.wrong += await pair.first.run(check_moments(primary.volume, self.model, self.chance, "primary", 6))
        self.judge_ago(primary.volume, "primary")
