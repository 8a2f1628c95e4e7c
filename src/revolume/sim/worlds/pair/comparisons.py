"""Blocks of the mirror's copy that become another content with the digest that goes with it, and verifications.

Nothing at the mirror can tell such a block. A verification that has ended well leaves none of them, and calls
nothing a difference when none was planted.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.errors import GaveWay, NotFound, RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.jobs.job import Job, JobState
from revolume.sim.kernel.machine import Ended
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.volume.secondary import Secondary

PATIENCE_S = 60.0


def _mapped(there: Secondary, address: int) -> bool:
    """Whether a sorted map of the copy says already what it holds at this address."""
    rungs = there.manifest.state.rungs
    return there.live.based >= address or any(rung.address >= address for rung in rungs)


class Comparisons:
    """``planted``: blocks that are wrong at the mirror, or were when it lost its power."""

    def __init__(self, pair: PairState, running: Running) -> None:
        self.pair = pair
        self.world = pair.world
        self.chance = pair.world.chance
        self.running = running
        self.planted: set[int] = set()
        pair.wrong_now = lambda machine: machine is pair.second and bool(self.planted)
        pair.wrong_once = lambda machine: machine is pair.second and self.counts["blocks planted"] > 0
        self.counts = {"blocks planted": 0, "verifications": 0, "blocks put right": 0, "lost to clients": 0}

    async def op_diverge(self) -> None:
        """Some blocks of the copy are not what they were, and say that they are."""
        pair, there = self.pair, self.pair.there
        if there is None or there.base is not None or there.failure is not None or not there.points():
            return
        with contextlib.suppress(Ended):
            await pair.second.run(self._plant(there))

    async def _plant(self, there: Secondary) -> None:
        blocks = there.size // BLOCK
        chosen = sorted({self.chance.randrange(blocks) for _ in range(self.chance.choice((1, 2, 6)))})
        contents = [(block, self.chance.randbytes(BLOCK)) for block in chosen]
        async with there.records.turn:
            agreed = there.agreed
            if agreed.number <= there.folder.horizon.point or there.failure is not None:
                return
            if there.dirty.busy.locked() or _mapped(there, agreed.address):
                return  # a map of that point would be left that says what was there before
            self.planted |= set(chosen)
            put, record = await there.point_applier._stored(agreed, contents, agreed.record)
            there.live.relocate(put.blocks, put.locations, put.digests, agreed.address)
            there.records.agreed = moved = replace(agreed, record=record)
            there.retained.points = [moved if p.number == agreed.number else p for p in there.retained.points]
        self.counts["blocks planted"] += len(chosen)

    async def op_verify(self) -> None:
        """By order; what else happens goes on."""
        with contextlib.suppress(Ended):
            await self.verify()

    async def verify(self) -> bool:
        """Whether it has ended well, and was a whole one."""
        pair, before = self.pair, set(self.planted)
        if pair.primary is None or self._running() is not None:
            return False
        orders = {"mirror": pair.second.name, "quick": self.chance.hit(0.5)}
        try:
            job = pair.primary.role.jobs.start("verify", orders)
        except RevolumeError as error:  # it is away, or there is no such mirror now
            self.world.tell(f"{error!r}")
            return False
        await self._ended(job)
        if job.state is not JobState.DONE:
            self.world.tell(f"verify: {job.state}, {job.error}")
            return False
        return await self._judged(job, before)

    async def ended(self) -> None:
        """None is running, for now."""
        if (running := self._running()) is not None:
            await self._ended(running)

    def _running(self) -> Job | None:
        primary = self.pair.primary
        return None if primary is None else primary.role.jobs.running("verify")

    async def _ended(self, job: Job) -> None:
        deadline = self.world.loop.time() + PATIENCE_S
        primary = self.pair.primary
        while not job.state.ended and self.pair.primary is primary and self.world.loop.time() < deadline:
            await asyncio.sleep(0.05)

    async def _judged(self, job: Job, planted: set[int]) -> bool:
        found: dict[str, Any] = job.outcome.result["mirrors"][self.pair.second.name]
        self.counts["verifications"] += 1
        self.counts["blocks put right"] += found["repaired"]
        self.counts["lost to clients"] += found["overwritten"]
        if found["continued"]:
            return False
        wrong = found["different"] + found["were_different"]
        if wrong and not self.planted:
            self.world.say(f"a verification calls {wrong} blocks different, and none was planted")
        if not job.outcome.result["good"]:
            self.world.tell(f"verify: {job.outcome.result['told']}")
            return False
        self.planted -= planted
        if not self.planted:
            await self._equal()
        return True

    async def _equal(self) -> None:
        """The copy is what the volume was at the point where it stands."""
        there = self.pair.there
        if there is None or there.base is not None:
            return
        with contextlib.suppress(Ended, GaveWay, NotFound):
            if wrong := await self.pair.second.run(self._differs(there)):
                self.world.say(f"after a verification the mirror {wrong}")

    async def _differs(self, there: Secondary) -> str:
        write = WriteNumber(there.agreed.write)
        view = await open_view(there, ResolvedMoment(write, 0), "simulation")
        try:
            buffer = bytearray(view.size)
            await view.reader.read(0, memoryview(buffer))
        finally:
            view.close()
        found = self.world.model.differs(write, buffer) if not self.planted else ""
        return f"at w{write}: {found}" if found else ""
