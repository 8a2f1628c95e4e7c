"""The n-th call of every kind fails, for n = 1, 2, … until none is left to fail.

    python -m revolume.sim.nth [--every N] [--minutes M] [--kind CALLS] [--folder FOLDER]
    python -m revolume.sim.nth --case write:17:EIO:once

The history is fixed: a volume is made, written to, flushed, trimmed, cut, folded, pinned, looked at in its past,
mapped anew, closed, opened again. Of every kind of call that this makes to the disk one fails, once or from then
on: with EIO, where something is to grow with ENOSPC too, a write also after a part of it has been written, and a
sync that fails has lost what it was to make durable, while memory goes on showing it.

Whatever is called says so with an error of ours, or the kernel's, or takes no notice. Then the fault is gone. What
is asked then:

- The volume that still runs writes and flushes, or says why not; what it shows it has once been.
- Killed, and after a power cut that left nothing but what was synced: check is content, it opens, nothing that was
  promised is missing (flushed writes, snapshots), retained moments are what they were, it takes writes, stops
  cleanly and is the same when opened again.

One thing may be lost, and is then said: a block of which a part was overwritten while the rest of it could not be
read, twice. It is an error, never other bytes, at that moment and later.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import errno
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from revolume.cli.serving import Serving
from revolume.errors import NotFound, RevolumeError
from revolume.history.timeline import Spot
from revolume.history.views import open_view
from revolume.log.ops import OP_TRIM, OP_WRITE, OP_ZERO, NoRoomNow, Op
from revolume.sim.chance import Chance
from revolume.sim.checks.clean import check_clean
from revolume.sim.every_byte import quiet
from revolume.sim.faults import failure
from revolume.sim.judge import Readable
from revolume.sim.loop import SimLoop
from revolume.sim.machine import Machine
from revolume.sim.model import BLOCK, Model, blocks_of
from revolume.sim.network import Fabric
from revolume.sim.part import FOLDER, Part
from revolume.sim.platter import NOTHING, Platter
from revolume.sim.service import PATH, PrimaryService
from revolume.sim.trace import Trace
from revolume.volume.layout import MIN_SEGMENT_BYTES
from revolume.volume.volume import Volume

BLOCKS = 64
SIZE = BLOCKS * BLOCK
ASKED = Serving(
    PATH, (), name="vm", size=SIZE, cp_interval_s=3600.0, keep_s=0.01, budget_bytes=64 * MIN_SEGMENT_BYTES,
    map_memory_bytes=16 << 20, segment_bytes=MIN_SEGMENT_BYTES, spare_bytes=2 * MIN_SEGMENT_BYTES,
)  # fmt: skip
LOST = re.compile(r"block (\d+) could not be read any more when it was made$")
READING = frozenset({"read", "glance"})
GROWING = frozenset({"create", "mkdir", "write", "allocate", "rename", "truncate"})
PATIENCE_S = 120.0
ONCE, ON = "once", "on"
WORKS, STOPPED, REFUSES = "works on", "had stopped", "has to be opened anew"


@dataclass(frozen=True, slots=True)
class Case:
    """The ``number``-th ``call`` fails with ``error`` (``PART``: EIO with a part written), ``how`` often."""

    call: str
    number: int
    error: str
    how: str

    def __str__(self) -> str:
        return f"{self.call}:{self.number}:{self.error}:{self.how}"


@dataclass(slots=True)
class Found:
    """What came of a case. ``sites``: places in the code whose call has failed."""

    case: Case | None
    calls: Counter[str] = field(default_factory=Counter)
    sites: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)
    after: str = ""
    lost: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


class Failing:
    """Counts calls, and lets those of the case fail."""

    def __init__(self, case: Case | None, machine: Machine, found: Found) -> None:
        self._case = case
        self._machine = machine
        self._found = found
        self.over = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For the oracle: nothing is counted, nothing fails."""
        was, self.over = self.over, True
        try:
            yield
        finally:
            self.over = was

    def __call__(self, call: str, name: str, offset: int, length: int) -> None:
        faults = self._machine.faults
        faults.write_error = faults.sync_error = 0.0
        if self.over:
            return
        self._found.calls[call] += 1
        if self._case is None:
            self._found.sites.add(f"{call} {_site()}")
        elif call == self._case.call and self._due(self._found.calls[call]):
            self._found.sites.add(f"{call} {_site()}")
            self._fail(call, name)

    def _due(self, number: int) -> bool:
        assert self._case is not None
        return number == self._case.number or (self._case.how == ON and number > self._case.number)

    def _fail(self, call: str, name: str) -> None:
        assert self._case is not None
        if call == "datasync":
            self._machine.faults.sync_error = 1.0
        elif self._case.error == "PART":
            self._machine.faults.write_error = 1.0
        else:
            raise failure(getattr(errno, self._case.error), name)


