"""A primary and a mirror, with everything that may happen to two machines and the network between them.

What is promised depends on the mirror's mode, and on whose memory is lost. In ``sync`` mode an answered write
lies in the log files of both, so it is there as long as one of the two that had it has not lost its power since;
a flushed one is on both disks, and survives both. In ``async`` mode the primary alone answers for it, and a
mirror that is promoted holds some prefix.

The operator is a person who keeps the rules. He promotes a mirror only when the primary is gone or, in ``sync``
mode, cut off from it: then the old one goes on for a while, and a single write that it answers on its own would be
found missing (O6). Then he ends the old one for good; a machine whose disk was wiped begins anew, as an empty
mirror.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from revolume.cli.serving import Serving
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.host import Host
from revolume.sim.checks.bounded import check_bounded
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.equal import check_equal
from revolume.sim.checks.moments import check_moments
from revolume.sim.checks.prefix import check_recovered
from revolume.sim.machine import Ended, Machine
from revolume.sim.model import Model
from revolume.sim.platter import NOTHING, Cut, Platter, state_of
from revolume.sim.register import NEVER, Written
from revolume.sim.replayed import replayed
from revolume.sim.service import MIRROR_PORT, PATH, MirrorService, PrimaryService, mirror_at
from revolume.sim.worlds.world import KiB, MiB, World
from revolume.volume.volume import Volume

START_S = 60.0


class PairWorld(World):
    """See the module's text."""

    name = "pair"
    steps = 9

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        chance = self.chance.stream("geometry")
        self.sync = chance.hit(0.65)
        self.first, self.second = self.machine("a"), self.machine("b")
        self.intruder = self.machine("z")
        self.primary: PrimaryService | None = None
        self.mirror: MirrorService | None = None
        self._uneven = chance.hit(0.3)
        self._asked = self._geometry()
        self._crashes: dict[str, str] = {}
        self._old: Platter | None = None
        """A primary's disk as it was when its mirror was promoted."""
        self._answering: tuple[PrimaryService, str, str]

    def _geometry(self) -> dict[str, Serving]:
        """Machines differ; in the size of their segments only where nothing has to be mirrored the other way."""
        chance, found = self.chance.stream("geometry"), {}
        segment = chance.choice((64 * KiB, 128 * KiB, 256 * KiB))
        for name in ("a", "b"):
            if name == "b" and self._uneven:
                segment *= 2
            found[name] = Serving(
                PATH, (), name="vm", size=self.size, cp_interval_s=chance.choice((0.3, 1.0, 5.0)),
                keep_s=chance.choice((0.5, 3.0, 3600.0)), budget_bytes=chance.choice((16, 64)) * MiB,
                map_memory_bytes=16 * MiB, segment_bytes=segment, spare_bytes=2 * segment,
            )  # fmt: skip
        return found

    def operations(self) -> dict[str, int]:
        return {
            "kill": 2, "power": 3, "stop": 1, "kill_mirror": 3, "power_mirror": 3, "stop_mirror": 1, "cut": 3,
            "cut_one_way": 1, "slow_link": 1, "moments": 2, "snapshot": 1, "point": 2, "slow": 1, "promote": 2,
            "both": 1, "wipe_mirror": 1, "bend": 1, "clock": 1, "stutter": 4, "partition": 1, "mode": 1,
            "replay": 1, "stale": 1, "cut_off_power": 2,
        }  # fmt: skip

    # Life

    async def begin(self) -> None:
        self.orders.holders = self.holders
        await self.start_mirror()
        await self.start_primary()
        self.start_clients(self.chance.choice((1, 2)))

    async def end(self) -> None:
        for machine in self.machines.values():
            machine.faults.quiet()
        await self._heal()
        await self._all_up()
        if self.primary is not None and self.primary.volume.core.commit.failure is not None:
            await self.op_kill()
        await self._all_up()
        await self.rest()
        await self._not_lost()
        await self._judge()
        await self.op_stop_mirror(start=False)
        await self._stop_primary()
        for machine in (self.first, self.second):
            self.wrong += check_clean(machine, machine.platter, f"{machine.name} at the end")

    async def _judge(self) -> None:
        """Both sides come to the same point, with the same root, and each holds its past."""
        primary = self.primary
        assert primary is not None
        content = await self.first.run(primary.content())
        if found := self.model.differs(self.model.newest, content):
            self.say(f"at the end: live, {found}")
        self.register.read(0, content[: self.register.sectors * 512], self.register.tick(), "at the end")
        with contextlib.suppress(NotFound):
            await self.first.run(primary.volume.cut())
        if await self.patiently("the mirror has everything", self._caught_up, 120):
            assert self.mirror is not None
            assert self.mirror.secondary is not None
            self.wrong += check_equal(primary.volume, self.mirror.secondary)
            self.wrong += await self.second.run(
                check_moments(self.mirror.secondary, self.model, self.chance, "mirror", 6, self._agreed())
            )
        self.wrong += await self.first.run(check_moments(primary.volume, self.model, self.chance, "primary", 6))

    def _agreed(self) -> int:
        assert self.mirror is not None
        assert self.mirror.secondary is not None
        return self.mirror.secondary.agreed.write

    async def _caught_up(self) -> bool:
        primary, there = self.primary, self.mirror.secondary if self.mirror is not None else None
        if primary is None or there is None or there.base is not None or not primary.volume.core.points:
            return primary is not None and there is not None and not primary.volume.core.points and not there.base
        return (there.agreed.number, there.received) == (
            primary.volume.core.points[-1].number, primary.volume.position
        )  # fmt: skip

    # What is promised

    def holders(self) -> tuple[str, ...]:
        """Who has a write that is answered now."""
        service, here, there = self._answering
        required = any(mirror.required for mirror in service.volume.mirrors)
        return (here, there) if required else (here,)

    def promised_by(self, *sources: Machine) -> Callable[[Written], bool]:
        """What must be there when the volume is put together from what these machines have."""

        def promised(written: Written) -> bool:
            if written.end == NEVER:
                return False
            return any(
                machine.name in written.holders
                and (written.durable or machine.lost_power_ns is None or machine.lost_power_ns < written.start_ns)
                for machine in sources
            )

        return promised

    # Starting

    async def _all_up(self) -> None:
        while self.primary is None or self.mirror is None:
            if self.mirror is None:
                await self.start_mirror()
            if self.primary is None:
                await self.start_primary()

    async def start_mirror(self) -> None:
        """The mirror, as it was left."""
        if self.second.process is not None:
            self.second.stopped()
        try:
            asked = self._asked[self.second.name]
            host = self.second.boot()
            self.mirror = await self.second.run(
                MirrorService.open(host, self.second.name, replace(asked, size=None), self.tell)
            )
        except Ended:
            self.mirror = None

    async def start_primary(self, *, promote: bool = False) -> None:
        """The primary, as it was left. Its clients are let in when it has been looked at."""
        mirrors = () if promote else (mirror_at(self.second.name, self.sync),)
        asked = replace(self._asked[self.first.name], mirrors=mirrors)
        if self._fresh_volume() is False:
            asked = replace(asked, size=None)
        deadline = self.loop.time() + START_S
        while self.primary is None:
            if self.first.process is not None:
                self.first.stopped()
            host = self.first.boot()
            try:
                await self._opened(await self.first.run(
                    PrimaryService.open(host, self.first.name, asked, self.model, self.tell, promote=promote)
                ))  # fmt: skip
            except Refused as error:  # its mirror can't be asked: somebody has to see to that
                self.tell(f"{error!r}")
                if promote or self.loop.time() > deadline:
                    raise
                await asyncio.sleep(0.5)
                if self.mirror is None:
                    await self.start_mirror()
                await self._heal()
            except Ended:
                continue

    def _fresh_volume(self) -> bool:
        return "vol" not in self.first.platter.root.memory

    async def _opened(self, opened: PrimaryService) -> None:
        crash = self._crashes.pop(self.first.name, "")
        if crash:
            sources = (self.first, self.second) if crash != "promoted" else (self.first,)
            content = await self.first.run(opened.content())
            self.wrong += check_recovered(
                self.model, self.register, content, self.promised_by(*sources), f"{self.first.name}: {crash}"
            )
        elif self.model.numbers == [0]:
            self.model.begin(opened.volume.write)
        await self.first.run(opened.serve())
        self._answering = opened, self.first.name, self.second.name
        self.primary = opened
        self.serve_at(self.first.name)

    # Blows

    def _lose(self, machine: Machine, how: str) -> None:
        if machine is self.first:
            self.primary = None
            self._crashes[machine.name] = how
        else:
            self.mirror = None
        if machine.process is None:
            return
        if how == "killed":
            machine.kill()
        else:
            machine.platter.before_change = lambda number, what: None
            machine.power_cut(Cut.drawn(self.chance))
            self.cuts.add(state_of(machine.platter))
        self.wrong += check_clean(machine, machine.platter, f"{machine.name} {how}")

    async def _power(self, machine: Machine) -> None:
        """Now, or in the middle of what it does to its disk."""
        if self.chance.hit(0.5):
            left, process = [self.chance.randrange(40)], machine.process

            def before(number: int, what: str) -> None:
                left[0] -= 1
                if left[0] < 0:
                    self._lose(machine, "lost power")

            machine.platter.before_change = before
            for _ in range(25):
                await asyncio.sleep(0.02)
                if machine.process is not process:
                    return
            machine.platter.before_change = lambda number, what: None
        self._lose(machine, "lost power")

    async def op_kill(self) -> None:
        """kill -9 of the primary."""
        self._lose(self.first, "killed")
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_primary()

    async def op_power(self) -> None:
        """The primary loses its power."""
        await self._power(self.first)
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_primary()

    async def op_stop(self) -> None:
        """The primary is stopped in order, and started."""
        await self._stop_primary()
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_primary()

    async def _stop_primary(self) -> None:
        service, self.primary = self.primary, None
        if service is None:
            return
        self._crashes[self.first.name] = "stopped"
        with contextlib.suppress(Ended):
            try:
                await self.first.run(service.close())
            except RevolumeError as error:
                if service.volume.core.commit.failure is None:
                    self.say(f"a clean stop failed: {error}")
        if self.first.process is not None:
            self.first.stopped()

    async def op_kill_mirror(self) -> None:
        """kill -9 of the mirror; answers wait until it is back."""
        self._lose(self.second, "killed")
        await asyncio.sleep(self.chance.delay(0.5))
        await self.start_mirror()

    async def op_power_mirror(self) -> None:
        """The mirror loses its power."""
        await self._power(self.second)
        await asyncio.sleep(self.chance.delay(0.5))
        await self.start_mirror()

    async def op_stop_mirror(self, *, start: bool = True) -> None:
        """The mirror is stopped in order."""
        service, self.mirror = self.mirror, None
        if service is not None:
            with contextlib.suppress(Ended):
                await self.second.run(service.close())
            if self.second.process is not None:
                self.second.stopped()
            self.wrong += check_clean(self.second, self.second.platter, "the mirror after a clean stop")
            after = self.second.platter.after(NOTHING)
            self.wrong += check_clean(self.second, after, "the mirror after a clean stop and a power cut")
        if start:
            await self.start_mirror()

    async def op_mode(self) -> None:
        """From async to sync: an option of the next start. The other way answers rest on the mirror: it has to be
        given up first."""
        if self.primary is not None and self._required():
            with contextlib.suppress(Ended):
                await self.first.run(self.primary.role.detach(self.second.name))
                self._forget_holder(self.second.name)
            if self.primary is None:
                return
        self.sync = not self.sync
        await self.op_stop()

    async def op_cut_off_power(self) -> None:
        """The primary loses its power while it does not reach its mirror. An async mirror may have more of the log
        than the primary's disk then: the primary goes on without it, and the two logs part. Neither gives way."""
        there = self.mirror.secondary if self.mirror is not None else None
        if self.sync or self.primary is None or self._required() or there is None or there.base is not None:
            return
        self.fabric.partition([["a"], ["b"]])
        await self._power(self.first)
        await self.start_primary()
        apart = there.end.position > self.primary.opened_at
        near, seen = there.end.position > self.primary.opened_at - 8, len(self.told)
        await asyncio.sleep(self.chance.delay(1.0))
        await self._heal()

        async def settled() -> bool:
            return self._refused(seen) or (not apart and await self._near())

        if await self.patiently("the mirror is refused, or has everything", settled, 90) and self._refused(seen):
            if not near:
                self.say("the mirror was refused for nothing" + self.state())
            await self.op_wipe_mirror()

    def _required(self) -> bool:
        return self.primary is not None and any(mirror.required for mirror in self.primary.volume.mirrors)

    def _refused(self, since: int) -> bool:
        return any("are not of the log" in told or "log goes on to" in told for told in self.told[since:])

    async def _near(self) -> bool:
        """The mirror takes what the primary sends, or has lost its claim to it."""
        primary = self.primary
        return primary is not None and any(
            mirror.lost or mirror.received > primary.opened_at for mirror in primary.volume.mirrors
        )

    async def _not_lost(self) -> None:
        """A mirror for which the log had no more room is made anew, as the refusal advises."""
        if self.primary is not None and any(mirror.lost for mirror in self.primary.volume.mirrors):
            await self.op_wipe_mirror()

    async def op_stale(self) -> None:
        """An image of a primary as it once was is started on another machine, while the primary is away."""
        if self._old is None or self.mirror is None or self.primary is None:
            return
        self._lose(self.first, "killed")
        await self._heal()
        self.intruder.platter = self._old.copy()
        asked = replace(
            self._asked[self.first.name], size=None, alone=True, mirrors=(mirror_at(self.second.name, self.sync),)
        )
        with contextlib.suppress(Ended, RevolumeError):
            await self.intruder.run(
                PrimaryService.open(self._intruding(), "z", asked, Model(self.size), self.tell)
            )
        await asyncio.sleep(self.chance.delay(4.0))
        self.intruder.kill()
        await self.start_primary()

    def _intruding(self) -> Host:
        if self.intruder.process is not None:
            self.intruder.stopped()
        return self.intruder.boot()

    async def op_both(self) -> None:
        """Both at once: killed, or without power. What was flushed survives that too."""
        how = self.chance.choice(("killed", "lost power"))
        self._lose(self.first, how)
        self._lose(self.second, how)
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_mirror()
        await self.start_primary()

    async def op_wipe_mirror(self) -> None:
        """The mirror's disk is replaced by an empty one: it is detached, and comes again from nothing."""
        self._lose(self.second, "lost power")
        self.second.wipe()
        self.second.lost_power_ns = self.loop.now_ns
        await self._anew()

    async def _anew(self) -> None:
        """The other machine is an empty mirror of this one from now on."""
        self._forget_holder(self.second.name)
        primary = self.primary
        if primary is not None:
            with contextlib.suppress(Ended, NotFound):
                await self.first.run(primary.role.detach(self.second.name))
            await self.op_stop()
            await self.start_mirror()

    def _forget_holder(self, name: str) -> None:
        """What was on that machine's disk is nowhere on it any more."""
        for written in self.register.known():
            written.holders = tuple(holder for holder in written.holders if holder != name)

    async def op_promote(self) -> None:
        """The primary's machine is lost, or cut off; its mirror takes over, and it comes back empty."""
        there = self.mirror.secondary if self.mirror is not None else None
        if there is None or there.base is not None or self.mirror is None or self._uneven:
            return
        required = self.primary is not None and any(m.required for m in self.primary.volume.mirrors)
        if not required and (self.primary is None or there.end.position < self.primary.opened_at):
            return  # a state from before the last recovery: the register knows no other than what was found then
        cut_off = required and self.chance.hit(0.4)
        both = required and not cut_off and self.chance.hit(0.5)  # the mirror too, which then stands for it alone
        self.orders.busy()
        if both:
            self.second.faults.slow = 300.0
            await asyncio.sleep(self.chance.delay(0.4))
            self.second.faults.quiet()
            self._lose(self.first, "lost power")
            self._lose(self.second, "lost power")
        elif cut_off:
            self.fabric.cut("a", "b")
            self.fabric.cut("b", "a")
            await asyncio.sleep(self.chance.uniform(0.0, 12.0))
        else:
            self._lose(self.first, self.chance.choice(("killed", "lost power")))
        await self._take_over()
        if self.second.process is not None:  # the old one, cut off until now: it must not have answered
            self._lose(self.second, "killed")
        self._old = self.second.platter.copy()
        await self._old_returns()
        self.second.wipe()
        self.second.lost_power_ns = self.loop.now_ns
        await self._heal()
        self._forget_holder(self.second.name)
        stale = self.chance.hit(0.4)
        if stale:  # while the new mirror's base is under way, and nothing but epochs says whose it is
            self.fabric.path(self.first.name, self.second.name).bytes_per_s = 1e5
        await self.op_stop()
        if stale:
            await self.op_stale()

    async def _old_returns(self) -> None:
        """The old primary is started as it is, to be a mirror: it is refused, and keeps what it has."""
        before = state_of(self.second.platter.copy())
        try:
            await self.second.run(MirrorService.open(
                self.second.boot(), self.second.name, replace(self._asked[self.second.name], size=None), self.tell
            ))  # fmt: skip
            self.say("an old primary is a mirror without a word")
        except RevolumeError as error:
            self.tell(f"{error!r}")
        self.second.stopped()
        if state_of(self.second.platter.copy()) != before:
            self.say("an old primary was changed by its refusal")

    async def _take_over(self) -> None:
        service, self.mirror = self.mirror, None
        self.primary = None
        self.orders.uri = "nbd://none:1/vm"
        if service is not None:
            with contextlib.suppress(Ended):
                await self.second.run(service.close())
        self.first, self.second = self.second, self.first
        self._crashes = {self.first.name: "promoted"}
        await self.start_primary(promote=True)

    # The network

    async def _heal(self) -> None:
        self.fabric.partition([["a", "b", "c"]])
        for source, target in (("a", "b"), ("b", "a")):
            path = self.fabric.path(source, target)
            path.latency_s, path.bytes_per_s, path.bent = 0.0002, 200e6, 0.0

    async def op_cut(self) -> None:
        """The link between the two is cut, for a moment or for long."""
        self.fabric.partition([["a"], ["b"]])
        await asyncio.sleep(self.chance.choice((0.05, 1.0, 8.0, 45.0)))
        await self._heal()

    async def op_cut_one_way(self) -> None:
        """In one direction only."""
        way = self.chance.choice((("a", "b"), ("b", "a")))
        self.fabric.cut(*way)
        await asyncio.sleep(self.chance.choice((0.3, 3.0, 20.0)))
        await self._heal()

    async def op_stutter(self) -> None:
        """Again and again, for moments, anywhere."""
        for _ in range(self.chance.randrange(3, 9)):
            way = self.chance.choice((("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")))
            self.fabric.cut(*way)
            await asyncio.sleep(self.chance.delay(0.05))
            self.fabric.heal(*way)
            await asyncio.sleep(self.chance.delay(0.1))

    async def op_partition(self) -> None:
        """Two see each other and the third sees nobody, or nobody sees anybody."""
        self.fabric.partition(self.chance.choice((
            [["a"], ["b", "c"]], [["b"], ["a", "c"]], [["c"], ["a", "b"]], [["a"], ["b"], ["c"]],
        )))  # fmt: skip
        await asyncio.sleep(self.chance.choice((0.3, 2.0, 12.0)))
        await self._heal()

    async def op_replay(self) -> None:
        """Somebody has heard what a source sent, and sends it to the mirror again."""
        host = self._intruding()
        pieces, address = list(self.fabric.heard), self.fabric.overheard
        self.fabric.heard.clear()
        with contextlib.suppress(Ended, OSError):
            await self.intruder.run(replayed(host, address, pieces))
        self.fabric.overheard = f"{self.second.name}:{MIRROR_PORT}"

    async def op_slow_link(self) -> None:
        """A long thin line."""
        for way in (("a", "b"), ("b", "a")):
            path = self.fabric.path(*way)
            path.latency_s, path.bytes_per_s = self.chance.choice((0.01, 0.2)), self.chance.choice((2e5, 2e6))
        await asyncio.sleep(self.chance.delay(3.0))
        await self._heal()

    async def op_bend(self) -> None:
        """Bytes are bent on their way to the mirror and back."""
        for way in (("a", "b"), ("b", "a")):
            self.fabric.path(*way).bent = 0.02
        await asyncio.sleep(self.chance.delay(2.0))
        await self._heal()

    # Looking, and small things

    async def op_moments(self) -> None:
        """Either side's past."""
        primary, mirror = self.primary, self.mirror
        with contextlib.suppress(Ended):
            if primary is not None:
                self.wrong += check_bounded(primary, self.first.name)
                self.wrong += await self.first.run(
                    check_moments(primary.volume, self.model, self.chance, self.first.name, 2, self.model.newest)
                )
        there = mirror.secondary if mirror is not None else None
        if there is not None and there.base is None:
            with contextlib.suppress(Ended):
                self.wrong += await self.second.run(
                    check_moments(there, self.model, self.chance, "the mirror", 2, there.agreed.write)
                )

    async def op_snapshot(self) -> None:
        """Name this moment, here and there."""
        await self._asks(lambda volume: volume.snapshot(f"s{self.loop.now_ns}"))

    async def op_point(self) -> None:
        """A point now."""
        await self._asks(lambda volume: volume.cut())

    async def _asks(self, what: Callable[[Volume], Coroutine[Any, Any, object]]) -> None:
        if self.primary is not None:
            with contextlib.suppress(Ended, RevolumeError):
                await self.first.run(what(self.primary.volume))

    async def op_slow(self) -> None:
        """One of the disks is slow, or stuck."""
        machine = self.chance.choice((self.first, self.second))
        machine.faults.slow, machine.faults.stuck = self.chance.choice((10.0, 100.0)), 0.01
        await asyncio.sleep(self.chance.delay(2.0))
        machine.faults.quiet()

    async def op_clock(self) -> None:
        """Somebody sets one of the clocks."""
        hours = self.chance.choice((-87600.0, -1.0, 1.0, 87600.0))
        self.chance.choice((self.first, self.second)).clock.offset_ns += int(hours * 3600e9)



