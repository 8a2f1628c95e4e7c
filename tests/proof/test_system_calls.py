"""Kills and failures at chosen system calls of a real server.

A kill at the n-th call of a kind falls between two steps that a kill at a random instant seldom parts; small
numbers fall into the opening. A call that fails, once or from then on: the server may refuse, and must where it
cannot promise; it never answers yes to what is not so. Without the fault it opens again, and everything answered
is there.
"""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.proof.conftest import Tallied
from tests.support.geometry import geometry
from tests.support.load import Load, content
from tests.support.moments import control
from tests.support.sectors import SECTOR, Book
from tests.support.servers import Server, revolume, revolume_only
from tests.support.strace import RENAMES, WRITES, attached, injected, need_strace, wrapper
from tests.support.tally import SEED, SOAK, Tally, rounds
from tests.support.wire import Wire, WireError

pytestmark = [revolume_only, pytest.mark.slow, pytest.mark.kernel]
MiB = 1 << 20
SIZE = 16 * MiB
KILLS = rounds(48, 4)
FAILURES = rounds(24, 2)
LIFE = 8
CALLS = (WRITES, "fdatasync", "fsync", RENAMES, "ftruncate", "fallocate", "unlinkat", "sync_file_range")
FAILING = (
    (WRITES, "EIO"), (WRITES, "ENOSPC"), ("fdatasync", "EIO"), ("fsync", "EIO"), (RENAMES, "EIO"),
    ("ftruncate", "EIO"), ("fallocate", "ENOSPC"), ("unlinkat", "EIO"),
)  # fmt: skip
STICKY = (("fdatasync", "EIO"), ("pwritev2", "EIO"), ("pwritev2", "ENOSPC"), ("fsync", "EIO"), (RENAMES, "EIO"),
          ("fallocate", "ENOSPC"))  # fmt: skip


