"""Every power cut of a short history, not a sample of them.

A history is a handful of operations on one volume. Before each change that it makes to its disk the power may go,
and of what is pending then the disk may have any subset: all of them are tried where eight changes or fewer are
pending, else nothing, everything, everything but one, one alone, each one torn, and some drawn. Each state that
this leaves is opened. Found must be what the volume was at one of its write numbers, behind everything that was
flushed; ``check`` must be content before and after; and while it is opened the power may go again (``again``).

States are told apart by hash: the same one is not judged twice.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from revolume.blocks.geometry import BLOCK
from revolume.errors import NotFound, RevolumeError
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.node.service_options import ServiceOptions
from revolume.sim.actors.service import PATH, PrimaryService
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.salvage_result import check_salvaged
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.fabric import Fabric
from revolume.sim.kernel.loop import SimLoop
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.simulated_fs import KEPT, LOST, TORN, Cut, Platter, state_of
from revolume.sim.kernel.trace import Trace
from revolume.sim.kernel.uncollected import uncollected
from revolume.sim.oracle.model import Model

ALL_SUBSETS_UPTO = 8
PER_CHANGE = 12
"""Subsets of what is pending at one change, where not all states are judged."""
BLOCKS = 64
SIZE = BLOCKS * BLOCK
SEGMENT = 64 << 10
ASKED = ServiceOptions(
    PATH, (), name="vm", size=SIZE, cp_interval_s=3600.0, keep_s=0.01, budget_bytes=64 * SEGMENT, rung_versions=16,
    map_memory_bytes=16 << 20, segment_bytes=SEGMENT, spare_bytes=2 * SEGMENT,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Crash:
    """A file system after a power cut, what was flushed before it, and how often the power may go again."""

    platter: Platter
    state: int
    floor: int
    where: str
    again: int


@dataclass(slots=True)
class Tally:
    """What was tried."""

    states: set[int] = field(default_factory=set)
    opened: int = 0
    wrong: list[str] = field(default_factory=list)


def subsets(platter: Platter, chance: Chance, samples: int) -> Iterator[tuple[str, Cut]]:
    """The states, each with a name, in which a power cut may leave the pending changes: all where they are
    few, ``samples`` drawn ones beside the extremes where they are many."""
    pending = platter.pending()
    if pending <= ALL_SUBSETS_UPTO:
        for mask in range(1 << pending):
            yield f"subset {mask:b} of {pending}", Cut(lambda n, mask=mask: mask >> n & 1, chance)  # type: ignore[misc]
    else:
        yield "nothing", Cut(lambda n: LOST, chance)
        yield "everything", Cut(lambda n: KEPT, chance)
        for one in range(pending):
            yield f"all but {one}", Cut(lambda n, one=one: LOST if n == one else KEPT, chance)  # type: ignore[misc]
            yield f"only {one}", Cut(lambda n, one=one: KEPT if n == one else LOST, chance)  # type: ignore[misc]
        for number in range(samples):
            yield f"sample {number}", Cut.drawn(chance)
    for one in range(pending):
        yield f"{one} torn", Cut(lambda n, one=one: TORN if n == one else KEPT, chance)  # type: ignore[misc]


class Cuts:
    """Power cuts of a seed's history. ``every``: only before each so-many-th change; ``again``: how often the
    power may go once more, while it opens; ``most``: states to be judged, drawn from all of them (None: all)."""

    def __init__(
        self, seed: int, *, every: int = 1, samples: int = 8, steps: int = 6, again: int = 0,
        most: int | None = None,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.tally = Tally()
        self._chance = Chance(seed, "cuts")
        self._every, self._samples, self._steps, self._again = every, samples, steps, again
        self._most = most
        self._model = Model(SIZE)
        self._floor = 0
        self._crashes: list[Crash] = []
        self._found: set[int] = set()

    def run(self) -> Tally:
        """Play the history, then judge what every cut leaves."""
        with uncollected():
            self._all()
        return self.tally

    def _all(self) -> None:
        _live(Platter(64 << 20), self.seed, self._history)
        if self._most is not None and len(self._crashes) > self._most:
            self._crashes = self._chance.sample(self._crashes, self._most)
        while self._crashes and len(self.tally.wrong) <= 5 and self.tally.opened != self._most:
            if self.tally.opened % 32 == 31:
                gc.collect()
            crash = self._crashes.pop()
            self.tally.opened += 1
            self.tally.states.add(crash.state)
            _live(crash.platter, self.seed, lambda machine, crash=crash: self._open(machine, crash))

    # The history

    async def _history(self, machine: Machine) -> None:
        service = await self._opened(machine)
        self._model.begin(service.volume.write)
        self._floor = service.volume.write
        machine.platter.before_change = lambda number, what: self._cut_here(machine.platter, number, what)
        for _ in range(self._steps):
            await machine.run(self._step(service))
        await machine.run(service.close())

    async def _step(self, service: PrimaryService) -> None:
        volume, chance = service.volume, self._chance
        what = chance.choice(("write", "write", "write", "flush", "flush", "point", "fold", "snapshot"))
        if what == "write":
            await _append(volume, [self._op() for _ in range(chance.randrange(1, 4))])
        elif what == "flush":
            upto = volume.write
            await volume.durable(volume.position)
            self._floor = max(self._floor, upto)
        elif what == "snapshot":
            await volume.snapshot(f"s{volume.position}")
        else:
            try:
                await volume.cut()
            except NotFound:
                return
            await asyncio.sleep(0.05)
            if what == "fold":
                await volume.folder.step(True)

    def _op(self) -> Op:
        chance = self._chance
        length = chance.choice((512, 2048, BLOCK, 2 * BLOCK, 5 * BLOCK, SEGMENT, 2 * SEGMENT))
        # A segment holds less than its size: the last two go on in the next one.
        offset = chance.randrange((SIZE - length) // 512) * 512
        kind = chance.choice((OP_WRITE, OP_WRITE, OP_WRITE, OP_ZERO, OP_TRIM))
        return (kind, offset, length, memoryview(chance.randbytes(length)) if kind == OP_WRITE else None)

    def _cut_here(self, platter: Platter, number: int, what: str) -> None:
        if number % self._every == self.seed % self._every:
            found = list(subsets(platter, self._chance, self._samples))
            if self._most is not None and len(found) > PER_CHANGE:
                found = self._chance.sample(found, PER_CHANGE)
            for which, cut in found:
                self._keep(platter.after(cut), f"change {number} ({what}), {which}")

    def _keep(self, platter: Platter, where: str) -> None:
        if (state := state_of(platter)) not in self._found:
            self._found.add(state)
            self._crashes.append(Crash(platter, state, self._floor, where, self._again))

    # Judging

    async def _open(self, machine: Machine, crash: Crash) -> None:
        wrong, platter = check_clean(machine, machine.platter, crash.where), machine.platter
        if not crash.state & 6:
            bare = bool(crash.state & 8)
            wrong += check_salvaged(machine, platter, self._model, crash.where, bare=bare, floor=crash.floor)
        if crash.again:
            platter.before_change = lambda number, what: self._cut_again(platter, what, crash)
        try:
            service = await self._opened(machine)
            content = await machine.run(service.content())
            found = self._model.find(content)
            if found is None or found < crash.floor:
                wrong.append(f"{crash.where}: found w{found}, w{crash.floor} was flushed")
            if self._most is None or crash.state & 1:
                await self._close_and_open(machine, service, content, crash, wrong)
        except RevolumeError as error:
            wrong.append(f"{crash.where}: {error}")
        self.tally.wrong += wrong

    async def _close_and_open(
        self, machine: Machine, service: PrimaryService, content: bytearray, crash: Crash, wrong: list[str]
    ) -> None:
        """It stops cleanly, and is then what it was."""
        await machine.run(service.close())
        machine.stopped()
        wrong += check_clean(machine, machine.platter, f"{crash.where}, opened and closed")
        again = await self._opened(machine)
        if await machine.run(again.content()) != content:
            wrong.append(f"{crash.where}: it is something else when opened again")

    def _cut_again(self, platter: Platter, what: str, crash: Crash) -> None:
        """The power goes once more while it is being opened."""
        chance = self._chance
        kept = {"nothing": lambda n: LOST, "all": lambda n: KEPT, "some": Cut.drawn(chance).decide}
        for how, decide in kept.items():
            if not chance.hit(0.3 if self._most is None else 0.02):
                continue
            after = platter.after(Cut(decide, chance))
            if (state := state_of(after)) not in self._found:
                self._found.add(state)
                where = f"{crash.where}; then before a {what}, {how} of what was pending"
                self._crashes.append(Crash(after, state, crash.floor, where, crash.again - 1))

    async def _opened(self, machine: Machine) -> PrimaryService:
        host = machine.boot()
        return await machine.run(PrimaryService.open(host, "a", ASKED, self._model, lambda text: None))


async def _append(volume: Any, ops: list[Op]) -> None:
    while True:
        try:
            volume.append(ops)
            return
        except WouldBlock:
            await volume.room(ops)


def _live(platter: Platter, seed: int, life: Any) -> None:
    """One machine with this disk, for as long as ``life(machine)`` lasts."""
    trace, chance = Trace(), Chance(seed, "machine")
    loop = SimLoop(chance.stream("loop"), trace)
    machine = Machine("a", loop, Fabric(loop, chance.stream("network"), trace), chance, trace, platter.capacity)
    machine.platter = platter
    job: Coroutine[Any, Any, None] = life(machine)
    try:
        loop.run_until_complete(job)
    finally:
        if machine.process is not None:
            machine.process.die()
        loop.end_world()
