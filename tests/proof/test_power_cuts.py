"""Power cuts on real kernels: the store lies on an ext4 or an xfs that is shut down in the middle of the load.

What was flushed or answered with FUA before the cut is there, every sector holds what some write to it said and
none older than the last durable one, what was remembered reads the same, and `check` finds nothing wrong. The same
rounds, with a library in front of libc that makes every sync a lie, must find losses: so they can see.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.proof.conftest import Tallied
from tests.support.geometry import SMALL, geometry
from tests.support.grounds import KINDS, Ground, ground
from tests.support.load import Load, content
from tests.support.moments import Moments
from tests.support.no_sync import no_sync
from tests.support.sectors import SECTOR, Book
from tests.support.servers import Server, revolume, revolume_only
from tests.support.tally import SEED, SOAK, rounds
from tests.support.wire import Wire

pytestmark = [revolume_only, pytest.mark.kernel, pytest.mark.slow]
MiB = 1 << 20
SIZE = 16 * MiB
OURS = SIZE // SECTOR
CUTS = rounds(24, 2)
LIFE = 8
"""Rounds of one volume; the next has another geometry."""


class Cuts:
    """Rounds of load, cut and judgement on one volume."""

    def __init__(self, under: Ground, chance: random.Random, name: str, environment: dict[str, str]) -> None:
        self.ground, self.chance = under, chance
        folder = under.place / name
        folder.mkdir()
        folder.chmod(0o755)
        self.server = Server(folder, SIZE, options=geometry(chance), persistent=True)
        self.environment = environment
        self.book = Book(0, OURS)
        self.moments = Moments(self.server)
        self.flushes = self.answered = 0
        self.server.start()

    def round(self, number: int) -> list[str]:
        """What has been lost."""
        load = Load(self.server.uri(), self.book, number)
        time.sleep(self.chance.uniform(0.05, 0.7))
        if SMALL not in self.server.options:
            self.moments.remember(number)
            with Wire(self.server.uri()) as wire:
                wire.flush()  # what was seen at those moments stays
        time.sleep(self.chance.uniform(0, 0.4))
        load.errors_are_fair()
        self.ground.cut()
        time.sleep(self.chance.choice([0, self.chance.uniform(0, 0.3)]))
        self.server.kill()
        load.end()
        self.flushes += load.flushes
        self.answered += load.answered
        self.ground.restore()
        return self._judge()

    def _judge(self) -> list[str]:
        try:
            revolume("check", self.server.directory)
            self.server.environment = self.environment
            self.server.start()
        except (AssertionError, pytest.fail.Exception) as error:
            return [str(error)]
        problems = self.book.problems_after_power_cut(content(self.server.uri(), self.book))
        return problems + self.moments.changed(self.chance)

    def close(self) -> None:
        if self.server.process is not None:
            self.server.kill()
        print(self.server.said())


@pytest.mark.soak
@pytest.mark.timeout(120 + 20 * CUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_power_cut_takes_nothing_that_was_flushed(folder: Path, tally: Tallied, kind: str) -> None:
    counted = tally(f"real-{kind}", f"Power cuts: the store on {kind}, shut down under load", 60)
    chance = random.Random(f"{SEED}-{kind}")
    number = vanished = 0
    while number < CUTS:
        with ground(kind, folder, name=f"ground{number}") as under:
            cuts = Cuts(under, chance, "s", {})
            try:
                for _ in range(min(LIFE, CUTS - number)):
                    number += 1
                    before = cuts.answered, cuts.flushes, cuts.moments.read
                    problems = cuts.round(number)
                    counted.add(**{f"power_cuts_{kind}": 1})
                    told = "\n".join(problems[:20])
                    assert not problems, f"cut {number}, {cuts.server.options}: {len(problems)} problems\n{told}"
                    counted.add(
                        answered_requests=cuts.answered - before[0],
                        answered_flushes=cuts.flushes - before[1],
                        moments_read_again=cuts.moments.read - before[2],
                    )
                    counted.round(number, CUTS)
                assert cuts.server.stop() == 0
                revolume("check", cuts.server.directory)
            finally:
                cuts.close()
            vanished += cuts.book.vanished
    counted.add(sectors_of_unflushed_writes_taken=vanished)
    counted.round(number, CUTS, "whole")
    assert vanished or not SOAK, "no cut ever took anything: were they cuts?"


@pytest.mark.soak
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", KINDS)
def test_where_syncs_are_lies_a_power_cut_shows_it(folder: Path, tally: Tallied, kind: str) -> None:
    """The judge sees: the same round must find a loss."""
    counted = tally(f"real-no-sync-{kind}", f"Where syncs do nothing, power cuts on {kind} must lose", 70)
    chance = random.Random(f"{SEED}-{kind}")
    with no_sync(folder) as environment, ground(kind, folder) as under:
        cuts = Cuts(under, chance, "s", environment)
        try:
            assert cuts.round(1) == [], "nothing is lost without the library"
            counted.add(**{f"power_cuts_{kind}": 1})
            assert cuts.server.environment == environment
            problems = cuts.round(2)
        finally:
            cuts.close()
    counted.add(losses_seen=bool(problems), problems_told=len(problems))
    counted.round(2, 2, problems[0] if problems else "nothing")
    assert problems, "every sync was a lie, and nothing is missing: this test cannot see"