class Rounds:
    """Load on one volume while its system calls go wrong, and what is there afterwards."""

    def __init__(self, folder: Path, chance: random.Random, counted: Tally) -> None:
        folder.mkdir(mode=0o755)
        self.chance, self.counted = chance, counted
        self.server = Server(folder, SIZE, options=geometry(chance), persistent=True)
        self.told = folder / "strace"
        self.book = Book(0, SIZE // SECTOR)
        self.number = 0

    def load(self, *, failing: bool) -> Load:
        self.number += 1
        return Load(self.server.uri(), self.book, self.number, failing=failing)

    def begins(self) -> bool:
        """Whether it came to its ready line with the fault."""
        try:
            self.server.start()
        except pytest.fail.Exception:
            assert self.server.process is not None
            if self.server.process.wait(30) is not None:
                self.server.process = None
            return False
        finally:
            self.server.wrapper = ()
        return True

    def under(self, calls: str, what: str, when: int, seconds: float) -> bool:
        """Load under one fault; whether the server died of it."""
        self.told.unlink(missing_ok=True)
        self.server.wrapper = wrapper(self.told, calls, what, str(when))
        if not self.begins():
            return True
        assert self.server.process is not None
        try:
            load = self.load(failing=True)
        except (OSError, WireError):  # gone again
            load = None
        try:
            self.server.process.wait(seconds)
            died = True
        except subprocess.TimeoutExpired:
            died = False
        self.server.kill()
        if load is not None:
            self._end(load)
        return died

    def _end(self, load: Load) -> None:
        for writer in load.writers:
            writer.enough.set()
            writer.join(60)
            assert not writer.is_alive() and writer.error is None, writer.error
        self.counted.add(answered_requests=load.answered, answered_flushes=load.flushes)

    def judge(self, what: str) -> None:
        """Without the fault."""
        if (self.server.directory / "manifest.a").exists():  # made whole: before that there is no volume
            revolume("check", self.server.directory)
        self.server.start()
        problems = self.book.problems(content(self.server.uri(), self.book))
        told = "\n".join(problems[:20])
        assert not problems, f"{what}, {self.server.options}: {len(problems)} sectors\n{told}"
        self.server.kill()

    def close(self) -> None:
        if self.server.process is not None:
            self.server.kill()
        print(self.server.said())


def short(calls: str) -> str:
    return calls.split(",")[0]


@pytest.mark.soak
@pytest.mark.timeout(120 + 30 * KILLS)
def test_kills_at_chosen_system_calls_lose_nothing(folder: Path, tally: Tallied) -> None:
    need_strace()
    counted = tally("real-kills-calls", "kill -9 at chosen system calls of a primary", 53)
    chance = random.Random(f"{SEED}-kills")
    rounds_ = None
    for number in range(1, KILLS + 1):
        if rounds_ is None or number % LIFE == 0:
            rounds_ = Rounds(folder / f"{number}", chance, counted)
        calls = CALLS[(number - 1) % len(CALLS)]
        nth = int(2 ** chance.uniform(0, 9 if calls == WRITES else 5))
        what = f"kill {number} at {short(calls)} {nth}"
        try:
            died = rounds_.under(calls, "signal=KILL", nth, 2.0)
            counted.add(kills=1, **{"kills_at_a_call" if died else "kills_otherwise": 1})
            rounds_.judge(what)
        finally:
            rounds_.close()
        counted.round(number, KILLS, what)


@pytest.mark.soak
@pytest.mark.timeout(120 + 30 * FAILURES)
def test_the_nth_failure_of_a_system_call_loses_nothing(folder: Path, tally: Tallied) -> None:
    """Once."""
    need_strace()
    counted = tally("real-nth", "The n-th system call of a kind fails, once", 54)
    chance = random.Random(f"{SEED}-nth")
    for number in range(1, FAILURES + 1):
        calls, error = FAILING[(number - 1 + (0 if SOAK else SEED)) % len(FAILING)]
        nth = int(2 ** chance.uniform(0, 8 if calls == WRITES else 4))
        what = f"failure {number}, {error} at {short(calls)} {nth}"
        place = Rounds(folder / f"{number}", chance, counted)
        try:
            place.server.start().stop()
            place.under(calls, f"error={error}", nth, 1.0)
            counted.add(nth_failures=bool(injected(place.told)))
            place.judge(what)
        finally:
            place.close()
        counted.round(number, FAILURES, what)


@pytest.mark.soak
@pytest.mark.timeout(60 + 60 * len(STICKY))
def test_where_a_system_call_fails_from_now_on_nothing_is_promised(folder: Path, tally: Tallied) -> None:
    """What can no longer be written or synced is not acknowledged, and the volume says what it has."""
    need_strace()
    counted = tally("real-failing", "A kind of system call fails from now on", 55)
    chance = random.Random(f"{SEED}-failing")
    cases = STICKY if SOAK else STICKY[:2]
    for number, (calls, error) in enumerate(cases, 1):
        place = Rounds(folder / f"{number}", chance, counted)
        what = f"{error} at every {short(calls)}"
        try:
            place.server.start()
            assert place.server.process is not None
            load = place.load(failing=False)
            time.sleep(0.5)
            load.errors_are_fair()
            with attached(place.server.process.pid, place.told, calls, f"error={error}"):
                time.sleep(1.0)
                if calls in ("fdatasync", "pwritev2"):
                    _not_acknowledged(place.server, what)
                place.server.kill()
            load.end(flushed=False)
            counted.add(answered_requests=load.answered, refused_requests=load.refused)
            counted.add(calls_that_failed=injected(place.told))
            assert injected(place.told) or calls not in ("fdatasync", "pwritev2"), "the fault never happened"
            place.judge(what)
        finally:
            place.close()
        counted.round(number, len(cases), what)


def _not_acknowledged(server: Server, what: str) -> None:
    """Our own write and flush: one of them is refused."""
    with pytest.raises((WireError, ConnectionError)), Wire(server.uri(), timeout=20) as wire:
        wire.pwrite(SIZE - SECTOR, wire.pread(SIZE - SECTOR, SECTOR))
        wire.flush()
        pytest.fail(f"{what}: a flush was acknowledged")
    with control(server) as verbs:
        state = verbs.status()["state"]
    assert state in ("poisoned", "full", "degraded"), (what, state)
