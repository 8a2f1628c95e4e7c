"""A primary and two mirrors, whose links break at different times: whichever has more of the log takes over, the
other is brought on by it as the copy that it is, and the old primary comes back as a mirror.

Any machine may have any role. What a copy holds that nobody else has, since the volume went on without it, is
nobody's model: such a copy must be refused, and only then is its disk replaced. Any other has to be brought on,
however long it was away; but for a former primary after yet another failover, which may be made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from revolume.api.schemas import ResyncOrder
from revolume.blocks.numbers import Position
from revolume.errors import Refused, RevolumeError
from revolume.mirror.catch_up_plan import Rule
from revolume.node.demotion import demote_stopped
from revolume.node.service_options import ServiceOptions
from revolume.sim.actors.service import MIRROR_PORT, PATH, MirrorService, PrimaryService, mirror_at
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.equal import check_equal
from revolume.sim.checks.moments import check_moments
from revolume.sim.checks.prefix import check_recovered
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.monkeypatch import patched
from revolume.sim.kernel.simulated_fs import Cut, state_of
from revolume.sim.oracle.jump_watch import JumpWatch, is_of
from revolume.sim.oracle.sector_history import NEVER, Written
from revolume.sim.worlds.pair.bases import drawn_pieces, small_pieces
from revolume.sim.worlds.world import KiB, MiB, Verdict, World
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary

NAMES = ("a", "b", "d")
LARGER = ("b", "e")
"""Machines with larger segments. The volume is made on another: no primary writes what the others can't hold."""
START_S = 90.0
LEVEL_S = 120.0
MET_S = 12.0
"""A primary has met by then whoever can be reached."""


