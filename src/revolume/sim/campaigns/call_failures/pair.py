"""A primary and its sync mirror, and who looks after them: what has failed, and says so, is killed and opened
anew.

Whoever waits here waits a bounded (virtual) time. What was answered, and by whom, is kept in ``Promised``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from revolume.cli.serving import Serving
from revolume.errors import NotFound
from revolume.host import Host
from revolume.log.ops import NoRoomNow, Op
from revolume.sim.machine import Ended, Machine
from revolume.sim.model import BLOCK
from revolume.sim.nth.case import Found
from revolume.sim.nth.living import Change, ops_of
from revolume.sim.nth.oracle import Oracle
from revolume.sim.platter import NOTHING
from revolume.sim.service import PATH, MirrorService, PrimaryService, mirror_at
from revolume.volume.layout import MIN_SEGMENT_BYTES
from revolume.volume.secondary import Secondary
from revolume.volume.volume import Volume

BLOCKS = 64
SIZE = BLOCKS * BLOCK
ASKED = Serving(
    PATH, (), name="vm", size=SIZE, cp_interval_s=3600.0, keep_s=3600.0, budget_bytes=64 * MIN_SEGMENT_BYTES,
    map_memory_bytes=16 << 20, segment_bytes=MIN_SEGMENT_BYTES, spare_bytes=2 * MIN_SEGMENT_BYTES,
)  # fmt: skip
LOOK_S = 0.1
AGAIN_S = 1.0
Boot = Callable[[], Host]
Mark = tuple[int, int]
"""A write, and its position in the log."""


@dataclass(slots=True)
class Promised:
    """The last write that was answered, and the last that a flush covered: by the primary alone, or ``there`` too,
    because the mirror was required."""

    answered: Mark = (0, 0)
    flushed: Mark = (0, 0)
    answered_there: Mark = (0, 0)
    flushed_there: Mark = (0, 0)


async def appended(volume: Volume, ops: list[Op]) -> Mark:
    """As soon as there is room."""
    while True:
        try:
            position = volume.append(ops)
            return volume.write, position
        except NoRoomNow:
            await volume.room(ops)


class Pair:
    """See the module's text. ``boots``: how a process is started on each of the machines."""

    def __init__(
        self, machines: dict[str, Machine], boots: dict[str, Boot], oracle: Oracle, found: Found
    ) -> None:
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
        self._again = 0.0

    # Who is there

    @property
    def volume(self) -> Volume:
        """The primary's."""
        assert self.primary is not None
        return self.primary.volume

    @property
    def there(self) -> Secondary:
        """The mirror's copy. ConnectionError: there is none."""
        found = self.mirror.secondary if self.mirror is not None else None
        if found is None:
            raise ConnectionError("there is no mirror")
        return found

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
            self._wrong(f"the mirror's log ends at {held}, position {promised} was answered")

    async def start_primary(self, *, promote: bool = False) -> None:
        """As it was left: what it is it must once have been, and not before what was answered."""
        name, mirrors = ("b", ()) if promote else ("a", (mirror_at("b", True),))
        asked = replace(ASKED, mirrors=mirrors, size=None if promote else ASKED.size)
        opening = PrimaryService.open(
            self._boot(name), name, asked, self.oracle.model, self.told.append, promote=promote
        )
        opened = await self.within(self.machines[name].run(opening))
        content = await self.machines[name].run(self.oracle.unwatched(opened.volume))
        self._recovered(content, self.promised.answered_there[0] if promote else self.promised.answered[0])
        self.primary = opened
        self.memory_lost = False

    def _recovered(self, content: bytearray, promised: int) -> None:
        number = self.oracle.number_of(content)
        if number is None or number < promised:
            self._wrong(f"found w{number}, w{promised} was answered")
        if number is not None:
            self.oracle.model.cut_back(number)

    def _wrong(self, what: str) -> None:
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

    # Looking after them

    def failed(self, name: str) -> bool:
        """It says itself that it does not go on."""
        if name == "a":
            return self.primary is not None and self.primary.volume.core.commit.failure is not None
        there = self.mirror.secondary if self.mirror is not None else None
        return there is not None and bool(there.failure or there.core.commit.failure)

    async def mend(self) -> None:
        """What has failed is opened anew: the mirror as it is seen, the primary by whoever wants it next."""
        for name in ("a", "b"):
            if self.failed(name):
                self.restarts += 1
                self.kill(name)
        now = self.machines["b"].loop.time()
        if self.mirror is None and now >= self._again:
            self._again = now + AGAIN_S
            with self._found.saying("mirror"):
                await self.start_mirror()

    async def within(self, job: Coroutine[Any, Any, Any]) -> Any:
        """TimeoutError: it is not done in time."""
        async with asyncio.timeout(self.patience_s):
            return await job

    async def tended(self, job: Coroutine[Any, Any, Any]) -> Any:
        """The primary does it, while its mirror is looked after."""
        task = asyncio.ensure_future(self.machines["a"].run(job))
        deadline = self.machines["a"].loop.time() + self.patience_s
        try:
            while not (await asyncio.wait([task], timeout=LOOK_S))[0]:
                if self.machines["a"].loop.time() > deadline:
                    raise TimeoutError
                await self.mend()
            return task.result()
        except Ended:
            raise ConnectionError("the primary was opened anew meanwhile") from None
        finally:
            task.cancel()

    async def until(self, so: Callable[[], bool]) -> None:
        """It is so."""
        deadline = self.machines["a"].loop.time() + self.patience_s
        while not so():
            if self.machines["a"].loop.time() > deadline:
                raise TimeoutError
            await asyncio.sleep(LOOK_S)
            await self.mend()
            if self.primary is None:
                raise ConnectionError("the primary has failed")

    # What clients do

    async def write(self, *changes: Change) -> None:
        """Ask for it; it is answered some time."""
        await self.tended(self._write(ops_of(changes)))

    async def _write(self, ops: list[Op]) -> None:
        volume = self.volume
        mark = await appended(volume, ops)
        volume.on_release(mark[1], lambda: self._answered(volume, mark))

    def _answered(self, volume: Volume, mark: Mark) -> None:
        promised = self.promised
        promised.answered = max(promised.answered, mark)
        if not any(mirror.required for mirror in volume.mirrors):
            return
        promised.answered_there = max(promised.answered_there, mark)
        there = self.mirror.secondary if self.mirror is not None else None
        if there is not None and there.received < mark[1]:
            self._wrong(f"w{mark[0]} was answered, its mirror has not received it")

    async def answered(self) -> None:
        """Everything has been."""
        await self.until(lambda: self.promised.answered[0] >= self.oracle.model.newest)

    async def flush(self) -> None:
        """Everything survives a loss of power, on every disk that it is promised for."""
        volume, mark = self.volume, (self.volume.write, self.volume.position)
        await self.tended(volume.durable(mark[1]))
        self.promised.flushed = max(self.promised.flushed, mark)
        self.promised.answered = max(self.promised.answered, mark)
        if any(mirror.required for mirror in volume.mirrors):
            self.promised.flushed_there = max(self.promised.flushed_there, mark)
            self.promised.answered_there = max(self.promised.answered_there, mark)

    async def cut(self) -> None:
        """A point now, if there is anything to be said."""
        try:
            await self.tended(self.volume.cut())
        except NotFound:
            return

    async def agreed(self) -> None:
        """The mirror has everything, and stands at the newest point."""
        await self.until(self._agrees)

    def _agrees(self) -> bool:
        there = self.mirror.secondary if self.mirror is not None else None
        if there is None or there.base is not None or not self.volume.core.points:
            return False
        if not all(mirror.required for mirror in self.volume.mirrors):
            return False
        newest = self.volume.core.points[-1].number
        return (there.agreed.number, there.received) == (newest, self.volume.position)

