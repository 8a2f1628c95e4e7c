"""A bad link between a primary and its mirror under load: cut, half-open, slow, split anywhere, bits turned over.

Nothing that was answered is missing afterwards, at either side; the pair finds together by itself, and is equal. A
damaged byte is never taken for data: it costs a connection. A silent peer is given up, and asked anew.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.proof.conftest import Tallied
from tests.support.geometry import geometry
from tests.support.load import Load, content
from tests.support.pairs import CORRUPT, FAIR, SPLIT, TRICKLE, Pair, Weather, pair
from tests.support.sectors import SECTOR, Book
from tests.support.servers import revolume, revolume_only
from tests.support.tally import SEED, SOAK, Tally, rounds

pytestmark = [revolume_only, pytest.mark.slow]
MiB = 1 << 20
SIZE = 8 * MiB
TROUBLES = ("corrupt", "split", "half-open", "trickle", "cut")
ROUNDS = rounds(20, 3)
LIFE = 5


class Link:
    """Rounds of trouble on one pair's link."""

    def __init__(self, both: Pair, chance: random.Random, counted: Tally) -> None:
        self.pair, self.chance, self.counted = both, chance, counted
        self.book = Book(0, SIZE // SECTOR)

    def round(self, number: int, trouble: str) -> None:
        load = Load(self.pair.primary.uri(), self.book, number)
        time.sleep(self.chance.uniform(0.2, 0.6))
        self.trouble(trouble)
        time.sleep(self.chance.uniform(0.2, 0.5))
        load.end(flushed=False)
        self.counted.add(answered_requests=load.answered, answered_flushes=load.flushes)
        self.judge(self.pair.primary.uri(), f"round {number}, {trouble}")
        self.pair.until_equal()

    def trouble(self, kind: str) -> None:
        getattr(self, "_" + kind.replace("-", "_"))()
        self.counted.add(**{f"troubles_{kind}": 1})

    def _weather(self, weather: Weather) -> None:
        self.pair.cable.weather = weather
        time.sleep(self.chance.uniform(1.0, 2.5))
        self.pair.cable.weather = FAIR

    def _corrupt(self) -> None:
        before = self.pair.cable.flipped
        self._weather(CORRUPT)
        self.counted.add(bits_turned_over=self.pair.cable.flipped - before)

    def _split(self) -> None:
        self._weather(SPLIT)

    def _trickle(self) -> None:
        self._weather(TRICKLE)

    def _half_open(self) -> None:
        """The connection is given up within the limit, and another one serves."""
        ways = self.chance.choice([(True, True), (True, False), (False, True)])
        self.pair.cable.swallow(near=ways[0], far=ways[1])
        time.sleep(self.chance.uniform(0, 1))

    def _cut(self) -> None:
        for _ in range(3):
            self.pair.cable.cut()
            time.sleep(self.chance.uniform(0, 0.3))
            self.pair.cable.mend()
            time.sleep(self.chance.uniform(0.1, 0.4))

    def judge(self, uri: str, what: str) -> None:
        problems = self.book.problems(content(uri, self.book))
        told = "\n".join(problems[:20])
        assert not problems, f"{what}, {self.pair.options}: {len(problems)} sectors\n{told}"

    def the_end(self, number: int) -> None:
        """The primary and its disk are lost in bad weather: what was answered is at the mirror."""
        load = Load(self.pair.primary.uri(), self.book, number)
        self.pair.cable.weather = self.chance.choice([CORRUPT, SPLIT, TRICKLE])
        time.sleep(self.chance.uniform(0.5, 1.0))
        self.pair.lose_primary()
        self.counted.add(kills=1)
        load.end(flushed=False)
        self.pair.promote()
        self.judge(self.pair.mirror.uri("vol"), "the promoted mirror")
        assert self.pair.mirror.stop() == 0
        revolume("check", self.pair.mirror.directory)


@pytest.mark.soak
@pytest.mark.timeout(180 + 60 * ROUNDS)
def test_a_bad_link_breaks_no_promise(folder: Path, tally: Tallied) -> None:
    counted = tally("real-links", "Bad links between a primary and its sync mirror", 56)
    chance = random.Random(f"{SEED}-links")
    number = 0
    while number < ROUNDS:
        place = folder / f"{number}"
        place.mkdir()
        with pair(place, size=SIZE, options=geometry(chance)) as both:
            link = Link(both, chance, counted)
            for _ in range(min(LIFE, ROUNDS - number)):
                trouble = TROUBLES[(number + SEED) % len(TROUBLES)]
                number += 1
                link.round(number, trouble)
                counted.round(number, ROUNDS, trouble)
            link.the_end(number + 1)
        shutil.rmtree(place)
    assert counted.counts.get("bits turned over", 0) or not SOAK, "no bit was ever turned over"
