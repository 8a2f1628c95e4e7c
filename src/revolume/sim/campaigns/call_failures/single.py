"""A lone volume: made, written to, flushed, trimmed, cut, folded, pinned, looked at in its past, mapped anew,
closed, opened again. When the fault is gone:

- The volume that still runs writes and flushes, or says why not; what it shows it has once been.
- Killed, and after a power cut that left nothing but what was synced: check is content, it opens, nothing that was
  promised is missing (flushed writes, snapshots), retained moments are what they were, it takes writes, stops
  cleanly and is the same when opened again.

One thing may be lost, and is then said: a block of which a part was overwritten while the rest of it could not be
read for as long as a point tries. It is an error, never other bytes, at that moment and later.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import Any

from revolume.blocks.geometry import BLOCK
from revolume.errors import NotFound, RevolumeError
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, WouldBlock
from revolume.node.service_options import ServiceOptions
from revolume.sim.actors.service import PATH, PrimaryService
from revolume.sim.campaigns.call_failures.case import Case, Found
from revolume.sim.campaigns.call_failures.injector import Failing
from revolume.sim.campaigns.call_failures.oracle import Oracle
from revolume.sim.campaigns.call_failures.run import Change, live, ops_of, payload
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.simulated_fs import NOTHING, Platter
from revolume.sim.oracle.model import Model
from revolume.volume.metadata.layout import MIN_SEGMENT_BYTES
from revolume.volume.primary import Volume

BLOCKS = 64
SIZE = BLOCKS * BLOCK
ASKED = ServiceOptions(
    PATH, (), name="vm", size=SIZE, cp_interval_s=3600.0, keep_s=0.01, budget_bytes=64 * MIN_SEGMENT_BYTES,
    map_memory_bytes=16 << 20, segment_bytes=MIN_SEGMENT_BYTES, spare_bytes=2 * MIN_SEGMENT_BYTES,
    rung_versions=16,
)  # fmt: skip
PATIENCE_S = 120.0
WORKS, STOPPED, REFUSES = "works on", "had stopped", "has to be opened anew"


class Alone:
    """One case, played to its end. ``floor``: the last write that was said to be durable."""

    def __init__(self, case: Case | None) -> None:
        self.found = Found(case)
        self.oracle = Oracle(Model(SIZE), self.found)
        self.floor = 0
        self.snapshots: set[str] = set()
        self._service: PrimaryService | None = None
        self._failing: Failing

    def play(self) -> Found:
        """Play the history once, with the failure that the case asks for, and judge what is left."""
        platter = live({"a": Platter(64 << 20)}, self._history, self.found)["a"]
        killed, cut = platter.copy(), platter.after(NOTHING)
        for where, left in (("killed", killed), ("power cut", cut)):
            self._where = where
            live({"a": left}, self._afterwards, self.found, where)
        return self.found

    # With the fault

    async def _history(self, machines: dict[str, Machine]) -> None:
        machine = machines["a"]
        failing = self._failing = Failing(machine, self.found)
        self.oracle.paused = failing.paused
        failing.boot()
        lived = (self._open, self._first, self._more, self._past, self._mapped, self._stop)
        for step in (*lived, self._open, self._last):
            await self._step(machine, step)
        failing.over = True
        await self._lifted(machine)

    async def _step(self, machine: Machine, step: Callable[[Machine], Coroutine[Any, Any, None]]) -> None:
        if self._service is None and step not in (self._open,):
            step = self._open if step != self._stop else step
        with self.found.saying(step.__name__.strip("_")):
            async with asyncio.timeout(PATIENCE_S):
                await machine.run(step(machine))

    async def _open(self, machine: Machine) -> None:
        """Found is what it was at one of its numbers, behind everything that was flushed; the oracle's own reading
        never fails."""
        if self._service is not None:
            return
        service = await PrimaryService.open(machine.host, "a", ASKED, self.model, lambda text: None)
        self._service = service
        content = await self.oracle.unwatched(service.volume)
        number = self.oracle.number_of(content)
        if number is None or number < self.floor:
            self.found.wrong.append(f"found w{number}, w{self.floor} was flushed")
        if number is not None:
            self.model.cut_back(number)

    @property
    def model(self) -> Model:
        """What it must be."""
        return self.oracle.model

    @property
    def _volume(self) -> Volume:
        assert self._service is not None
        return self._service.volume

    async def _first(self, machine: Machine) -> None:
        for number in range(3):
            await self._write((OP_WRITE, number * 9 * BLOCK, payload(number, 3 * BLOCK)))
        await self._write((OP_WRITE, 50 * BLOCK + 100, payload(4, 5000)), (OP_ZERO, 2 * BLOCK + 5, 3000))
        await self._flush()
        await self._cut()
        await self._write((OP_TRIM, 9 * BLOCK, 2 * BLOCK), (OP_WRITE, 40 * BLOCK, payload(5, 4 * BLOCK)))

    async def _more(self, machine: Machine) -> None:
        with self.found.saying("cut"):
            await self._cut()
        with self.found.saying("fold"):
            await asyncio.sleep(0.1)
            await self._volume.folder.step(True)
        for number in range(4):
            await self._write((OP_WRITE, (number * 7 + 3) * BLOCK, payload(10 + number, 3 * BLOCK)))
        await self._flush()

    async def _past(self, machine: Machine) -> None:
        with self.found.saying("snapshot"):
            await self._volume.snapshot("keep")
            self.snapshots.add("keep")
        await self._write((OP_WRITE, 5 * BLOCK + 7, payload(20, 700)))
        await self.oracle.look(self._volume, self.model.newest)

    async def _mapped(self, machine: Machine) -> None:
        with self.found.saying("cut"):
            await self._cut()
        with self.found.saying("rebase"):
            await self._volume.base_maps.renew(force=True)
        await self._write((OP_WRITE, 30 * BLOCK + 7, payload(21, 9000)))
        await self._read()

    async def _stop(self, machine: Machine) -> None:
        service, self._service = self._service, None
        if service is not None:
            newest = self.model.newest
            await service.close()
            if service.volume.log.commit.failure is None:
                self.floor = newest

    async def _last(self, machine: Machine) -> None:
        await self._read()
        await self._write((OP_WRITE, 20 * BLOCK, payload(22, BLOCK)))
        await self._flush()

    # What clients do

    async def _write(self, *changes: Change) -> None:
        ops = ops_of(changes)
        while True:
            try:
                self._volume.append(ops)
                return
            except WouldBlock:
                await self._volume.room(ops)

    async def _flush(self) -> None:
        upto = self._volume.write
        await self._volume.durable(self._volume.position)
        self.floor = max(self.floor, upto)

    async def _cut(self) -> None:
        try:
            await self._volume.cut()
        except NotFound:
            return

    async def _read(self) -> None:
        content = await self.oracle.content(self._volume)
        if self.oracle.number_of(content) is None:
            differs = self.model.differs(self.model.newest, content)
            self.found.wrong.append(f"it shows what it never was: {differs}")

    # The fault is gone

    async def _lifted(self, machine: Machine) -> None:
        """In the process that had it."""
        self.found.after = STOPPED
        if self._service is None:
            return
        said = len(self.found.said)
        await self._step(machine, self._last)
        self.found.after = WORKS if len(self.found.said) == said else REFUSES

    async def _afterwards(self, machines: dict[str, Machine]) -> None:
        machine, where = machines["a"], self._where
        said = self.oracle.checked(machine, where)
        model, floor = self.model, self.floor
        self.oracle.model = copy.deepcopy(model)
        try:
            await self._opened_anew(machine)
            said += self.oracle.checked(machine, f"{where}, opened and closed")
        except (RevolumeError, OSError, AssertionError, TimeoutError) as error:
            said.append(f"{where}: {error!r}")
        self.found.wrong += said
        self.oracle.model, self.floor, self._service = model, floor, None

    async def _opened_anew(self, machine: Machine) -> None:
        machine.boot()
        self._service = None
        await machine.run(self._open(machine))
        kept = {snapshot.name for snapshot in self._volume.manifest.state.snapshots}
        assert kept >= self.snapshots, f"snapshots {kept}, {self.snapshots} were promised"
        for moment in [n for n in sorted(self.model.moments) if self._volume.folder.retired_write <= n]:
            await machine.run(self.oracle.look(self._volume, moment))
        await machine.run(self._last(machine))
        await machine.run(self._stop(machine))
        machine.stopped()
        newest = self.model.newest
        machine.boot()
        await machine.run(self._open(machine))
        assert self._service is not None
        assert self.model.newest == newest, "it is something else when opened again"
        machine.kill()
