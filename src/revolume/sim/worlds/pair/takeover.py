"""The mirror takes over, and the old primary comes back: as it was, as an old image on another machine, or empty.

The operator is a person who keeps the rules. He promotes a mirror only when the primary is gone or, in ``sync``
mode, cut off from it: then the old one goes on for a while, and a single write that it answers on its own would be
found missing (O6). Then he ends the old one for good; a machine whose disk was wiped begins anew, as an empty
mirror.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from revolume.errors import RevolumeError
from revolume.sim.actors.service import MIRROR_PORT, PATH, MirrorService, PrimaryService, promote_directory
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import Platter, state_of
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.intruders import Intruders
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.manifest_state import Role
from revolume.volume.open.directory_state import stated

PROMOTION_S = 90.0
"""Within this time a mirror is promoted: a link that was cut is given up by then."""


class Takeover:
    """Promotes the mirror with the product's own code, and lets the old primary come back."""

    def __init__(self, pair: PairState, running: Running, crashes: Crashes, intruders: Intruders) -> None:
        self.pair = pair
        self.world = pair.world
        self.loop = pair.world.loop
        self.fabric = pair.world.fabric
        self.chance = pair.world.chance
        self.running = running
        self.crashes = crashes
        self.intruders = intruders
        self._received: tuple[int, int | None] = 0, None
        """The last write that a mirror had when its promotion began, and when it had lost its power last."""

    async def op_promote(self) -> None:
        """The primary's machine is lost, or cut off; its mirror takes over, and it comes back empty."""
        pair = self.pair
        there = pair.there
        if there is None or there.base is not None or pair.is_broken(pair.second):
            return
        if there.bound.why_no_proof:
            return  # it holds less than it had acknowledged
        if pair.primary is None or there.log.commit.durable < pair.primary.opened_at:
            return  # a state from before the last recovery: the register knows no other than what was found then
        if not pair.is_known(there):
            return  # the two logs have parted
        required = pair.required()
        self._names_there(required)
        cut_off = required and self.chance.hit(0.4)
        both = required and not cut_off and self.chance.hit(0.5)  # the mirror too, which then stands for it alone
        self.world.orders.busy()
        if both:
            pair.second.faults.slow = 300.0
            await asyncio.sleep(self.chance.delay(0.4))
            pair.second.faults.quiet()
            self.crashes.lose(pair.first, "lost power")
            self.crashes.lose(pair.second, "lost power")
        elif cut_off:
            self.fabric.cut("a", "b")
            self.fabric.cut("b", "a")
            await asyncio.sleep(self.chance.uniform(0.0, 12.0))
        else:
            self.crashes.lose(pair.first, self.chance.choice(("killed", "lost power")))
        await self.take_over()
        if pair.second.process is not None:  # the old one, cut off until now: it must not have answered
            if self.chance.hit(0.5):
                await self._continued()
            self.crashes.lose(pair.second, "killed")
        pair.old_disk = pair.second.platter.copy()
        await self._old_returns()
        pair.second.wipe()
        pair.second.lost_power_ns = self.loop.now_ns
        await pair.heal()
        pair.forget_holder(pair.second.name)
        await self.running.start_mirror()
        stale = self.chance.hit(0.4)
        if stale:  # while the new mirror's base is under way, and nothing but epochs says whose it is
            self.fabric.path(pair.first.name, pair.second.name).bytes_per_s = 1e5
        await self.running.op_stop()
        if stale and await self.world.patiently("the new mirror begins", self.intruders.mirror_begins, 30):
            await self.intruders.op_stale()

    async def _continued(self) -> None:
        """The old primary is heard again, like one that was paused and goes on; an empty mirror stands where its
        mirror was. What it was asked to write before waits, and must go on waiting."""
        pair = self.pair
        await pair.heal()
        beside = Process(pair.first.name, f"{pair.first.name}.beside")
        host = pair.first.host_for(beside, Platter(pair.first.platter.capacity))
        asked = replace(pair.options[pair.first.name], size=None)
        opening = MirrorService.open(host, pair.first.name, asked, self.world.tell)
        place = f"{pair.first.name}:{MIRROR_PORT}"
        promoted = self.fabric.listeners.pop(place, None)  # the address is the empty one's for a while
        there = self.loop.create_task(opening, context=beside.context.copy())
        await asyncio.sleep(self.chance.uniform(0.5, 8.0))
        beside.die()
        self.fabric.process_ended(beside, silently=False)
        there.cancel()
        if promoted is not None and promoted.process is pair.first.process:
            self.fabric.listeners[place] = promoted

    def _names_there(self, required: bool) -> None:
        """What a mirror that is promoted now must have of the names. Without one on which answers rest that is
        nothing; one that began without the past has what came after."""
        pair = self.pair
        assert pair.primary is not None
        since = next((mirror.state.since for mirror in pair.primary.volume.mirrors), None)
        if not required or since is None:
            pair.names = {}
        elif pair.history == History.NONE:
            pair.names = {name: write for name, write in pair.names.items() if write >= since}

    async def _old_returns(self) -> None:
        """The old primary is started as it is, to be a mirror: it is refused, and keeps what it has."""
        pair = self.pair
        before = state_of(pair.second.platter.copy())
        try:
            name, asked = pair.second.name, pair.options[pair.second.name]
            await pair.second.run(MirrorService.open(pair.second.boot(), name, asked, self.world.tell))
            self.world.say("an old primary is a mirror without a word")
        except RevolumeError as error:
            self.world.tell(f"{error!r}")
        pair.second.stopped()
        if state_of(pair.second.platter.copy()) != before:
            self.world.say("an old primary was changed by its refusal")

    async def take_over(self) -> None:
        """Promote the mirror, whatever fails meanwhile, until it is a primary; its clients are let in then."""
        pair = self.pair
        pair.primary = None
        pair.give_up_mirror()
        self.world.orders.uri = "nbd://none:1/vm"
        await self.world.readers.leave()
        if pair.mirror is not None and self.chance.hit(0.3):
            await self.running.op_stop_mirror(start=False)
        self._states_least()
        self._fail_meanwhile()
        promoted = await self._promoted()
        self._unharmed()
        received, lost_power_ns = self._received
        if pair.second.lost_power_ns == lost_power_ns:
            pair.at_least = max(pair.at_least, received)
        pair.first, pair.second = pair.second, pair.first
        pair.crashes = {pair.first.name: "promoted"}
        # Where clocks were set, a mirror can't know how far its source's had come.
        self.world.knows_ago = self.world.knows_ago and "clock" not in self.world.happened
        if promoted is not None:
            with contextlib.suppress(Ended):
                await self.running.look_and_serve(promoted)
        await self.running.start_primary(mirrored=False)

    async def _promoted(self) -> PrimaryService | None:
        """The mirror's service as a primary; None: its directory became a primary's, and nobody serves it."""
        pair = self.pair
        deadline = self.loop.time() + PROMOTION_S
        while self.loop.time() < deadline:
            try:
                if pair.second.process is None and self._directory_role() == Role.PRIMARY:
                    return None
                if pair.mirror is None and self.chance.hit(0.5):
                    await self._promote_directory()
                    return None
                if pair.mirror is None:
                    await self.running.start_mirror()
                if pair.mirror is not None:
                    return await self._promote_service(pair.mirror)
            except Ended:
                self.world.tell("the mirror's machine failed while it was promoted")
            except (RevolumeError, OSError) as error:
                self.world.tell(f"promotion: {error!r}")
            self._unharmed()
            if pair.mirror is not None and (pair.mirror.secondary is None or pair.is_broken(pair.second)):
                self.crashes.lose(pair.second, "killed")
            await asyncio.sleep(0.5)
        self.world.say("the mirror is not promoted in time" + self.world.state())
        raise Ended(pair.second.name)

    def _directory_role(self) -> Role:
        """Of the mirror's directory, which nobody uses."""
        directory = self.pair.second.host_for(Process(self.pair.second.name, "operator")).disk
        return stated(directory, PATH).role

    async def _promote_service(self, mirror: MirrorService) -> PrimaryService:
        """In the process that serves it."""
        promoted = await self.pair.second.run(mirror.promote(self.world.model))
        self.pair.mirror = None
        return promoted

    async def _promote_directory(self) -> None:
        """In another process, once the one that served it has gone."""
        pair = self.pair
        if pair.second.process is not None:
            pair.second.stopped()
        host = pair.second.boot()
        await pair.second.run(promote_directory(host))
        pair.second.stopped()

    def _states_least(self) -> None:
        """What the mirror has now, whatever was under way: its point and what it has received behind that; or, if
        it has jumped already, that point. Power that is lost may take what is not durable."""
        there = self.pair.there
        if there is None:
            self.pair.at_least, self._received = 0, (0, None)
            return
        jumped, commit = there.manifest.state.jumped, there.log.commit
        agreed = there.agreed.write if there.manifest.state.agreed.position <= commit.durable else 0
        self.pair.at_least = agreed if jumped is None else jumped.target.point.write
        # Of its last write only a part may have come: that is cut off.
        self._received = self.world.model.before(there.end.write), self.pair.second.lost_power_ns

    def _fail_meanwhile(self) -> None:
        """As often as not something fails while the mirror is promoted; nothing that takes away what it holds."""
        pair = self.pair
        draw = self.chance.random()
        if draw < 0.25:
            left = [self.chance.randrange(60)]

            def before(number: int, what: str) -> None:
                left[0] -= 1
                if left[0] < 0:
                    self.crashes.lose(pair.second, "lost power")

            pair.second.platter.before_change = before
        elif draw < 0.45:
            fault = self.chance.choice(("read_error", "write_error", "helper_lost"))
            setattr(pair.second.faults, fault, self.chance.choice((0.02, 0.2)))

    def _unharmed(self) -> None:
        self.pair.second.platter.before_change = lambda number, what: None
        self.pair.second.faults.quiet()
