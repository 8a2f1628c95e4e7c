"""A primary and its sync mirror on two machines: how they are started, promoted, stopped and killed.

Whoever waits here waits a bounded (virtual) time. What was answered, and by whom, is kept in ``Promised``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.host import Host
from revolume.node.service_options import ServiceOptions
from revolume.sim.actors.service import PATH, MirrorService, PrimaryService, mirror_at
from revolume.sim.campaigns.call_failures.case import Found
from revolume.sim.campaigns.call_failures.oracle import Oracle
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import NOTHING
from revolume.volume.metadata.layout import MIN_SEGMENT_BYTES
from revolume.volume.metadata.manifest_state import Role
from revolume.volume.open.directory_state import stated
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary

BLOCKS = 64
SIZE = BLOCKS * BLOCK
ASKED = ServiceOptions(
    PATH, (), name="vm", size=SIZE, cp_interval_s=3600.0, keep_s=3600.0, budget_bytes=64 * MIN_SEGMENT_BYTES,
    map_memory_bytes=16 << 20, segment_bytes=MIN_SEGMENT_BYTES, spare_bytes=2 * MIN_SEGMENT_BYTES,
)  # fmt: skip
LOOK_S = 0.1
Boot = Callable[[], Host]
Result = TypeVar("Result")
Mark = tuple[WriteNumber, Position]
"""A write, and its position in the log."""


@dataclass(slots=True)
class Promised:
    """The last write that was answered, and the last that a flush covered: by the primary alone, or ``there`` too,
    because the mirror was required."""

    answered: Mark = (WriteNumber(0), Position(0))
    flushed: Mark = (WriteNumber(0), Position(0))
    answered_there: Mark = (WriteNumber(0), Position(0))
    flushed_there: Mark = (WriteNumber(0), Position(0))


class Pair:
    """A primary on machine a and its mirror on machine b. ``boots``: how a process is started on each of them."""

    def __init__(self, machines: dict[str, Machine], boots: dict[str, Boot], oracle: Oracle, found: Found) -> None:
        self.machines = machines
        self.oracle = oracle
        self.promised = Promised()
        self.primary: PrimaryService | None = None
        self.mirror: MirrorService | None = None
        self.told: list[str] = []
        self.restarts = 0
        self.memory_lost = False
        """The primary has lost its power, and was not opened since: its mirror alone has what was not flushed."""
        self.patience_s = 60.0
        self._boots = boots
        self._found = found

    # Who is there

    @property
    def volume(self) -> Volume:
        """The primary's."""
        assert self.primary is not None
        return self.primary.volume

    @property
    def copy(self) -> Secondary | None:
        """The mirror's; None: it does not run, or has none yet."""
        return self.mirror.secondary if self.mirror is not None else None

    @property
    def there(self) -> Secondary:
        """The mirror's copy. ConnectionError: there is none."""
        if self.copy is None:
            raise ConnectionError("there is no mirror")
        return self.copy

    def _boot(self, name: str) -> Host:
        if self.machines[name].process is not None:
            self.machines[name].kill()
        return self._boots[name]()

    async def up(self) -> None:
        """Both of them."""
        if self.mirror is None:
            await self.start_mirror()
        if self.primary is None:
            await self.start_primary()

    async def start_mirror(self) -> None:
        """As it was left."""
        asked = replace(ASKED, size=None)
        opening = MirrorService.open(self._boot("b"), "b", asked, self.told.append)
        self.mirror = await self.within(self.machines["b"].run(opening))
        held = self.mirror.secondary.received if self.mirror.secondary is not None else 0
        promised = self.promised.answered_there[1]
        if held < promised:
            self.say(f"the mirror's log ends at {held}, position {promised} was answered")

    async def start_primary(self) -> None:
        """As it was left: what it is it must once have been, and not before what was answered."""
        opened = await self._open("a", replace(ASKED, mirrors=(mirror_at("b", True),)))
        await self._look(opened, "a", self.promised.answered[0])

    async def promote(self) -> None:
        """The mirror becomes the primary, in the process that serves it. Its directory may be a primary's already,
        where a promotion before this one failed in its last steps."""
        if self.mirror is not None and (self.mirror.secondary is None or self.failed("b")):
            self.kill("b")
        if self.mirror is None and self._was_promoted():
            opened = await self._open("b", replace(ASKED, size=None))
        else:
            opened = await self._promoted()
        await self._look(opened, "b", self.promised.answered_there[0])

    def _was_promoted(self) -> bool:
        """In a process of its own, in which no call fails."""
        machine = self.machines["b"]
        operator = machine.host_for(Process("b", "operator"), machine.platter)
        return stated(operator.disk, PATH).role == Role.PRIMARY

    async def _promoted(self) -> PrimaryService:
        if self.mirror is None:
            await self.start_mirror()
        mirror = self.mirror
        assert mirror is not None
        await self.within(self._without_source(mirror))
        promoted = await self.within(self.machines["b"].run(mirror.promote(self.oracle.model)))
        self.mirror = None
        return promoted

    async def _without_source(self, mirror: MirrorService) -> None:
        """Until the mirror knows that its source is gone."""
        while mirror.target is not None and mirror.target.current is not None:
            await asyncio.sleep(LOOK_S)

    async def _open(self, name: str, options: ServiceOptions) -> PrimaryService:
        opening = PrimaryService.open(self._boot(name), name, options, self.oracle.model, self.told.append)
        return await self.within(self.machines[name].run(opening))

    async def _look(self, opened: PrimaryService, name: str, promised: int) -> None:
        content = await self.machines[name].run(self.oracle.unwatched(opened.volume))
        self._recovered(content, promised)
        self.primary = opened
        self.memory_lost = False

    def _recovered(self, content: bytearray, promised: int) -> None:
        number = self.oracle.number_of(content)
        if number is None or number < promised:
            self.say(f"found w{number}, w{promised} was answered")
        if number is not None:
            self.oracle.model.cut_back(number)

    def say(self, what: str) -> None:
        """Record a violation: the case fails."""
        self._found.wrong.append(what)

    # Ends

    def kill(self, name: str) -> None:
        """``kill -9``."""
        self._forget(name)
        if self.machines[name].process is not None:
            self.machines[name].kill()

    def cut_power(self, name: str) -> None:
        """And its disk has got nothing but what was synced: what the primary alone had in memory is gone."""
        self._forget(name)
        if name == "a":
            self.memory_lost = True
            self.promised.answered = max(self.promised.flushed, self.promised.answered_there)
        self.machines[name].power_cut(NOTHING)

    def _forget(self, name: str) -> None:
        if name == "a":
            self.primary = None
        else:
            self.mirror = None

    async def stop(self, name: str) -> None:
        """In order."""
        service = self.primary if name == "a" else self.mirror
        self._forget(name)
        if service is None:
            return
        try:
            await self.within(self.machines[name].run(service.close()))
        finally:
            if self.machines[name].process is not None:
                self.machines[name].stopped()

    def failed(self, name: str) -> bool:
        """It says itself that it does not go on."""
        if name == "a":
            return self.primary is not None and self.primary.volume.log.commit.failure is not None
        there = self.copy
        return there is not None and bool(there.failure or there.log.commit.failure)

    async def within(self, job: Coroutine[Any, Any, Result]) -> Result:
        """TimeoutError: it is not done in time."""
        async with asyncio.timeout(self.patience_s):
            return await job