def _site() -> str:
    """Who called: the nearest frame that is not the simulator's."""
    frame = sys._getframe(2)
    while "/sim/" in frame.f_code.co_filename:
        assert frame.f_back is not None
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/revolume/')[2]}:{frame.f_lineno}"


class History:
    """One case, played to its end. ``floor``: the last write that was said to be durable."""

    def __init__(self, case: Case | None) -> None:
        self.found = Found(case)
        self.model = Model(SIZE)
        self.floor = 0
        self.snapshots: set[str] = set()
        self._service: PrimaryService | None = None
        self._failing: Failing

    def play(self) -> Found:
        """See the module's text."""
        platter = _live(Platter(64 << 20), self._history)
        killed, cut = platter.copy(), platter.after(NOTHING)
        for where, left in (("killed", killed), ("power cut", cut)):
            self._where = where
            _live(left, self._afterwards)
        return self.found

    # With the fault

    async def _history(self, machine: Machine) -> None:
        host = machine.boot()
        failing = self._failing = Failing(self.found.case, machine, self.found)
        machine.faults.not_in_memory = 0.5
        host.disk.watch = failing  # type: ignore[attr-defined]
        lived = (self._open, self._first, self._more, self._past, self._mapped, self._stop)
        for step in (*lived, self._open, self._last):
            await self._step(machine, step)
        failing.over = True
        await self._lifted(machine)
        self.found.wrong += machine.loop.strays
        machine.loop.strays.clear()

    async def _step(self, machine: Machine, step: Callable[[Machine], Coroutine[Any, Any, None]]) -> None:
        if self._service is None and step not in (self._open,):
            step = self._open if step != self._stop else step
        with self._saying(step.__name__.strip("_")):
            async with asyncio.timeout(PATIENCE_S):
                await machine.run(step(machine))

    @contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        """An error with words is an answer; a wait without an end is none where the fault was there only once."""
        try:
            yield
        except RevolumeError as error:
            self.found.said.append(f"{what}: {error.code}")
        except TimeoutError:
            self.found.said.append(f"{what}: waits")
            if self.found.case is None or self.found.case.how == ONCE:
                self.found.wrong.append(f"{what}: waits for ever")
        except OSError as error:
            self.found.said.append(f"{what}: {error.strerror}")
        except Exception as error:
            self.found.wrong.append(f"{what}: {error!r}")

    async def _open(self, machine: Machine) -> None:
        """Found is what it was at one of its numbers, behind everything that was flushed; the oracle's own reading
        never fails."""
        if self._service is not None:
            return
        service = await PrimaryService.open(machine.host, "a", ASKED, self.model, lambda text: None)
        self._service = service
        with self._failing.paused():
            content = await self._content(service.volume)
        number = self._number_of(content)
        if number is None or number < self.floor:
            self.found.wrong.append(f"found w{number}, w{self.floor} was flushed")
        if number is not None:
            self.model.cut_back(number)

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
        with self._saying("cut"):
            await self._cut()
        with self._saying("fold"):
            await asyncio.sleep(0.1)
            await self._volume.folder.step(True)
        for number in range(4):
            await self._write((OP_WRITE, (number * 7 + 3) * BLOCK, payload(10 + number, 3 * BLOCK)))
        await self._flush()

    async def _past(self, machine: Machine) -> None:
        with self._saying("snapshot"):
            await self._volume.snapshot("keep")
            self.snapshots.add("keep")
        await self._write((OP_WRITE, 5 * BLOCK + 7, payload(20, 700)))
        await self._look(self.model.newest)

    async def _mapped(self, machine: Machine) -> None:
        with self._saying("cut"):
            await self._cut()
        with self._saying("rebase"):
            await self._volume.folder.rebase(force=True)
        await self._write((OP_WRITE, 30 * BLOCK + 7, payload(21, 9000)))
        await self._read()

    async def _stop(self, machine: Machine) -> None:
        service, self._service = self._service, None
        if service is not None:
            newest = self.model.newest
            await service.role.close()
            if service.volume.core.commit.failure is None:
                self.floor = newest

    async def _last(self, machine: Machine) -> None:
        await self._read()
        await self._write((OP_WRITE, 20 * BLOCK, payload(22, BLOCK)))
        await self._flush()

    # What clients do

    async def _write(self, *changes: tuple[int, int, bytes | int]) -> None:
        ops: list[Op] = [
            (kind, at, len(what), memoryview(what)) if isinstance(what, bytes) else (kind, at, what, None)
            for kind, at, what in changes
        ]
        while True:
            try:
                self._volume.append(ops)
                return
            except NoRoomNow:
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
        content = await self._content(self._volume)
        if self._number_of(content) is None:
            differs = self.model.differs(self.model.newest, content)
            self.found.wrong.append(f"it shows what it never was: {differs}")

    async def _content(self, volume: Readable) -> bytearray:
        """All of it. A block that is lost is an error; it is taken for what the model has there, now."""
        content = bytearray(SIZE)
        for block in range(BLOCKS):
            piece = memoryview(content)[block * BLOCK : (block + 1) * BLOCK]
            try:
                await volume.read(block * BLOCK, piece)
            except RevolumeError:
                if block not in self.found.lost:
                    raise
        return content

    def _number_of(self, content: bytearray) -> int | None:
        """The newest number at which it was this, lost blocks excepted."""
        if not self.found.lost:
            return self.model.find(content)
        have = {block: data for block, data in blocks_of(content).items() if block not in self.found.lost}
        for number, blocks in sorted(self.model.moments.items(), reverse=True):
            if have == {block: data for block, data in blocks.items() if block not in self.found.lost}:
                return number
        return None

    async def _look(self, number: int) -> None:
        view = await open_view(self._volume, Spot(number, 0), "nth")
        try:
            content = await self._content(view.reader)
        finally:
            view.close()
        for block in self.found.lost:
            content[block * BLOCK : (block + 1) * BLOCK] = self.model.moments[number].get(block, bytes(BLOCK))
        if differs := self.model.differs(number, content):
            self.found.wrong.append(f"@w{number}: {differs}")

    # The fault is gone

    async def _lifted(self, machine: Machine) -> None:
        """In the process that had it."""
        self.found.after = STOPPED
        if self._service is None:
            return
        said = len(self.found.said)
        await self._step(machine, self._last)
        self.found.after = WORKS if len(self.found.said) == said else REFUSES

    async def _afterwards(self, machine: Machine) -> None:
        where = self._where
        said = self._checked(machine, where)
        model, floor, self.model = self.model, self.floor, copy.deepcopy(self.model)
        try:
            await self._opened_anew(machine)
            said += self._checked(machine, f"{where}, opened and closed")
        except (RevolumeError, OSError, AssertionError, TimeoutError) as error:
            said.append(f"{where}: {error!r}")
        self.found.wrong += said + machine.loop.strays
        self.model, self.floor, self._service = model, floor, None

    def _checked(self, machine: Machine, where: str) -> list[str]:
        """What check has against it, but for blocks that were said to be lost: those are errors from then on."""
        said = check_clean(machine, machine.platter, where)
        lost = {int(found[1]) for one in said if (found := LOST.search(one))}
        case = self.found.case
        if lost and case is not None and case.call in READING and case.how == ON:
            self.found.lost |= lost
            said = [one for one in said if not LOST.search(one)]
        return said

    async def _opened_anew(self, machine: Machine) -> None:
        machine.boot()
        self._service = None
        await machine.run(self._open(machine))
        kept = {snapshot.name for snapshot in self._volume.core.manifest.state.snapshots}
        assert kept >= self.snapshots, f"snapshots {kept}, {self.snapshots} were promised"
        for moment in [n for n in sorted(self.model.moments) if self._volume.folder.retired_write <= n]:
            await machine.run(self._look(moment))
        await machine.run(self._last(machine))
        await machine.run(self._stop(machine))
        machine.stopped()
        newest = self.model.newest
        machine.boot()
        await machine.run(self._open(machine))
        assert self._service is not None
        assert self.model.newest == newest, "it is something else when opened again"
        machine.kill()


