"""A pair in sync mode: a volume that has been written to gets a mirror (base and log at once), points, a fold and
a new map on the mirror, a snapshot, a look into the mirror's past; the mirror is stopped, killed, opened again;
the primary loses its power while its mirror has more of the log than its disk. At the end the primary is killed
and the mirror promoted. It is the mirror's disk that fails, or the primary's.

At every moment of that: nothing is answered that the mirror has not received, as soon as answers rest on it. What
fails says so, or goes on; nothing waits longer than a minute. When the fault is gone:

- What runs goes on; or it has said that it must be opened anew, and then goes on. Blocks that the primary could
  not read for as long as a point asks for may be lost, as in ``single.py``.
- Before the promotion, the primary's disk as a power cut leaves it and the mirror's as ``kill -9`` does, and the
  other way round: check is content with both, both open, every answered write is there, the mirror's log reaches
  as far as was promised of its disk, both come to the same point with equal roots, retained moments are what they
  were, both stop cleanly, and check is content.
- Where a call has failed in the promotion: it is promoted again from what is left, killed or without power, and
  every answered (flushed) write is there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from revolume.blocks.geometry import BLOCK
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.sim.campaigns.call_failures.case import Case, Found
from revolume.sim.campaigns.call_failures.injector import Failing
from revolume.sim.campaigns.call_failures.oracle import Oracle
from revolume.sim.campaigns.call_failures.pair import SIZE, Mark, Pair
from revolume.sim.campaigns.call_failures.reopen import Again, Left
from revolume.sim.campaigns.call_failures.run import live, ops_of, payload
from revolume.sim.campaigns.call_failures.tended_pair import TendedPair, appended
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.model import Model

IMPATIENT_S = 2.0
WORKS, ANEW = "works on", "was opened anew"
Step = Callable[[], Coroutine[Any, Any, None]]


class Mirrored:
    """One case, played to its end. ``failing``: on which of the machines calls are counted, and fail."""

    def __init__(self, case: Case | None, failing: str) -> None:
        self.found = Found(case)
        self._at = failing
        self._pair: Pair
        self._tended: TendedPair
        self._failing: Failing
        self._before: Left | None = None
        self._after: Left | None = None
        self._snapshots: set[str] = set()

    def play(self) -> Found:
        """Play the history once, with the failure that the case asks for, and judge what is left."""
        disks = {name: Platter(64 << 20) for name in ("a", "b")}
        live(disks, self._history, self.found, "it")
        if self._after is not None:
            Again(self.found, self._at, self._after).promoted()
        elif self._before is not None:
            Again(self.found, self._at, self._before).both()
        return self.found

    # With the fault

    async def _history(self, machines: dict[str, Machine]) -> None:
        failing = self._failing = Failing(machines[self._at], self.found)
        oracle = Oracle(Model(SIZE), self.found)
        oracle.paused = failing.paused
        boots = {name: machine.boot for name, machine in machines.items()} | {self._at: failing.boot}
        pair = self._pair = Pair(machines, boots, oracle, self.found)
        self._tended = TendedPair(pair, self.found)
        for step in (
            self._begun, self._joined, self._pointed, self._folded, self._looked, self._mirror_stopped,
            self._mirror_killed, self._power_lost, self._written,
        ):  # fmt: skip
            await self._step(step)
        self._before = Left.by(pair, self._snapshots)
        if failing.met:
            failing.over = True
            self.found.wrong += oracle.checked(machines[self._at], "killed", self._before.killed[self._at])
            await self._lifted()
            self.found.after = WORKS if pair.restarts == 0 else ANEW
        await self._promotion()

    async def _step(self, step: Step) -> None:
        pair, self._failing.during = self._pair, step.__name__
        if self._failing.met and not self._failing.over and not self.found.once:
            pair.patience_s = IMPATIENT_S
        with self.found.saying(step.__name__.strip("_")):
            if step != self._begun:
                await self._tended.mend()
                await pair.up()
            await step()

    async def _begun(self) -> None:
        """A volume with some content, whose mirror is not there yet."""
        pair = self._pair
        await pair.start_primary()
        for number in range(3):
            await self._tended.write((OP_WRITE, number * 9 * BLOCK, payload(number, 3 * BLOCK)))
        await self._tended.write((OP_WRITE, 50 * BLOCK + 100, payload(4, 5000)), (OP_ZERO, 2 * BLOCK + 5, 3000))
        await self._tended.cut()
        await self._tended.write((OP_WRITE, 40 * BLOCK, payload(5, 4 * BLOCK)))
        await self._tended.flush()

    async def _joined(self) -> None:
        """It comes, and there are writes meanwhile."""
        pair = self._pair
        await self._tended.write((OP_WRITE, 8 * BLOCK + 700, payload(6, 2 * BLOCK)))
        await self._tended.until(lambda: all(mirror.joined for mirror in pair.volume.mirrors))
        await self._tended.write((OP_WRITE, 60 * BLOCK, payload(7, BLOCK)))
        await self._tended.answered()
        await self._tended.cut()
        await self._tended.agreed()

    async def _pointed(self) -> None:
        """Points, with blocks of which the log has parts."""
        for number in range(4):
            await self._tended.write((OP_WRITE, (number * 7 + 3) * BLOCK, payload(10 + number, 3 * BLOCK)))
        await self._tended.answered()
        await self._tended.flush()
        await self._tended.cut()
        await self._tended.write((OP_TRIM, 9 * BLOCK, 2 * BLOCK), (OP_WRITE, 3 * BLOCK + 7, payload(14, 900)))
        await self._tended.cut()
        await self._tended.agreed()

    async def _folded(self) -> None:
        """The mirror's image moves on, and its map is made anew; a name is given."""
        pair = self._pair
        await self._tended.flush()
        await pair.within(pair.machines["b"].run(pair.there.folder.step(True)))
        await self._tended.write((OP_WRITE, 30 * BLOCK, payload(15, 6 * BLOCK)))
        await self._tended.tended(pair.volume.snapshot("keep"))
        self._snapshots.add("keep")
        await self._tended.agreed()
        await pair.within(pair.machines["b"].run(pair.there.base_maps.renew(force=True)))

    async def _looked(self) -> None:
        """At what the mirror shows."""
        pair = self._pair
        if pair.there.base is not None:
            raise ConnectionError("its base is under way")
        await pair.within(pair.machines["b"].run(pair.oracle.look(pair.there, pair.there.agreed.write)))

    async def _mirror_stopped(self) -> None:
        """In order; answers wait for it."""
        pair = self._pair
        try:
            await pair.stop("b")
        finally:
            self.found.wrong += pair.oracle.checked(pair.machines["b"], "the mirror, stopped")
        await self._tended.write((OP_WRITE, 5 * BLOCK + 7, payload(20, 700)))
        await pair.start_mirror()
        await self._tended.answered()

    async def _mirror_killed(self) -> None:
        """In the middle."""
        pair = self._pair
        await self._tended.write((OP_WRITE, 12 * BLOCK, payload(21, 5 * BLOCK)))
        pair.kill("b")
        await self._tended.write((OP_WRITE, 14 * BLOCK + 9, payload(22, 5000)))
        await pair.start_mirror()
        await self._tended.flush()

    async def _power_lost(self) -> None:
        """The primary's; what was answered and not flushed the mirror alone has."""
        pair = self._pair
        for number in range(3):  # once more, if the disk was synced just then
            await self._tended.write((OP_WRITE, 33 * BLOCK, payload(30 + number, 2 * BLOCK)))
            await self._tended.answered()
            if pair.volume.log.commit.durable < pair.volume.position:
                break
        pair.cut_power("a")
        await pair.start_primary()

    async def _written(self) -> None:
        """It goes on."""
        pair = self._pair
        await self._tended.write((OP_WRITE, 20 * BLOCK + 5, payload(24, BLOCK)))
        await self._tended.answered()
        await self._tended.flush()
        await self._tended.cut()
        await self._tended.agreed()
        content = await pair.machines["a"].run(pair.oracle.unwatched(pair.volume))
        if pair.oracle.number_of(content) is None:
            self.found.wrong.append("it shows what it never was")

    # The fault is gone

    async def _lifted(self) -> None:
        """In the processes that lived with it; if they say no, once more in new ones."""
        pair, said = self._pair, len(self.found.said)
        pair.patience_s = 60.0
        await self._step(self._written)
        if len(self.found.said) == said:
            return
        pair.restarts += 1
        pair.kill("b")
        pair.kill("a")
        said = len(self.found.said)
        await self._step(self._written)
        self.found.wrong += [f"opened anew, without the fault: {one}" for one in self.found.said[said:]]

    async def _promotion(self) -> None:
        """The primary is gone. A promotion that fails is tried once more."""
        pair, met, self._failing.during = self._pair, self._failing.met, "promotion"
        pair.kill("a")
        for _ in range(2):
            said = len(self.found.said)
            with self.found.saying("promotion"):
                await pair.promote()
                await self._works_alone()
            if len(self.found.said) == said:
                break
        if self._failing.met and not met:
            self.found.after = "promoted" if len(self.found.said) == said else "not promoted"
            self._after = Left.by(pair, self._snapshots)
        elif len(self.found.said) > said:
            self.found.wrong.append("it is not promoted")

    async def _works_alone(self) -> None:
        """The promoted one takes writes, and makes them durable."""
        promised, volume = self._pair.promised, self._pair.volume

        async def works() -> Mark:
            mark = await appended(volume, ops_of(((OP_WRITE, 7 * BLOCK, payload(30, BLOCK)),)))
            await volume.durable(mark[1])
            return mark

        mark = await self._pair.within(self._pair.machines["b"].run(works()))
        promised.answered = promised.flushed = promised.answered_there = promised.flushed_there = mark
