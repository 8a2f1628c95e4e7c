"""One primary, a few clients, and everything that happens to a machine that stands alone.

Fair faults only: what was flushed survives all of them, what was answered survives all but the loss of power.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from revolume.errors import RevolumeError
from revolume.node.service_options import ServiceOptions
from revolume.sim.actors.service import PATH, PrimaryService
from revolume.sim.checks.bounded import check_bounded
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.moments import check_moments
from revolume.sim.checks.prefix import check_recovered
from revolume.sim.checks.promised import check_promised
from revolume.sim.checks.salvage_result import check_salvaged
from revolume.sim.checks.scrubbed import check_scrub_finds, check_scrubbed
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.simulated_fs import NOTHING, PAGE, Cut, Platter, state_of
from revolume.sim.oracle.sector_history import NEVER, Written
from revolume.sim.worlds.guests import Guests
from revolume.sim.worlds.world import KiB, MiB, World
from revolume.volume.metadata.keep_policy import KeepPolicy, Tier, WhenFull

POLICIES = (
    KeepPolicy(500),
    KeepPolicy(3000),
    KeepPolicy(3_600_000),
    KeepPolicy(500, tiers=(Tier(2000, 60_000), Tier(10_000, 300_000))),
    KeepPolicy(500, every_point_ms=8000),
    KeepPolicy(1000, every_point_ms=5000, tiers=(Tier(3000, 120_000),)),
    KeepPolicy(2000, tiers=(Tier(4000, 60_000),), when_full=WhenFull.REFUSE),
)
"""What its operator may want to be kept."""


class PrimaryWorld(World):
    """One life of a primary without mirrors: begun, troubled, healed and judged. It has many methods because each
    thing that its operator does is one."""

    name = "primary"

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        self.a = self.machine("a")
        self.service: PrimaryService | None = None
        self.opened: PrimaryService | None = None
        """The last one, whether it still serves or not."""
        self.snapshots = 0
        self.powerless = False
        """Power was lost since what was answered was last known to be there."""
        self.asked = self._geometry()

    def _geometry(self) -> ServiceOptions:
        chance = self.chance.stream("geometry")
        segment = chance.choice((64 * KiB, 64 * KiB, 128 * KiB, 256 * KiB))
        return ServiceOptions(
            PATH, (), name="vm", size=self.size, cp_interval_s=chance.choice((0.3, 1.0, 5.0)),
            keep=chance.choice(POLICIES), budget_bytes=chance.choice((24, 48, 128)) * segment,
            map_memory_bytes=16 * MiB, segment_bytes=segment, spare_bytes=chance.choice((2, 4)) * segment,
            overlay_quota_bytes=self.overlay_quota, rung_versions=16,
        )  # fmt: skip

    def operations(self) -> dict[str, int]:
        return {
            "kill": 3, "power": 5, "stop": 2, "cut": 2, "moments": 4, "snapshot": 2, "drop": 1, "point": 2,
            "slow": 2, "sync_error": 1, "write_error": 1, "read_error": 1, "full": 1, "stutter": 4, "helper": 1,
            "keep": 2, "clock": 4, "fold_power": 1, "readers": 3, "greedy": 1, "scrub": 3,
        }  # fmt: skip

    async def begin(self) -> None:
        self.orders.holders = lambda start_ns: ("a",)
        await self.start()
        self.serve_at("a")
        self.start_clients(self.chance.choice((1, 2, 3)))

    async def end(self) -> None:
        self.a.faults.quiet()
        self.fabric.partition([["a", "c"]])
        if self.service is not None and self.service.volume.log.commit.failure is not None:
            await self.op_kill()
        await self.rest()
        await self.readers.leave()
        await self.judge("at the end")
        await self.op_stop()
        await self.judge("reopened")
        await self.op_stop(start=False)

    # Starting and stopping

    async def start(self) -> None:
        """Open it, look at what there is, let clients in. What dies meanwhile is started again."""
        while self.service is None:
            try:
                await self._start_once()
            except Ended:
                self.service = None
                if self.a.process is not None:
                    self.a.stopped()

    async def _start_once(self) -> None:
        host = self.a.boot()
        opened = await self.a.run(PrimaryService.open(host, "a", self.asked, self.model, self.tell))
        self.opened = opened
        self.lives(opened.volume, f"a.{self.a.lives}")
        if self.a.lives > 1:
            content = await self.a.run(opened.content())
            self.wrong += check_recovered(
                self.model, self.register, content, opened.volume.write, self.promised,
                f"a.{self.a.lives} after {self._why()}",
            )  # fmt: skip
        else:
            self.model.begin(opened.volume.write)
        self.powerless = False
        await self.a.run(opened.serve())
        self.service = opened

    def _why(self) -> str:
        return "a power cut" if self.powerless else "a kill or a stop"

    def promised(self, written: Written) -> bool:
        """What must be there after what has happened."""
        return written.durable or (written.end != NEVER and not self.powerless)

    def examine(self, platter: Platter, when: str) -> None:
        """``check`` and ``salvage`` on a disk that nobody uses."""
        self.wrong += check_clean(self.a, platter, when)
        self.salvage_soon(platter, when)

    def salvage_soon(self, platter: Platter, when: str) -> None:
        """The model does not yet know of a write in whose middle the power went."""
        copy, bare = platter.copy(), self.chance.hit(0.5)
        self.loop.call_soon(lambda: self.wrong.extend(self._salvaged(copy, when, bare)))

    def _salvaged(self, platter: Platter, when: str, bare: bool) -> list[str]:
        return check_salvaged(self.a, platter, self.model, when, bare=bare)

    async def judge(self, when: str) -> None:
        """Everything that can be asked of an open volume."""
        service = self.service
        if service is None:
            return
        try:
            content = await self.a.run(service.content())
            start = self.register.tick()
            if found := self.model.differs(self.model.newest, content):
                self.say(f"{when}: live, {found}")
            self.register.read(0, content[: self.register.sectors * 512], start, when)
            self.wrong += await self.a.run(check_moments(service.volume, self.model, self.chance, when, count=6))
            self.judge_ago(service.volume, when)
            self.wrong += await self.a.run(check_promised(service.volume, self.model, self.chance, when))
        except Ended:
            return

    # The operator

    async def op_kill(self) -> None:
        """kill -9, and a restart."""
        self.service = None
        self.a.kill()
        await self._back()

    async def op_power(self) -> None:
        """The plug, now or before one of the next changes of the disk; and again while it recovers."""
        await self._lose_power(self.chance.randrange(40) if self.chance.hit(0.7) else 0)
        again = self.chance.hit(0.4)
        if again:
            self.a.platter.before_change = self._plug(self.chance.randrange(60))
        await self._back()
        self.a.platter.before_change = lambda number, what: None
        if self.service is None:
            await self._back()

    async def _lose_power(self, after: int) -> None:
        if after:
            service, process = self.service, self.a.process
            self.a.platter.before_change = self._plug(after)
            for _ in range(50):
                await asyncio.sleep(0.02)
                if self.a.process is not process:
                    return
            self.service = service
            self.a.platter.before_change = lambda number, what: None
        if self.a.process is not None:
            self._unplug()

    def _plug(self, after: int) -> Callable[[int, str], None]:
        """Pulls the plug before the change that is so many away."""
        left = [after]

        def before(number: int, what: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                self._unplug()

        return before

    def _unplug(self) -> None:
        if self.opened is not None:
            self.clock_lost(self.a, self.opened.volume)
        self.service = None
        self.powerless = True
        self.a.platter.before_change = lambda number, what: None
        self.a.power_cut(Cut.drawn(self.chance))
        self.cuts.add(state_of(self.a.platter))
        self.examine(self.a.platter, "after a power cut")

    async def _back(self) -> None:
        await asyncio.sleep(self.chance.delay(0.2))
        await self.start()

    async def op_stop(self, *, start: bool = True) -> None:
        """A clean stop, and a restart."""
        service, self.service = self.service, None
        if service is None:
            return
        await self.readers.leave()
        try:
            await self.a.run(service.close())
        except Ended:
            pass
        except RevolumeError as error:
            if service.volume.log.commit.failure is None:
                self.say(f"a clean stop failed: {error}")
        if self.a.process is not None:
            self.a.stopped()
        self.examine(self.a.platter, "after a clean stop")
        self.examine(self.a.platter.after(NOTHING), "after a clean stop and a power cut")
        if start:
            await self._back()

    async def op_cut(self) -> None:
        """Clients lose the network for a while."""
        ways = self.chance.choice(([("a", "c")], [("c", "a")], [("a", "c"), ("c", "a")]))
        for way in ways:
            self.fabric.cut(*way)
        await asyncio.sleep(self.chance.choice((0.1, 1.0, 40.0)))
        for way in ways:
            self.fabric.heal(*way)

    async def op_stutter(self) -> None:
        """The network to the clients fails several times in a row, for a moment each time."""
        for _ in range(self.chance.randrange(3, 9)):
            way = self.chance.choice((("a", "c"), ("c", "a")))
            self.fabric.cut(*way)
            await asyncio.sleep(self.chance.delay(0.05))
            self.fabric.heal(*way)
            await asyncio.sleep(self.chance.delay(0.1))

    async def op_full(self) -> None:
        """Somebody else fills the disk for a while."""
        platter, capacity = self.a.platter, self.a.platter.capacity
        platter.capacity = min(capacity, platter.used_pages * PAGE + self.chance.choice((0, 64, 256)) * KiB)
        await asyncio.sleep(self.chance.delay(1.0))
        platter.capacity = capacity

    async def op_readers(self) -> None:
        """Somebody opens views and overlays, and keeps them."""
        if self.service is not None:
            self.read_the_past(self.a, self.service.role.exports_now())

    async def op_moments(self) -> None:
        """Look at the past, and at what is bounded."""
        if self.service is None:
            return
        self.wrong += check_bounded(self.service, "a")
        try:
            newest = self.model.newest
            self.wrong += await self.a.run(
                check_moments(self.service.volume, self.model, self.chance, "a", newest=newest)
            )
            if self.service is not None:
                self.judge_ago(self.service.volume, "a")
            if self.service is not None:
                volume = self.service.volume
                self.wrong += await self.a.run(check_promised(volume, self.model, self.chance, "a"))
        except Ended:
            return

    async def op_scrub(self) -> None:
        """Everything that is kept is read, while clients go on, and beside a point and a fold."""
        beside = [self.op_point() for _ in range(self.chance.randrange(3))]
        await asyncio.gather(self._scrub(), *beside)

    async def _scrub(self) -> None:
        service = self.service
        if service is None:
            return
        check = self.chance.choice((check_scrubbed, check_scrubbed, check_scrub_finds))
        try:
            self.wrong += await self.a.run(check(service.volume, self.chance, "a"))
        except (Ended, RevolumeError, OSError) as error:
            self.tell(f"{error!r}")

    async def _guarded(self, job: Coroutine[Any, Any, object]) -> None:
        """What an operator asks for may be refused, or be interrupted."""
        try:
            await self.a.run(job)
        except (Ended, RevolumeError) as error:
            self.tell(f"{error!r}")

    async def op_snapshot(self) -> None:
        """Name this moment."""
        if self.service is not None:
            self.snapshots += 1
            await self._guarded(self.service.volume.snapshot(f"s{self.snapshots}"))

    async def op_drop(self) -> None:
        """Forget the oldest name."""
        known = [s for s in self.service.volume.snapshots() if not s.holder] if self.service is not None else []
        if self.service is not None and known:
            await self._guarded(self.service.volume.drop_snapshot(self.chance.choice(known).name))

    async def op_keep(self) -> None:
        """Another policy from now on."""
        if self.service is not None:
            policy = self.chance.choice(POLICIES)
            self.asked = replace(self.asked, keep=policy)
            await self._guarded(self._set_policy(self.service, policy))

    async def _set_policy(self, service: PrimaryService, policy: KeepPolicy) -> None:
        await service.volume.retention.set(policy, None)
        still = set(service.volume.policy.writes())
        self.model.folded = {write: lived for write, lived in self.model.folded.items() if write in still}

    async def op_point(self) -> None:
        """A consistency point, and a fold."""
        if self.service is not None:
            await self._guarded(self.service.volume.cut())
            if self.service is not None:
                await self._guarded(self.service.volume.folder.step(True))

    async def op_fold_power(self) -> None:
        """The plug, while a fold goes as far as the newest point, whose record may be in memory alone."""
        if self.service is not None:
            await self._guarded(self.service.volume.cut())
        if self.service is not None:
            self.a.platter.before_change = self._plug(self.chance.randrange(self.chance.choice((30, 80))))
            await self._guarded(self.service.volume.folder.step(True))
        self.a.platter.before_change = lambda number, what: None
        if self.service is not None:
            self._unplug()
        await self._back()

    async def op_greedy(self) -> None:
        """Clients come that do not do their part."""
        await Guests(self, "a", lambda: None if self.service is None else self.service.server).greedy()

    async def op_slow(self) -> None:
        """The disk is slow for a while, or stuck."""
        self.a.faults.slow = self.chance.choice((10.0, 100.0))
        self.a.faults.stuck = self.chance.choice((0.0, 0.02))
        await asyncio.sleep(self.chance.delay(2.0))
        self.a.faults.slow, self.a.faults.stuck = 1.0, 0.0

    async def _failing(self, fault: str) -> None:
        """One kind of error for a while; a volume that is poisoned by it is opened anew."""
        setattr(self.a.faults, fault, self.chance.choice((0.02, 0.3)))
        await asyncio.sleep(self.chance.delay(0.5))
        setattr(self.a.faults, fault, 0.0)
        if self.service is not None and self.service.volume.log.commit.failure is not None:
            await self.chance.choice((self.op_kill, self.op_power, self.op_stop))()

    async def op_sync_error(self) -> None:
        """Syncs fail, and lose what they were to sync."""
        await self._failing("sync_error")

    async def op_read_error(self) -> None:
        """Reads fail."""
        await self._failing("read_error")

    async def op_write_error(self) -> None:
        """Writes fail half-way."""
        await self._failing("write_error")

    async def op_helper(self) -> None:
        """The helper is lost, again and again."""
        await self._failing("helper_lost")

    async def op_clock(self) -> None:
        """Somebody sets the clock."""
        hours = self.chance.choice((-87600.0, -48.0, -1.0, 1.0, 48.0, 87600.0))
        self.a.clock.offset_ns += int(hours * 3600e9)