def payload(number: int, length: int) -> bytes:
    """Bytes of their own for each number."""
    return Chance(number, "nth").randbytes(length)


def _live(platter: Platter, life: Callable[[Machine], Coroutine[Any, Any, None]]) -> Platter:
    """One machine with this disk, for as long as ``life(machine)`` lasts; then its disk, as it is."""
    trace, chance = Trace(), Chance(1, "nth")
    loop = SimLoop(chance.stream("loop"), trace)
    machine = Machine("a", loop, Fabric(loop, chance.stream("network"), trace), chance, trace, platter.capacity)
    machine.platter = platter
    try:
        loop.run_until_complete(life(machine))
    finally:
        if machine.process is not None:
            machine.process.die()
        loop.end_world()
    return machine.platter


# The campaign


def cases(calls: Counter[str]) -> Iterator[Case]:
    """Every call of a clean run, in every way in which it may fail."""
    for call, count in sorted(calls.items()):
        errors = ["EIO", *(["ENOSPC"] if call in GROWING else []), *(["PART"] if call == "write" else [])]
        for number in range(1, count + 1):
            yield from (Case(call, number, error, how) for error in errors for how in (ONCE, ON))


@dataclass(slots=True)
class Total:
    """What all of them came to."""

    clean: Found
    judged: int = 0
    planned: int = 0
    sites: set[str] = field(default_factory=set)
    after: Counter[tuple[str, str]] = field(default_factory=Counter)
    unheard: int = 0
    lost: int = 0
    failures: list[str] = field(default_factory=list)
    by_call: Counter[str] = field(default_factory=Counter)

    def add(self, found: Found) -> None:
        """One more."""
        assert found.case is not None
        self.judged += 1
        self.by_call[found.case.call] += 1
        self.sites |= found.sites
        self.after[found.case.error, found.after] += 1
        self.unheard += not found.said
        self.lost += bool(found.lost)
        if found.wrong:
            command = f"python -m revolume.sim.nth --case {found.case}"
            self.failures.append(f"{found.case}: {' | '.join(found.wrong[:3])[:500]} ({command})")


