"""A mirror that is away for so long that its log is given up, and comes back by a difference.

What becomes of the volume meanwhile, and what fails while the mirror is brought up to date, is drawn: a link that
is cut, slow or half dead, processes killed and power lost at either end, disks that fail or are full, a promotion.
Such a blow falls in the middle of a step of the jump (``oracle/jump_watch.py``), or a little later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from revolume.api.schemas import ResyncOrder
from revolume.blocks.geometry import BLOCK
from revolume.errors import GaveWay, NotFound, RevolumeError
from revolume.host.network import Peer
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.sim.kernel.machine import Ended
from revolume.sim.oracle.jump_watch import STEPS, JumpWatch
from revolume.sim.worlds.pair.blows import Blows
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.inspections import Inspections
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.volume.members.kept_points import lost_name
from revolume.volume.primary import Volume

AWAY_S = 12.0
"""By then a log with little room is full, if clients are busy."""
STEP_S = 20.0
LEVEL_S = 45.0
BUSY = 400
GROWN_BLOCKS = 24
NAMES = tuple(name for name, *_ in STEPS)


class Away:
    """Sends the mirror away, and lets something fail while it comes back."""

    def __init__(
        self, pair: PairState, running: Running, crashes: Crashes, inspections: Inspections, blows: Blows,
        watch: JumpWatch,
    ) -> None:  # fmt: skip
        self.pair = pair
        self.world = pair.world
        self.loop = pair.world.loop
        self.fabric = pair.world.fabric
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes
        self.inspections = inspections
        self.blows = blows
        self.watch = watch
        self._next: tuple[str, str] | None = None
        """The blow that falls next, and at which step; None: any."""

    # Operations

    async def op_away(self) -> None:
        """The mirror is away until its log is given up, or for a while; then it comes back, and as often as not
        something fails meanwhile."""
        if not self._may_leave():
            return
        back = await self._leaves()
        await self._until_given_up()
        if self.chance.hit(0.4):
            await self._until_cut()
        await self.inspections.judge_mirror("away")
        await self.op_lost_point()
        await self._comes_back(back)
        await self.pair.heal()

    async def op_jump_power(self) -> None:
        """As before, and the mirror loses its power once it has flipped, or while the image takes what came."""
        if not self._may_leave():
            return
        back = await self._leaves()
        await self._until_given_up()
        self._next = "power_mirror", self.chance.choice(("flipped", "land", "apply"))
        await self._comes_back(back)
        await self.pair.heal()

    async def op_jump_restart(self) -> None:
        """As before, and the primary is opened anew while the mirror is away: another opening is jumped into."""
        if not self._may_leave():
            return
        back = await self._leaves()
        await self._until_given_up()
        await self._restart()
        self._next = "", "landed"
        await self._comes_back(back)
        await self.pair.heal()

    async def op_noted(self) -> None:
        """As before, and the primary's disk has no room for what is pinned for the mirror: from some moment on it
        is only noted which blocks change, whatever kills the primary meanwhile."""
        if not self._may_leave():
            return
        back = await self._leaves()
        if self.chance.hit(0.8):
            await self._until_given_up()
        await self._only_noted()
        for _ in range(self.chance.randrange(4)):
            self.world.orders.busy()
            await self._changes()
            await asyncio.sleep(self.chance.uniform(0.1, 1.0))
            if self.chance.hit(0.3):
                await self._restart()
        if self.chance.hit(0.5):
            await self._until_given_up()
        await self._comes_back(back)
        await self.pair.heal()

    async def _only_noted(self) -> None:
        primary = self.pair.primary
        if primary is not None:
            with contextlib.suppress(Ended, RevolumeError, OSError):
                await self.pair.first.run(self._unpinned(primary.volume))

    async def _unpinned(self, volume: Volume) -> None:
        kept = volume.mirrors.kept
        while await kept.drop_hold():
            pass
        while moments := await kept.drop_pin():
            volume.holders.end_readers(moments)
        if volume.manifest.state.dirty:
            self.world.happened["only noted"] = self.world.happened.get("only noted", 0) + 1

    async def op_resync(self) -> None:
        """The mirror is away for a moment, so that its log is there, and fewer bytes are preferred by order."""
        pair = self.pair
        if not self._may_leave():
            return
        back = await self._leaves()
        self.world.orders.busy()
        await self._changes()
        await asyncio.sleep(self.chance.choice((0.5, 3.0)))
        await self._comes_back(back, self.chance.choice(("bytes", "bytes", "bytes", "auto", "history")))
        await pair.heal()

    async def op_lost_point(self) -> None:
        """The moment at which the mirror's link was lost, by its name, and the mirror where it was then."""
        pair, world = self.pair, self.world
        primary = pair.primary
        if primary is None or all(m.cut is None for m in primary.volume.mirrors):
            return
        name = f"vm@{lost_name(pair.second.name)}"
        with contextlib.suppress(Ended):
            world.wrong += await pair.first.run(self._lost_point(primary.volume, name))

    async def _lost_point(self, volume: Volume, name: str) -> list[str]:
        pair = self.pair
        assert pair.primary is not None
        cut = next((m.cut for m in volume.mirrors if m.cut is not None), None)
        try:
            export = await pair.primary.role.exports_now().open(name, Peer("unix", "who looks", 0))
        except (NotFound, GaveWay) as error:
            still = cut is not None and any(m.cut == cut for m in volume.mirrors)
            gone = volume.manifest.state.mirrors and not any(m.cut == cut for m in volume.manifest.state.mirrors)
            return [f"{name}: {error}"] if still and not gone else []
        except (RevolumeError, OSError):
            return []
        buffer = bytearray(export.size)
        try:
            if export.read_now([(0, memoryview(buffer))]):
                await export.read(0, memoryview(buffer))
        except (RevolumeError, OSError):
            return []
        finally:
            export.close(True)
        found = self.world.model.differs(cut.write, buffer) if cut is not None else ""
        return [f"{name} as {export.name}, the cut at w{cut.write}: {found}"] if cut and found else []

    # Away

    def _may_leave(self) -> bool:
        there = self.pair.there
        return (
            self.pair.primary is not None and there is not None and there.base is None
            and any(mirror.joined for mirror in self.pair.primary.volume.mirrors)
        )  # fmt: skip

    async def _leaves(self) -> Callable[[], None]:
        """How it is lost; returns what brings it back, but for a process that is to be started."""
        pair, chance = self.pair, self.chance
        how = chance.choice(("cut", "cut", "cut", "one way", "killed", "lost power", "stopped"))
        if how == "cut":
            self.fabric.partition([[pair.first.name], [pair.second.name]])
        elif how == "one way":
            self.fabric.cut(*chance.choice((("a", "b"), ("b", "a"))))
        elif how == "stopped":
            await self.running.op_stop_mirror(start=False)
        else:
            self.crashes.lose(pair.second, how)

        def back() -> None:
            self.fabric.partition([["a", "b", "c"]])

        return back

    def _given_up(self) -> bool:
        primary = self.pair.primary
        return primary is None or all(mirror.log_given_up for mirror in primary.volume.mirrors)

    async def _until_given_up(self) -> None:
        deadline = self.loop.time() + AWAY_S
        while self.loop.time() < deadline and not self._given_up():
            self.world.orders.busy()
            self.world.orders.enough = max(self.world.orders.enough, self.world.orders.counts.answered + BUSY)
            await asyncio.sleep(self.chance.uniform(0.1, 1.0))
            if self.chance.hit(0.35):
                await self._changes()
        if self.chance.hit(0.4):
            await self._changes()

    async def _until_cut(self) -> None:
        """Its source has noticed, and the log has gone on beyond the cut, so that it is pinned alone."""
        deadline = self.loop.time() + 2 * AWAY_S
        while self.loop.time() < deadline and (primary := self.pair.primary) is not None:
            cuts = [mirror.cut.write for mirror in primary.volume.mirrors if mirror.cut is not None]
            if cuts and primary.volume.folder.horizon.write > cuts[0]:
                return
            self.world.orders.enough = max(self.world.orders.enough, self.world.orders.counts.answered + BUSY)
            await asyncio.sleep(0.2)

    async def _changes(self) -> None:
        """Make a change to the volume that is not a client's write."""
        chance, inspections = self.chance, self.inspections
        await chance.choice((
            inspections.op_snapshot, inspections.op_snapshot, self._drop, self._grow, self._zero, self._zero,
            self._beyond, inspections.op_point, inspections.op_readers, self.op_lost_point, self._restart,
        ))()  # fmt: skip

    async def _drop(self) -> None:
        primary = self.pair.primary
        known = [s for s in primary.volume.snapshots() if not s.holder] if primary is not None else []
        if not known or primary is None:
            return
        name = self.chance.choice(known).name
        self.pair.names.pop(name, None)
        with contextlib.suppress(Ended, RevolumeError):
            await self.pair.first.run(primary.volume.drop_snapshot(name))

    async def _grow(self) -> None:
        primary = self.pair.primary
        if primary is not None and not self.pair.required() and primary.volume.size < 2 * self.world.size:
            more = self.chance.randrange(1, GROWN_BLOCKS) * BLOCK
            with contextlib.suppress(Ended, RevolumeError):
                await self.pair.first.run(primary.volume.grow(primary.volume.size + more))

    async def _zero(self) -> None:
        """Zeroes, or a discard, of a range where nobody's sectors are: odd bytes and what the volume grew by."""
        primary = self.pair.primary
        if primary is not None:
            begin = self.world.register.sectors * 512
            kind = self.chance.choice((OP_ZERO, OP_TRIM))
            await self._write((kind, begin, primary.volume.size - begin, None))

    async def _beyond(self) -> None:
        """Blocks where nobody's sectors are."""
        primary = self.pair.primary
        if primary is not None:
            first, end = self.world.register.sectors * 512 // BLOCK, primary.volume.size // BLOCK
            at = self.chance.randrange(first, end)
            data = self.chance.randbytes(BLOCK) * self.chance.randrange(1, min(end - at, 8) + 1)
            await self._write((OP_WRITE, at * BLOCK, len(data), memoryview(data)))

    async def _write(self, op: Op) -> None:
        primary = self.pair.primary

        async def written(volume: Volume) -> None:
            with contextlib.suppress(WouldBlock):
                await volume.room([op])
                volume.append([op])

        if primary is not None and not self.pair.required():
            with contextlib.suppress(Ended, RevolumeError):
                await self.pair.first.run(written(primary.volume))

    async def _restart(self) -> None:
        """Of the primary: what it keeps for the mirror is durable, or found out again."""
        if not self.pair.required():
            await self.chance.choice((self.running.op_stop, self.crashes.op_kill))()

    # Back

    async def _comes_back(self, back: Callable[[], None], prefer: str = "") -> None:
        blow, step, count = self.blows.drawn(), self.chance.choice(NAMES), self.chance.choice((1, 1, 2, 3, 7))
        if self._next is not None:
            (blow, step), self._next, count = self._next, None, 1
        reached: asyncio.Future[None] = self.loop.create_future()

        def told(machine: str) -> None:
            self.blows.arm(blow)
            if not reached.done():
                reached.set_result(None)

        if blow:
            self.watch.when(step, count, told)
        if self.chance.hit(0.3):
            for way in (("a", "b"), ("b", "a")):
                self.fabric.path(*way).bytes_per_s = self.chance.choice((1e5, 1e6))
        back()
        if self.pair.mirror is None:
            await self.running.start_mirror()
        if prefer:
            await self._ordered(prefer)
        if blow:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STEP_S):
                    await reached
            self.watch.nobody_waits()
            if reached.done() and not reached.cancelled():
                self.world.happened[f"{blow} at {step}"] = self.world.happened.get(f"{blow} at {step}", 0) + 1
                await self.blows.fall(blow)
        if blow != "promote":
            await self._until_level()

    async def _ordered(self, prefer: str) -> None:
        pair = self.pair
        order = ResyncOrder((pair.second.name,), prefer)
        for _ in range(self.chance.randrange(1, 3)):
            if pair.primary is not None:
                with contextlib.suppress(Ended, RevolumeError, OSError):
                    await pair.first.run(pair.primary.role.resync(order))
                await asyncio.sleep(self.chance.delay(0.3))

    async def _until_level(self) -> None:
        """It stands at a point of after its return, or something else is amiss, which the end will see to. It is
        looked at once more while it comes up, and when it is there."""
        pair, primary = self.pair, self.pair.primary
        deadline, looked = self.loop.time() + LEVEL_S, False
        write = primary.volume.log.appender.write if primary is not None else 0
        while self.loop.time() < deadline:
            there = pair.there
            if pair.primary is None or there is None or there.failure is not None or pair.is_broken(pair.first):
                return
            if there.jump is not None and not looked:
                looked = True
                await self.inspections.judge_mirror("between two points")
            if there.base is None and there.jump is None and there.agreed.write >= write:
                break
            await asyncio.sleep(0.2)
        await self.inspections.judge_mirror("back")
