"""What an operator does who only looks, names what he sees, or sets a clock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from revolume.errors import RevolumeError
from revolume.history.exports import VolumeExports
from revolume.sim.checks.bounded import check_bounded
from revolume.sim.checks.moments import check_moments
from revolume.sim.checks.scrubbed import check_scrub_finds, check_scrubbed
from revolume.sim.kernel.machine import Ended
from revolume.sim.worlds.pair.state import PairState
from revolume.volume.primary import Volume


class Inspections:
    """Looks into the past of either side, takes snapshots and points, sets clocks."""

    def __init__(self, pair: PairState) -> None:
        self.pair = pair
        self.world = pair.world

    async def op_moments(self) -> None:
        """Either side's past."""
        pair, world = self.pair, self.world
        primary = pair.primary
        with contextlib.suppress(Ended):
            if primary is not None:
                world.wrong += check_bounded(primary, pair.first.name)
                name, newest = pair.first.name, world.model.newest
                looking = check_moments(primary.volume, world.model, world.chance, name, 2, newest)
                world.wrong += await pair.first.run(looking)
                if pair.primary is primary:
                    world.judge_ago(primary.volume, name)
        await self.judge_mirror("for once")

    async def judge_mirror(self, when: str) -> None:
        """The mirror stands at a point, whatever is under way, and is there what the volume was, as are its
        snapshots. A copy that is opened again meanwhile is looked at another time."""
        pair, world, there = self.pair, self.world, self.pair.there
        if there is None or there.base is not None or not pair.is_known(there):
            return
        found: list[str] = []
        with contextlib.suppress(Ended):
            try:
                looking = check_moments(there, world.model, world.chance, f"mirror, {when}", 2, there.agreed.write)
                found = await pair.second.run(looking)
            except (RevolumeError, OSError, ValueError):
                if pair.there is there and there.jump is None and there.failure is None:
                    raise
        if pair.there is there and there.manifest.state.jumped is None:
            world.wrong += found

    async def op_scrub(self) -> None:
        """Everything that either side keeps is read, while all goes on."""
        pair, world, there = self.pair, self.world, self.pair.there
        check = world.chance.choice((check_scrubbed, check_scrubbed, check_scrub_finds))
        with contextlib.suppress(Ended, RevolumeError, OSError):
            if there is not None and there.base is None and pair.is_known(there) and world.chance.hit(0.5):
                world.wrong += await pair.second.run(check(there, world.chance, "mirror"))
            elif pair.primary is not None:
                world.wrong += await pair.first.run(check(pair.primary.volume, world.chance, pair.first.name))

    async def op_readers(self) -> None:
        """Views and overlays of either side, kept for a while: a view at the mirror must not stop its primary."""
        there = self.pair.there
        if there is not None and there.base is None and self.world.chance.hit(0.5):
            self.world.read_the_past(self.pair.second, VolumeExports(there, None))
        elif self.pair.primary is not None:
            self.world.read_the_past(self.pair.first, self.pair.primary.role.exports_now())

    async def op_snapshot(self) -> None:
        """Name this moment, here and there."""
        if self.pair.primary is None:
            return
        with contextlib.suppress(Ended, RevolumeError):
            named = await self.pair.first.run(self.pair.primary.volume.snapshot(f"s{self.world.loop.now_ns}"))
            self.pair.names[named.name] = named.write

    async def op_point(self) -> None:
        """A point now."""
        await self._asks(lambda volume: volume.cut())

    async def _asks(self, what: Callable[[Volume], Coroutine[Any, Any, object]]) -> None:
        if self.pair.primary is not None:
            with contextlib.suppress(Ended, RevolumeError):
                await self.pair.first.run(what(self.pair.primary.volume))

    async def op_clock(self) -> None:
        """Somebody sets one of the clocks."""
        hours = self.world.chance.choice((-87600.0, -48.0, -1.0, 1.0, 48.0, 87600.0))
        self.pair.either().clock.offset_ns += int(hours * 3600e9)
