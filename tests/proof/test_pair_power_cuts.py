"""Power cuts of a mirrored pair in sync mode: the primary's store on one file system, the mirror's on another.

An answered flush is on both disks. So it is there after both were cut at once, and at the mirror alone, cut as
well, when the primary and its disk are gone. An answered write is in both logs: a primary that comes back from a
cut gets what its own disk has lost from the mirror.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.proof.conftest import Tallied
from tests.support.geometry import geometry
from tests.support.grounds import Ground, ground
from tests.support.load import Load, content
from tests.support.pairs import Pair, pair
from tests.support.sectors import SECTOR, Book
from tests.support.servers import Server, revolume, revolume_only
from tests.support.tally import SEED, SOAK, Tally, rounds

pytestmark = [revolume_only, pytest.mark.kernel, pytest.mark.slow]
MiB = 1 << 20
SIZE = 16 * MiB
LIVES = rounds(2, 1)


class Cuts:
    """Rounds of load and cuts on one pair, each node on its own ground."""

    def __init__(self, both: Pair, grounds: dict[str, Ground], chance: random.Random, counted: Tally) -> None:
        self.pair, self.grounds, self.chance, self.counted = both, grounds, chance, counted
        self.book = Book(0, SIZE // SECTOR)
        self.number = 0

    @contextmanager
    def _load(self) -> Iterator[Load]:
        self.number += 1
        load = Load(self.pair.primary.uri(), self.book, self.number)
        time.sleep(self.chance.uniform(0.2, 1.2))
        yield load
        load.end()
        self.counted.add(answered_requests=load.answered, answered_flushes=load.flushes)

    def _cut(self, *servers: Server) -> None:
        for server in servers:
            under = self.grounds[server.folder.parent.name]
            under.cut()
            self.counted.add(**{f"power_cuts_{under.kind}": 1})
        time.sleep(self.chance.choice([0, self.chance.uniform(0, 0.3)]))
        for server in servers:
            server.kill()

    def _restore(self, *servers: Server) -> None:
        for server in servers:
            self.grounds[server.folder.parent.name].restore()
            revolume("check", server.directory)
            server.start()

    # -- blows: nothing is left of them in the end

    def primary(self) -> list[str]:
        with self._load() as load:
            load.errors_are_fair()
            self._cut(self.pair.primary)
        self._restore(self.pair.primary)
        return self.book.problems(content(self.pair.primary.uri(), self.book))

    def mirror(self) -> list[str]:
        """Answers stop until it is back."""
        with self._load():
            self._cut(self.pair.mirror)
            self._restore(self.pair.mirror)
        return self.book.problems(content(self.pair.primary.uri(), self.book))

    def both(self) -> list[str]:
        with self._load() as load:
            load.errors_are_fair()
            self._cut(*self.chance.sample([self.pair.primary, self.pair.mirror], 2))
        self._restore(self.pair.mirror, self.pair.primary)
        return self.book.problems_after_power_cut(content(self.pair.primary.uri(), self.book))

    def both_and_the_primary_for_good(self) -> list[str]:
        with self._load() as load:
            load.errors_are_fair()
            self._cut(self.pair.primary, self.pair.mirror)
        self._restore(self.pair.mirror)
        self.pair.promote()
        return self.book.problems_after_power_cut(content(self.pair.mirror.uri("vol"), self.book))


@pytest.mark.soak
@pytest.mark.timeout(240 + 120 * LIVES)
@pytest.mark.parametrize("kinds", [("ext4", "xfs"), ("xfs", "ext4")] if SOAK else [("ext4", "xfs")], ids="-".join)
def test_power_cuts_of_a_pair_take_nothing_that_was_flushed(
    folder: Path, tally: Tallied, kinds: tuple[str, str]
) -> None:
    counted = tally(
        f"real-pair-{kinds[0]}", f"Power cuts of a sync pair: primary on {kinds[0]}, mirror on {kinds[1]}", 61
    )
    chance = random.Random(f"{SEED}-{kinds}")
    for life in range(1, LIVES + 1):
        place = folder / f"{life}"
        place.mkdir()
        with ground(kinds[0], place, name="gp") as p, ground(kinds[1], place, name="gm") as m:
            places = {"p": p.place / "p", "m": m.place / "m"}
            with pair(place, size=SIZE, options=geometry(chance), places=places) as both:
                _one_life(Cuts(both, {"gp": p, "gm": m}, chance, counted))
        counted.round(life, LIVES)


def _one_life(cuts: Cuts) -> None:
    blows = [cuts.both] + ([cuts.primary, cuts.mirror] if SOAK else [])
    cuts.chance.shuffle(blows)
    for blow in [*blows, cuts.both_and_the_primary_for_good]:
        problems = blow()
        told = "\n".join(problems[:20])
        assert not problems, f"{blow.__name__}, {cuts.pair.options}: {len(problems)} problems\n{told}"
        if blow != cuts.both_and_the_primary_for_good:
            cuts.pair.until_equal()
    assert cuts.pair.mirror.stop() == 0
    revolume("check", cuts.pair.mirror.directory)
