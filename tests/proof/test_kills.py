"""kill -9 at random, under load with flushes: nothing answered is missing, nothing remembered changes.

Writers of our own (whose sectors say what they are) share the volume with fio; the server or its helper process
is killed without warning, the store is checked offline, opened again, and read. A kill leaves the page cache
standing, so not only every *flushed* write must be there but every *answered* one.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.proof.conftest import Tallied
from tests.support.geometry import geometry
from tests.support.load import Load, content, fio_load
from tests.support.moments import Moments
from tests.support.programs import need
from tests.support.sectors import SECTOR, Book, make_sectors
from tests.support.servers import KIND, Server, revolume
from tests.support.tally import SEED, Tally, rounds

MiB = 1 << 20
SIZE = 16 * MiB
OURS = 12 * MiB  # fio has the rest
ROUNDS = rounds(80, 4)
LIFE = 8
"""Rounds of one volume: its log stays short, and with it every check; the next one has another geometry."""


def helpers(server: Server) -> list[psutil.Process]:
    """The helper processes that a server has at the moment."""
    assert server.process is not None
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(server.process.pid).children()
    return []


class Battle:
    """Rounds of load and kills on one volume."""

    def __init__(self, folder: Path, chance: random.Random, counted: Tally) -> None:
        self.chance, self.counted = chance, counted
        self.small = chance.random() < 0.5
        options = geometry(chance, small=self.small) if KIND == "revolume" else ()
        self.server = Server(folder, SIZE, options=options, persistent=True)
        self.book = Book(0, OURS // SECTOR)
        self.moments = Moments(self.server)
        self.server.start()

    def round(self, number: int) -> None:
        """Load, blows, and what is there afterwards."""
        load = Load(self.server.uri(), self.book, number)
        fio = fio_load(self.server.uri(), OURS, SIZE - OURS) if number % 2 else contextlib.nullcontext()
        with fio:
            time.sleep(self.chance.uniform(0.1, 1.5))
            if KIND == "revolume":
                self._trouble(number)
            self.server.kill()
            self.counted.add(kills=1, kills_of_primaries=1)
            load.end()
        self.counted.add(answered_requests=load.answered, answered_flushes=load.flushes)
        self._judge(number)

    def _trouble(self, number: int) -> None:
        """Before the server dies: its helper does, or something is remembered, which takes the history along."""
        if self.chance.random() < 0.7:
            for helper in helpers(self.server):
                helper.kill()
                self.counted.add(kills=1, kills_of_helpers=1)
            time.sleep(self.chance.choice([0, self.chance.uniform(0, 0.8)]))
        elif not self.small:
            self.moments.remember(number)
            time.sleep(self.chance.uniform(0, 0.5))

    def _judge(self, number: int) -> None:
        if KIND == "revolume":
            revolume("check", self.server.directory)
        self.server.start()
        problems = self.book.problems(content(self.server.uri(), self.book))
        told = "\n".join(problems[:20])
        assert not problems, f"round {number}, {self.server.options}: {len(problems)} sectors\n{told}"
        before = self.moments.read
        changed = self.moments.changed(self.chance)
        assert not changed, f"round {number}: {changed}"
        self.counted.add(moments_read_again=self.moments.read - before)

    def end(self) -> None:
        """A clean stop keeps it all too."""
        assert self.server.stop() == 0
        if KIND == "revolume":
            revolume("check", self.server.directory)
        self.server.start()
        assert not self.book.problems(content(self.server.uri(), self.book)), "after a clean stop"

    def close(self) -> None:
        if self.server.process is not None:
            self.server.kill()
        print(self.server.said())  # shown with a failing test


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(120 + 30 * ROUNDS)
def test_kill_9_under_load_loses_nothing(folder: Path, tally: Tallied) -> None:
    need("fio")
    counted = tally("real-kills", "kill -9 of a primary and its helper, at random under load", 50)
    chance = random.Random(SEED)
    number = 0
    while number < ROUNDS:
        place = folder / f"{number}"
        place.mkdir(mode=0o755)
        battle = Battle(place, chance, counted)
        try:
            for _ in range(min(LIFE, ROUNDS - number)):
                number += 1
                battle.round(number)
                counted.round(number, ROUNDS)
            battle.end()
        finally:
            battle.close()
        shutil.rmtree(place)


def one(address: int, number: int) -> np.ndarray:  # type: ignore[type-arg]
    return make_sectors(address, np.array([number], np.uint64))[0]


def a_book() -> Book:
    """Of eight sectors: all were written and answered, four of them flushed, and one is being written again."""
    book = Book(100, 8)
    book.answered[:], book.pending[:] = 7, 7
    book.durable[:4], book.durable[4:] = 7, 3
    book.unanswered[5], book.pending[5] = True, 9
    return book


def given(**changes: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """What is found: each as answered, but for these."""
    data = make_sectors(100, np.full(8, 7, np.uint64))
    for place, sector in changes.items():
        data[int(place[1:])] = sector
    return data.tobytes()


def test_the_judge_sees_what_it_must() -> None:
    """Lost, stale, torn and misplaced writes each show; the unanswered one may be there or not."""

    def told(**changes: np.ndarray) -> int:  # type: ignore[type-arg]
        return len(a_book().problems(given(**changes)))

    torn = one(103, 7)
    torn[40:] = 0
    assert told() == 0
    assert told(s5=one(105, 9)) == 0, "the unanswered write arrived"
    assert told(s1=np.zeros(64, np.uint64)) == 1, "lost"
    assert told(s2=one(102, 6)) == 1, "stale"
    assert told(s3=torn) == 1, "torn"
    assert told(s4=one(105, 7)) == 1, "misplaced"


def test_the_judge_of_power_cuts_sees_what_it_must() -> None:
    """What was flushed stays; what was not may go back as far as it was flushed, and no further."""

    def told(**changes: np.ndarray) -> int:  # type: ignore[type-arg]
        return len(a_book().problems_after_power_cut(given(**changes)))

    zero = np.zeros(64, np.uint64)
    torn = one(104, 7)
    torn[40:] = 0
    assert told() == 0
    assert told(s5=one(105, 9)) == 0, "the unanswered write arrived"
    assert told(s4=one(104, 3), s5=one(105, 3)) == 0, "unflushed writes are gone"
    assert told(s4=one(104, 5)) == 0, "a write between the two"
    assert told(s2=one(102, 3)) == 1, "a flushed write is gone"
    assert told(s2=zero, s3=zero) == 2, "lost"
    assert told(s4=one(104, 2)) == 1, "older than what was flushed"
    assert told(s4=one(104, 8)) == 1, "nobody wrote that"
    assert told(s4=zero) == 1, "nobody made zeroes there"
    assert told(s4=torn) == 1, "torn"

    book = a_book()
    book.zeroed[4] = 5
    assert not book.problems_after_power_cut(given(s4=zero)), "somebody did"
    assert len(book.problems_after_power_cut(given())) == 1, "what was read after a cut does not change by itself"