class TrioWorld(World):
    """One life of three copies. ``first`` has the primary."""

    name = "trio"
    steps = 6
    requests = 100, 300
    busy = 300
    """Requests that clients have more to do while something is lost."""

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        chance = self.chance.stream("geometry")
        self.names = self.draw_names(chance)
        for name in self.names:
            self.machine(name)
        self.first = "a"
        self.sync = {name: chance.hit(0.3) for name in self.names}
        self.options = {name: self._options(name) for name in self.names}
        self.primary: PrimaryService | None = None
        self.mirrors: dict[str, MirrorService] = {}
        self.watch = JumpWatch(self.model, self.say, lambda process: False)
        self.pieces = drawn_pieces(self.chance)
        self._unheld_ns = dict.fromkeys(self.names, -1)
        """When the last answer was released that did not rest on this mirror."""
        self._at_least = 0
        self._former: set[str] = set()  # have been the primary

    def draw_names(self, chance: Chance) -> tuple[str, ...]:
        """Of the machines that have a copy."""
        return NAMES

    def _options(self, name: str) -> ServiceOptions:
        chance, segment = self.chance.stream(f"options {name}"), 64 * KiB << (name in LARGER)
        return ServiceOptions(
            PATH, (), name="vm", size=self.size, cp_interval_s=chance.choice((0.3, 1.0)), keep_s=0.5,
            budget_bytes=chance.choice((24, 48)) * 64 * KiB, map_memory_bytes=16 * MiB, segment_bytes=segment,
            spare_bytes=2 * segment, overlay_quota_bytes=self.overlay_quota, rung_versions=16,
        )  # fmt: skip

    def operations(self) -> dict[str, int]:
        return {
            "apart": 6, "promote": 4, "kill": 1, "blow": 3, "snapshot": 2, "resync": 2, "slow": 1, "moments": 2,
        }  # fmt: skip

    def live(self) -> Verdict:
        with small_pieces(*self.pieces), patched(self.watch.patches()):
            verdict = super().live()
        for what, count in {**self.watch.counts, **self.watch.rules}.items():
            self.happened[f"- {what}"] = count
        return verdict

    async def begin(self) -> None:
        self.orders.holders = self._holders
        for name in self.names[1:]:
            await self._start_mirror(name)
        await self._start_primary()
        self.start_clients(2)

    # Who has what

    @property
    def _others(self) -> list[str]:
        return [name for name in self.names if name != self.first]

    def _there(self, name: str) -> Secondary | None:
        return self.mirrors[name].secondary if name in self.mirrors else None

    def _required(self, volume: Volume) -> list[str]:
        return [mirror.name for mirror in volume.mirrors if mirror.required]

    def _holders(self, start_ns: int) -> tuple[str, ...]:
        if self.primary is None:
            return (self.first,)
        required = self._required(self.primary.volume)
        return self.first, *(name for name in required if start_ns > self._unheld_ns[name])

    def _watch_releases(self, volume: Volume) -> None:
        released = volume.released

        def told(position: Position) -> bool:
            done = released(position)
            if done:
                for name in sorted(set(self.names) - set(self._required(volume))):
                    self._unheld_ns[name] = self.loop.now_ns
            return done

        volume.released = told  # type: ignore[method-assign]

    def _promised(self, sources: list[str]) -> Callable[[Written], bool]:
        def there(name: str, written: Written) -> bool:
            lost_ns = self.machines[name].lost_power_ns
            return name in written.holders and (written.durable or lost_ns is None or lost_ns < written.start_ns)

        return lambda written: written.end != NEVER and any(there(name, written) for name in sources)

    def _known(self, there: Secondary) -> bool:
        """Nothing of it was written by that copy's source alone."""
        return self.primary is not None and is_of(self.primary.volume, there.end)

    # Starting and ending

    async def _start_mirror(self, name: str) -> None:
        machine = self.machines[name]
        if machine.process is not None:
            machine.stopped()
        self.mirrors.pop(name, None)
        with contextlib.suppress(Ended):
            asked = replace(self.options[name], size=None)
            self.mirrors[name] = await machine.run(MirrorService.open(machine.boot(), name, asked, self.tell))

    async def _start_primary(self, sources: list[str] | None = None) -> None:
        """``sources``: whose disks what was answered may be on; None: this is the first time."""
        machine, deadline = self.machines[self.first], self.loop.time() + START_S
        mirrors = tuple(mirror_at(name, self.sync[name]) for name in self._others)
        asked = replace(self.options[self.first], mirrors=mirrors)
        if sources is not None:
            asked = replace(asked, size=None)
        while self.primary is None:
            if machine.process is not None:
                machine.stopped()
            opening = PrimaryService.open(machine.boot(), self.first, asked, self.model, self.tell)
            try:
                await self._served(await machine.run(opening), sources)
            except Refused as error:
                self.tell(f"{error!r}")
                if self.loop.time() > deadline:
                    raise
                self.fabric.partition([[*self.names, "c"]])
                for name in sorted(set(self._others) - self.mirrors.keys()):
                    await self._start_mirror(name)
                await asyncio.sleep(0.5)

    async def _served(self, opened: PrimaryService, sources: list[str] | None) -> None:
        machine = self.machines[self.first]
        if sources is None:
            self.model.begin(opened.volume.write)
        else:
            content = await machine.run(opened.content())
            if self.model.since(self._at_least, content) is None:
                self.say(f"{self.first} was at w{self._at_least}, and is opened without it")
            self.wrong += check_recovered(
                self.model, self.register, content, opened.volume.write, self._promised(sources), self.first
            )
        self._at_least = 0
        self._watch_releases(opened.volume)
        await machine.run(opened.serve())
        self.primary = opened
        self.serve_at(self.first)

    def _lose(self, name: str, how: str) -> None:
        machine = self.machines[name]
        if name == self.first:
            self.primary = None
        self.mirrors.pop(name, None)
        if machine.process is None:
            return
        if how == "killed":
            machine.kill()
        else:
            machine.platter.before_change = lambda number, what: None
            machine.power_cut(Cut.drawn(self.chance))
            self.cuts.add(state_of(machine.platter))
        self.wrong += check_clean(machine, machine.platter, f"{name} {how}")

    # The operator

    async def op_apart(self) -> None:
        """One mirror or both are cut off, one after the other, and come back one after the other."""
        for name in self.chance.sample(self._others, min(len(self._others), self.chance.choice((1, 2)))):
            for other in self.names:
                if other != name:
                    self.fabric.cut(name, other)
                    self.fabric.cut(other, name)
            self.orders.enough = max(self.orders.enough, self.orders.counts.answered + self.busy)
            await asyncio.sleep(self.chance.choice((0.3, 2.0, 6.0)))
        if self.chance.hit(0.3):
            await self.op_promote()
        for name in self.chance.sample(self.names, len(self.names)):
            for other in (*self.names, "c"):
                if other != name:
                    self.fabric.heal(name, other)
                    self.fabric.heal(other, name)
            await asyncio.sleep(self.chance.delay(1.0))

    async def op_blow(self) -> None:
        """One of the mirrors ends in the middle of whatever it does, or in the next jump."""
        name, how = self.chance.choice(self._others), self.chance.choice(("killed", "lost power"))
        await asyncio.sleep(self.chance.delay(0.5))
        self._lose(name, how)
        self.orders.enough = max(self.orders.enough, self.orders.counts.answered + self.busy)
        await asyncio.sleep(self.chance.choice((0.2, 3.0)))
        await self._start_mirror(name)

    async def op_kill(self) -> None:
        """The primary is killed, and comes back."""
        self._lose(self.first, "killed")
        await self._start_primary([self.first, *self._others])

    async def op_snapshot(self) -> None:
        """A name for this moment."""
        if self.primary is not None:
            with contextlib.suppress(Ended, RevolumeError):
                job = self.primary.volume.snapshot(f"s{self.loop.now_ns}")
                await self.machines[self.first].run(job)

    async def op_resync(self) -> None:
        """Fewer bytes are preferred, by order."""
        if self.primary is not None:
            with contextlib.suppress(Ended, RevolumeError, OSError):
                await self.machines[self.first].run(self.primary.role.resync(ResyncOrder((), "bytes")))

    async def op_slow(self) -> None:
        """A long thin line to one of the mirrors."""
        path = self.fabric.path(self.first, self.chance.choice(self._others))
        path.bytes_per_s = self.chance.choice((1e5, 1e6))
        await asyncio.sleep(self.chance.delay(3.0))
        path.bytes_per_s = 200e6

    async def op_moments(self) -> None:
        """The past of all three."""
        for name in self._others:
            await self._judge_mirror(name, "for once")

    async def _judge_mirror(self, name: str, when: str) -> None:
        there = self._there(name)
        if there is None or there.base is not None or not self._known(there):
            return
        found: list[str] = []
        with contextlib.suppress(Ended, RevolumeError, OSError, ValueError):
            looking = check_moments(there, self.model, self.chance, f"{name}, {when}", 2, there.agreed.write)
            found = await self.machines[name].run(looking)
        if self._there(name) is there and there.manifest.state.jumped is None:
            self.wrong += found

    def _promotable(self, there: Secondary) -> bool:
        return there.base is None and there.failure is None and self._known(there) and not there.bound.why_no_proof

    async def op_promote(self) -> None:
        """The primary is lost. The mirror that has more of the log takes over, feeds the other, and the old
        primary, demoted, is its mirror too."""
        whole = {n: t for n in self._others if (t := self._there(n)) is not None and self._promotable(t)}
        if self.primary is None or not whole:
            return
        required = self._required(self.primary.volume)
        if required and not set(required) <= whole.keys():
            return
        old = self.first
        self._former.add(old)
        self._lose(old, self.chance.choice(("killed", "lost power")))
        self.orders.uri = "nbd://none:1/vm"
        self.fabric.partition([[*self.names, "c"]])
        await asyncio.sleep(self.chance.delay(0.5))
        name = max(whole, key=lambda name: (name in required, whole[name].end.position, name))
        await self._take_over(name)
        await self._old_returns(old)

    async def _take_over(self, name: str) -> None:
        mirror = self.mirrors.pop(name)
        there = mirror.secondary
        assert there is not None
        jumped = there.manifest.state.jumped
        self._at_least = self.model.before(there.end.write) if jumped is None else jumped.target.point.write
        self.first = name
        deadline = self.loop.time() + START_S
        while True:
            try:
                promoted = await self.machines[name].run(mirror.promote(self.model))
                break
            except (RevolumeError, OSError) as error:
                self.tell(f"promotion: {error!r}")
                if self.loop.time() > deadline:
                    raise
                await asyncio.sleep(0.5)
        await self._served(promoted, [name])
        await self.machines[name].run(promoted.close())
        self.primary = None
        for other in self._others:
            self._forget(other)
        await self._start_primary([name])

    def _forget(self, name: str) -> None:
        """What was answered does not rest on this one any more."""
        for written in self.register.known():
            written.holders = tuple(holder for holder in written.holders if holder != name)

    async def _old_returns(self, old: str) -> None:
        machine = self.machines[old]
        if self.chance.hit(0.3):
            machine.wipe()
        else:
            with contextlib.suppress(Ended):
                await machine.run(demote_stopped(machine.boot(), PATH, f"{old}:{MIRROR_PORT}"))
                machine.stopped()
        machine.lost_power_ns = self.loop.now_ns
        await self._start_mirror(old)

    # The end

    async def end(self) -> None:
        for machine in self.machines.values():
            machine.faults.quiet()
        self.fabric.partition([[*self.names, "c"]])
        for name in self._others:
            if name not in self.mirrors:
                await self._start_mirror(name)
        if self.primary is None:
            await self._start_primary([self.first])
        await self._replace_strangers()
        await self.rest()
        primary = self.primary
        assert primary is not None
        content = await self.machines[self.first].run(primary.content())
        if found := self.model.differs(self.model.newest, content):
            self.say(f"at the end: live, {found}")
        await self.machines[self.first].run(primary.volume.cut())
        for name in self._others:
            if await self.patiently(f"{name} has everything", partial(self._level, name), LEVEL_S):
                there = self._there(name)
                assert there is not None
                self.wrong += check_equal(primary.volume, there)
                await self._judge_mirror(name, "at the end")
        await self.machines[self.first].run(primary.close())

    async def _replace_strangers(self) -> None:
        """A copy that wrote alone is refused, and given up for an empty one; no other is."""
        await asyncio.sleep(MET_S)
        assert self.primary is not None
        for name in self._others:
            there = self._there(name)
            if there is None or (self._known(there) and not self._refused_for_want_of_log(name)):
                continue
            if self._known(there):
                say = self.tell if name in self._former else self.say
                say(f"{name}, at cp{there.agreed.number}, has to be made anew")
            self._lose(name, "killed")
            self.machines[name].wipe()
            with contextlib.suppress(RevolumeError):
                await self.machines[self.first].run(self.primary.role.replace_mirror(name, True))
            self._forget(name)
            await self._start_mirror(name)

    def _refused_for_want_of_log(self, name: str) -> bool:
        assert self.primary is not None
        source, met = self.primary.role.links.get(name), self.primary.volume.mirrors.get(name).joined
        plan = source.progress.plan if source is not None else None
        return not met and plan is not None and plan.rule == Rule.LOG_GONE

    async def _level(self, name: str) -> bool:
        there, primary = self._there(name), self.primary
        if there is None or primary is None or there.base is not None or not primary.volume.retained.points:
            return False
        newest = primary.volume.retained.points[-1].number
        return (there.agreed.number, there.received) == (newest, primary.volume.position)
