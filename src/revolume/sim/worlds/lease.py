"""A pair whose mirror is detached by deadline when it is lost, and promoted whenever nothing refuses that.

The rule: what ``promote`` takes for proved has every answered write (docs/promotion.md). So a promotion that was
not refused is judged as if the mirror held all that was ever answered; and a primary that has answered without its
mirror must have recorded before that it goes on alone, whatever ends it then.

In half of the seeds leases last longer than the deadline, so that answers wait for them too.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractContextManager
from typing import Final

from revolume.api.schemas import MirrorOrder
from revolume.errors import RevolumeError
from revolume.sim.actors.service import PATH
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.monkeypatch import patched
from revolume.sim.kernel.process import Process
from revolume.sim.oracle.sector_history import NEVER
from revolume.sim.worlds.pair import PairWorld
from revolume.sim.worlds.pair.state import PairState
from revolume.sim.worlds.world import Verdict
from revolume.volume.metadata.on_lost import OnLost
from revolume.volume.open.directory_state import stated
from revolume.volume.primary import Volume

DEADLINE_S: Final = 4.0
LONG_LEASE_MS: Final = 12_000
TRIES: Final = 12


class LeasePairState(PairState):
    """Answers rest on the mirror while it is required, and not for good."""

    def __init__(self, world: LeaseWorld) -> None:
        super().__init__(world)
        self.alone_since_ns = -1
        """When the primary, as it is open now, first answered without its mirror; -1: it did not since that was
        required last."""

    def _rests(self, volume: Volume) -> bool:
        self._member = any(mirror.required for mirror in volume.mirrors)
        if self._member:
            self.alone_since_ns = -1
        elif self.alone_since_ns < 0 and any(mirror.detached for mirror in volume.mirrors):
            self.alone_since_ns = self.world.loop.now_ns
        return self._member

    def answers_alone(self, volume: Volume) -> bool:
        """It answers without its mirror, and that is not about to end."""
        return not self._rests(volume) and self.alone_since_ns >= 0 and not volume.lost_mirrors.returning


class LostMirrors:
    """The mirror is lost for a while, and then maybe the primary as well."""

    def __init__(self, world: LeaseWorld) -> None:
        self.world = world
        self.pair: LeasePairState = world.pair
        self.chance = world.chance

    async def op_lost(self) -> None:
        pair, fabric = self.pair, self.world.fabric
        await self._under_detach()
        if not pair.is_member():
            return
        if self.chance.hit(0.7):
            fabric.cut("a", "b")
            fabric.cut("b", "a")
        else:
            self.world.crashes.lose(pair.second, "killed")
        await asyncio.sleep(self.chance.uniform(0.0, 3 * DEADLINE_S))
        if pair.mirror is None:
            await self.world.running.start_mirror()
        if self.chance.hit(0.3):
            await pair.heal()
            await asyncio.sleep(self.chance.uniform(0.0, 2.0))
        if self.chance.hit(0.7) and pair.primary is not None:
            await self._primary_lost()
        await pair.heal()

    async def _under_detach(self) -> None:
        """The policy, and a mirror that has recorded it and is in sync."""
        pair, primary = self.pair, self.pair.primary
        if primary is None:
            return
        order = MirrorOrder(pair.second.name, on_lost="detach", deadline=DEADLINE_S)
        with contextlib.suppress(Ended, RevolumeError):
            await pair.first.run(primary.role.set_mirror(order))
        for _ in range(100):
            if any(m.state.on_lost.told and m.required and m.lease.until_ns for m in primary.volume.mirrors):
                return
            await asyncio.sleep(0.1)

    async def _primary_lost(self) -> None:
        """It ends at any moment; what it recorded is looked at, and its mirror promoted if nothing is lost so."""
        pair = self.pair
        assert pair.primary is not None
        alone = pair.answers_alone(pair.primary.volume)
        self.world.crashes.lose(pair.first, self.chance.choice(("killed", "lost power")))
        if alone and not self._is_detached():
            self.world.say("answers went on without the mirror, which is not detached on the primary's disk")
        for _ in range(TRIES):
            if await self._promoted():
                return
            await asyncio.sleep(0.3)
        await pair.heal()
        await self.world.running.start_primary()

    def _is_detached(self) -> bool:
        pair = self.pair
        disk = pair.first.host_for(Process(pair.first.name, "operator")).disk
        return all(mirror.detached and mirror.on_lost.counts for mirror in stated(disk, PATH).mirrors)

    async def _promoted(self) -> bool:
        pair, world = self.pair, self.world
        if pair.mirror is None or pair.there is None or pair.there.base is not None:
            return False
        try:
            promoted = await pair.second.run(pair.mirror.promote(world.model))
        except Ended:
            return False
        except (RevolumeError, OSError) as error:
            world.tell(f"promotion: {error!r}")
            return False
        pair.mirror = None
        for written in world.register.known():
            if written.end != NEVER:
                written.holders = (*written.holders, pair.second.name)
        world.orders.uri = "nbd://none:1/vm"
        await world.readers.leave()
        pair.first, pair.second = pair.second, pair.first
        pair.crashes = {pair.first.name: "promoted"}
        pair.alone_since_ns = -1
        pair.names = {}
        await world.running.look_and_serve(promoted)
        pair.second.wipe()
        pair.second.lost_power_ns = world.loop.now_ns
        await pair.heal()
        pair.forget_holder(pair.second.name)
        await world.running.start_mirror()
        await world.running.op_stop()
        return True


class LeaseWorld(PairWorld):
    """A mirror is lost again and again, and comes back, or takes over."""

    name = "lease"
    steps = 7
    sync_share = 1.0
    pair: LeasePairState

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        self.lost = LostMirrors(self)
        self.long_leases = self.chance.stream("leases").hit(0.5)

    def pair_state(self) -> LeasePairState:
        return LeasePairState(self)

    def operations(self) -> dict[str, int]:
        return {"lost": 6, "kill_mirror": 1, "stop": 1, "point": 1, "kill": 1, "power": 1}

    def groups(self) -> list[object]:
        return [*super().groups(), self.lost]

    def live(self) -> Verdict:
        with self._leases():
            return super().live()

    def _leases(self) -> AbstractContextManager[None]:
        lasting = property(lambda policy: LONG_LEASE_MS if policy.detaches else 0)
        return patched([(OnLost, "lease_ms", lasting)] if self.long_leases else [])
