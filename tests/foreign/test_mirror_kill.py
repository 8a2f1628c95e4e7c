"""kill -9 of the primary, of the mirror, of both, and cuts of the link, at random, under load with flushes.

Sync: what was answered is at the mirror, whatever happens to the primary, its directory included. Async: what was
answered is at the primary, and what the mirror has is a state that the volume was in. Either way both sides hold
together afterwards, and agree on the next point, root and all.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.foreign.test_kill import fio_load
from tests.support.pairs import Pair, pair
from tests.support.programs import need
from tests.support.sectors import SECTOR, Book, Writer
from tests.support.servers import revolume, revolume_only
from tests.support.wire import Wire

pytestmark = revolume_only
MiB = 1 << 20
OURS = 32 * MiB // SECTOR
ROUNDS = 100 if os.environ.get("REVOLUME_SOAK") else 6
SEED = int(os.environ.get("REVOLUME_SEED", "0")) or random.randrange(1 << 20)
BLOWS = ("primary", "mirror", "both", "cable", "cable-and-primary")


class Battle:
    """Rounds of load and blows on one pair."""

    def __init__(self, pair: Pair, chance: random.Random) -> None:
        self.pair, self.chance = pair, chance
        self.book = Book(0, OURS)

    def round(self, number: int, blow: str) -> None:
        uri = self.pair.primary.uri()
        parts = (range(OURS // 2), range(OURS // 2, OURS))
        writers = [Writer(uri, self.book, part, lane, number) for lane, part in enumerate(parts)]
        with fio_load(uri):
            for writer in writers:
                writer.start()
            time.sleep(self.chance.uniform(0.2, 1.5))
            getattr(self, "_" + blow.replace("-", "_"))()
            for writer in writers:
                writer.enough.set()
                writer.join(60)
                assert not writer.is_alive() and writer.error is None, writer.error
        assert all(writer.answered for writer in writers), "the load never got going"

    # -- blows: each leaves both sides running again, or the primary about to be started

    def _primary(self) -> None:
        self.pair.primary.kill()

    def _mirror(self) -> None:
        """In sync mode answers stop until it is back."""
        self.pair.mirror.kill()
        time.sleep(self.chance.uniform(0, 0.5))
        self.pair.mirror.start()
        time.sleep(self.chance.uniform(0, 0.7))

    def _both(self) -> None:
        for server in self.chance.sample([self.pair.primary, self.pair.mirror], 2):
            server.kill()
            time.sleep(self.chance.uniform(0, 0.05))

    def _cable(self) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            self.pair.cable.cut()
            time.sleep(self.chance.uniform(0, 0.4))
            self.pair.cable.mend()
            time.sleep(self.chance.uniform(0, 0.4))

    def _cable_and_primary(self) -> None:
        self.pair.cable.cut()
        time.sleep(self.chance.uniform(0, 0.3))
        self.pair.primary.kill()
        self.pair.cable.mend()

    # -- afterwards

    def recover(self) -> None:
        pair = self.pair
        for server in (pair.mirror, pair.primary):
            if server.process is None:
                revolume("check", server.directory)
                server.start()

    def judge(self, uri: str, what: str) -> None:
        with Wire(uri) as wire:
            problems = self.book.problems(b"".join(wire.pieces(end=OURS * SECTOR)))
        assert not problems, f"{what}: {len(problems)} sectors\n" + "\n".join(problems[:20])


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(120 + 60 * ROUNDS)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_blows_at_random_lose_nothing_that_was_promised(folder: Path, mode: str) -> None:
    print(f"REVOLUME_SEED={SEED}")
    need("fio")
    chance = random.Random(SEED)
    with pair(folder, mode=mode) as both:
        battle = Battle(both, chance)
        for number in range(1, ROUNDS + 1):
            blow = BLOWS[number % len(BLOWS)] if number <= len(BLOWS) else chance.choice(BLOWS)
            battle.round(number, blow)
            battle.recover()
            battle.judge(both.primary.uri(), f"round {number}, {blow}: the primary")
            both.until_equal()
        assert both.primary.stop() == 0
        assert both.mirror.stop() == 0
        for server in (both.primary, both.mirror):
            revolume("check", server.directory)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("round_", range(3))
def test_a_sync_mirror_has_every_answered_write_when_the_primary_and_its_disk_are_gone(
    folder: Path, round_: int
) -> None:
    need("fio")
    chance = random.Random(SEED + round_)
    with pair(folder) as both:
        battle = Battle(both, chance)
        for number in range(1, 3):
            battle.round(number, "primary" if number == 2 else "cable")
            if number == 1:
                battle.recover()
        both.lose_primary()
        both.promote()
        battle.judge(both.mirror.uri("vol"), "the promoted mirror")
        assert both.mirror.stop() == 0
        revolume("check", both.mirror.directory)