def run(every: int, minutes: float | None, only: str | None, say: Callable[[str], None]) -> Total:
    """Each ``every``-th case of each kind of call, as far as the time reaches."""
    clean = History(None).play()
    total = Total(clean)
    if clean.wrong or clean.said:
        total.failures.append(f"without any fault: {clean.said + clean.wrong} (python -m revolume.sim.nth)")
        return total
    chosen = [case for case in cases(clean.calls) if only is None or case.call in only.split(",")][::every]
    total.planned = len(chosen)
    deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    for case in chosen:
        if time.monotonic() > deadline:
            break
        before = len(total.failures)
        total.add(History(case).play())
        if len(total.failures) > before:
            say(f"FAILED {total.failures[-1]}")
    return total


def report(total: Total, seconds: float) -> Part:
    """Its part of the report."""
    part = Part("nth", "The n-th call fails", 40, seconds=seconds)
    part.counts = {
        "nth failures": total.judged, "nth failures there are": total.planned,
        "nth failure call sites": len(total.sites), "call sites of the history": len(total.clean.sites),
        "failures that nobody had to be told of": total.unheard,
        "failures after which a block was said to be lost": total.lost,
    }  # fmt: skip
    part.failures = total.failures
    part.notes.append("Failed, by call: " + ", ".join(f"{call} {n}" for call, n in sorted(total.by_call.items())))
    told = ", ".join(f"{error} {after} {n}" for (error, after), n in sorted(total.after.items()))
    part.notes.append(f"When the fault is gone the volume: {told}.")
    missed = sorted(total.clean.sites - total.sites)
    part.notes.append(f"Call sites that have not failed: {', '.join(missed) if missed else 'none'}.")
    return part


def main() -> int:
    """See the module's text."""
    quiet()
    asked = _arguments().parse_args()
    if asked.case:
        call, number, error, how = asked.case.split(":")
        found = History(Case(call, int(number), error, how)).play()
        print("\n".join([*found.said, f"sites: {sorted(found.sites)}", f"after: {found.after}", *found.wrong]))
        return bool(found.wrong)
    began = time.monotonic()
    total = run(asked.every, asked.minutes, asked.kind, lambda line: print(line, flush=True))
    part = report(total, round(time.monotonic() - began, 1))
    print("\n".join([f"{name}: {count}" for name, count in part.counts.items()] + part.notes))
    part.write(asked.folder)
    return bool(total.failures)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m revolume.sim.nth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--kind", help="calls, with commas between them")
    parser.add_argument("--folder", default=FOLDER)
    parser.add_argument("--case")
    return parser


if __name__ == "__main__":
    sys.exit(main())
