"""A pair that is looked after: what has failed, and says so, is killed and opened anew, while clients go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from revolume.errors import NotFound
from revolume.log.write.operations import Op, WouldBlock
from revolume.sim.campaigns.call_failures.case import Found
from revolume.sim.campaigns.call_failures.pair import LOOK_S, Mark, Pair
from revolume.sim.campaigns.call_failures.run import Change, ops_of
from revolume.sim.kernel.machine import Ended
from revolume.volume.primary import Volume

AGAIN_S = 1.0
"""Between two attempts to start the mirror."""


async def appended(volume: Volume, ops: list[Op]) -> Mark:
    """As soon as there is room."""
    while True:
        try:
            position = volume.append(ops)
            return volume.write, position
        except WouldBlock:
            await volume.room(ops)


class TendedPair:
    """What clients do with a pair, and what its operator does meanwhile. ConnectionError: the primary has failed;
    TimeoutError: it is not done in time."""

    def __init__(self, pair: Pair, found: Found) -> None:
        self.pair = pair
        self._found = found
        self._again = 0.0

    async def mend(self) -> None:
        """What has failed is opened anew: the mirror as it is seen, the primary by whoever wants it next."""
        for name in ("a", "b"):
            if self.pair.failed(name):
                self.pair.restarts += 1
                self.pair.kill(name)
        now = self.pair.machines["b"].loop.time()
        if self.pair.mirror is None and now >= self._again:
            self._again = now + AGAIN_S
            with self._found.saying("mirror"):
                await self.pair.start_mirror()

    async def tended(self, job: Coroutine[Any, Any, Any]) -> Any:
        """The primary does it, while its mirror is looked after."""
        task = asyncio.ensure_future(self.pair.machines["a"].run(job))
        deadline = self.pair.machines["a"].loop.time() + self.pair.patience_s
        try:
            while not (await asyncio.wait([task], timeout=LOOK_S))[0]:
                if self.pair.machines["a"].loop.time() > deadline:
                    raise TimeoutError
                await self.mend()
            return task.result()
        except Ended:
            raise ConnectionError("the primary was opened anew meanwhile") from None
        finally:
            task.cancel()

    async def until(self, so: Callable[[], bool]) -> None:
        """It is so."""
        deadline = self.pair.machines["a"].loop.time() + self.pair.patience_s
        while not so():
            if self.pair.machines["a"].loop.time() > deadline:
                raise TimeoutError
            await asyncio.sleep(LOOK_S)
            await self.mend()
            if self.pair.primary is None:
                raise ConnectionError("the primary has failed")

    # What clients do

    async def write(self, *changes: Change) -> None:
        """Ask for it; it is answered some time."""
        await self.tended(self._write(ops_of(changes)))

    async def _write(self, ops: list[Op]) -> None:
        volume = self.pair.volume
        mark = await appended(volume, ops)
        volume.on_release(mark[1], lambda: self._answered(volume, mark))

    def _answered(self, volume: Volume, mark: Mark) -> None:
        promised = self.pair.promised
        promised.answered = max(promised.answered, mark)
        if not any(mirror.required for mirror in volume.mirrors):
            return
        promised.answered_there = max(promised.answered_there, mark)
        there = self.pair.copy
        if there is not None and there.received < mark[1]:
            self.pair.say(f"w{mark[0]} was answered, its mirror has not received it")

    async def answered(self) -> None:
        """Everything has been."""
        await self.until(lambda: self.pair.promised.answered[0] >= self.pair.oracle.model.newest)

    async def flush(self) -> None:
        """Everything survives a loss of power, on every disk that it is promised for."""
        volume, mark = self.pair.volume, (self.pair.volume.write, self.pair.volume.position)
        await self.tended(volume.durable(mark[1]))
        self.pair.promised.flushed = max(self.pair.promised.flushed, mark)
        self.pair.promised.answered = max(self.pair.promised.answered, mark)
        if any(mirror.required for mirror in volume.mirrors):
            self.pair.promised.flushed_there = max(self.pair.promised.flushed_there, mark)
            self.pair.promised.answered_there = max(self.pair.promised.answered_there, mark)

    async def cut(self) -> None:
        """A point now, if there is anything to be said."""
        try:
            await self.tended(self.pair.volume.cut())
        except NotFound:
            return

    async def agreed(self) -> None:
        """The mirror has everything, and stands at the newest point."""
        await self.until(self._agrees)

    def _agrees(self) -> bool:
        there = self.pair.copy
        if there is None or there.base is not None or not self.pair.volume.retained.points:
            return False
        if not all(mirror.required for mirror in self.pair.volume.mirrors):
            return False
        newest = self.pair.volume.retained.points[-1].number
        return (there.agreed.number, there.received) == (newest, self.pair.volume.position)
