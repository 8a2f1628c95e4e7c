"""kill -9 of the primary, of the mirror, of both, of their helpers, and cuts of the link, at random under load.

Sync: what was answered is at the mirror, whatever happens to the primary, its directory included. Async: what was
answered is at the primary, and what the mirror has is a state that the volume was in. Either way both sides hold
together afterwards, and agree on the next point, root and all.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.proof.conftest import Tallied
from tests.proof.test_kills import helpers
from tests.support.geometry import geometry
from tests.support.load import Load, content, fio_load
from tests.support.pairs import Pair, pair
from tests.support.programs import need
from tests.support.sectors import SECTOR, Book
from tests.support.servers import Server, revolume, revolume_only
from tests.support.tally import SEED, Tally, rounds

pytestmark = revolume_only
MiB = 1 << 20
SIZE = 16 * MiB
OURS = 12 * MiB  # fio has the rest
ROUNDS = rounds(30, 2)
LIFE = 6
"""Rounds of one pair; the next has another geometry, and none has a long log to check."""
BLOWS = ("primary", "mirror", "both", "cable", "cable-and-primary", "helpers")


class Battle:
    """Rounds of load and blows on one pair."""

    def __init__(self, both: Pair, chance: random.Random, counted: Tally) -> None:
        self.pair, self.chance, self.counted = both, chance, counted
        self.book = Book(0, OURS // SECTOR)

    def round(self, number: int, blow: str) -> None:
        uri = self.pair.primary.uri()
        load = Load(uri, self.book, number)
        with fio_load(uri, OURS, SIZE - OURS) if number % 2 else contextlib.nullcontext():
            time.sleep(self.chance.uniform(0.2, 1.5))
            getattr(self, "_" + blow.replace("-", "_"))()
            load.end(flushed=False)
        self.counted.add(answered_requests=load.answered, answered_flushes=load.flushes)

    # -- blows: each leaves both sides running again, or the primary about to be started

    def _kill(self, server: Server) -> None:
        server.kill()
        role = "primaries" if server is self.pair.primary else "mirrors"
        self.counted.add(kills=1, **{f"kills_of_{role}": 1})

    def _primary(self) -> None:
        self._kill(self.pair.primary)

    def _mirror(self) -> None:
        """In sync mode answers stop until it is back."""
        self._kill(self.pair.mirror)
        time.sleep(self.chance.uniform(0, 0.5))
        self.pair.mirror.start()
        time.sleep(self.chance.uniform(0, 0.7))

    def _both(self) -> None:
        for server in self.chance.sample([self.pair.primary, self.pair.mirror], 2):
            self._kill(server)
            time.sleep(self.chance.uniform(0, 0.05))

    def _cable(self) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            self.pair.cable.cut()
            time.sleep(self.chance.uniform(0, 0.4))
            self.pair.cable.mend()
            time.sleep(self.chance.uniform(0, 0.4))
            self.counted.add(cuts_of_the_link=1)

    def _cable_and_primary(self) -> None:
        self.pair.cable.cut()
        time.sleep(self.chance.uniform(0, 0.3))
        self._kill(self.pair.primary)
        self.pair.cable.mend()
        self.counted.add(cuts_of_the_link=1)

    def _helpers(self) -> None:
        """Of both; then the mirror, in the middle of whatever it makes of that."""
        for server in (self.pair.primary, self.pair.mirror):
            for helper in helpers(server):
                helper.kill()
                self.counted.add(kills=1, kills_of_helpers=1)
        time.sleep(self.chance.uniform(0, 0.5))
        self._mirror()

    # -- afterwards

    def recover(self) -> None:
        for server in (self.pair.mirror, self.pair.primary):
            if server.process is None:
                revolume("check", server.directory)
                server.start()

    def judge(self, uri: str, what: str) -> None:
        problems = self.book.problems(content(uri, self.book))
        told = "\n".join(problems[:20])
        assert not problems, f"{what}, {self.pair.options}: {len(problems)} sectors\n{told}"


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(120 + 60 * ROUNDS)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_blows_at_random_lose_nothing_that_was_promised(folder: Path, tally: Tallied, mode: str) -> None:
    need("fio")
    counted = tally(f"real-kills-{mode}", f"kill -9 of a pair, {mode}, and cuts of its link", 51)
    chance = random.Random(f"{SEED}-{mode}")
    number = 0
    while number < ROUNDS:
        place = folder / f"{number}"
        place.mkdir()
        options = geometry(chance, small=None if mode == "sync" else False)  # the log must outlast an absence
        with pair(place, size=SIZE, mode=mode, options=options) as both:
            battle = Battle(both, chance, counted)
            for _ in range(min(LIFE, ROUNDS - number)):
                number += 1
                blow = BLOWS[(number + SEED) % len(BLOWS)]
                battle.round(number, blow)
                battle.recover()
                battle.judge(both.primary.uri(), f"round {number}, {blow}: the primary")
                both.until_equal()
                counted.round(number, ROUNDS, blow)
            assert both.primary.stop() == 0
            assert both.mirror.stop() == 0
            for server in (both.primary, both.mirror):
                revolume("check", server.directory)
        shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_a_sync_mirror_has_every_answered_write_when_the_primary_and_its_disk_are_gone(
    folder: Path, tally: Tallied
) -> None:
    need("fio")
    counted = tally("real-kills-lost", "The primary killed, its disk gone, the sync mirror promoted", 52)
    chance = random.Random(f"{SEED}-lost")
    lives = rounds(6, 1)
    for life in range(1, lives + 1):
        place = folder / f"{life}"
        place.mkdir()
        with pair(place, size=SIZE, options=geometry(chance)) as both:
            battle = Battle(both, chance, counted)
            battle.round(1, "cable")
            battle.recover()
            battle.round(2, "primary")
            both.lose_primary()
            both.promote()
            battle.judge(both.mirror.uri("vol"), "the promoted mirror")
            assert both.mirror.stop() == 0
            revolume("check", both.mirror.directory)
        shutil.rmtree(place)
        counted.add(disks_lost=1)
        counted.round(life, lives)
