"""Silent divergences of a required mirror, planted at random while nothing there can tell: every one is found and
put right beside clients, who wait for none of it, and only the moments that had them are suspect afterwards.

Kinds: a block of another content; the content of another block (a misdirected write); a block where the volume has
nothing. What is planted in the image was written long ago, or never: all that is retained is suspect from then on.
What is planted in the log was written shortly before, and moments before that stay good.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_claims_b import BLOCK, Compared, Load, equal
from tests.proof.conftest import Tallied
from tests.support.divergence import plant_in_image, plant_in_log
from tests.support.pairs import MiB
from tests.support.programs import need
from tests.support.servers import revolume, revolume_only
from tests.support.tally import SEED, rounds

pytestmark = [revolume_only, pytest.mark.slow]
ROUNDS = rounds(20, 1)
A_ROUND = 50
COLD = 24 * MiB // BLOCK
EMPTY = range(42 * MiB // BLOCK, 48 * MiB // BLOCK)
KINDS = ("other", "misdirected", "stray")
STALL_S = 2.0


class Divergence:
    """Rounds on one pair. ``fresh``: blocks that were in no round yet, each written once, long ago or never."""

    def __init__(self, compared: Compared) -> None:
        self.compared = compared
        self.chance = random.Random(SEED)
        self.fresh = {
            "stray": list(EMPTY),
            "other": list(range(0, COLD, 2)),
            "misdirected": list(range(1, COLD, 2)),
        }
        for blocks in self.fresh.values():
            self.chance.shuffle(blocks)

    def chosen(self, kinds: tuple[str, ...]) -> dict[int, bytes]:
        """Blocks, and what they shall be."""
        picked = self.chance.choices(kinds, k=A_ROUND)
        return {self.fresh[kind].pop(): self._content(kind) for kind in picked}

    def _content(self, kind: str) -> bytes:
        if kind != "misdirected":
            return self.chance.randbytes(BLOCK)
        at = self.chance.randrange(0, COLD, 2) * BLOCK
        return bytes(self.compared.model[at : at + BLOCK])

    def plant_in_image(self) -> None:
        self._plant(plant_in_image, self.chosen(KINDS))

    def plant_in_log(self) -> int:
        """The write of the last point before the blocks were written."""
        planted = self.chosen(KINDS[:2])
        good = self._written(41 * MiB // BLOCK)
        self._written(*planted)
        self._plant(plant_in_log, planted)
        return good

    def _written(self, *blocks: int) -> int:
        """Write these blocks; the write of the point that has them, where the mirror stands too."""
        pair = self.compared.pair
        with self.compared.client() as wire:
            for block in blocks:
                self.compared.put(wire, block * BLOCK, self.chance.randbytes(BLOCK))
        pair.until_equal()
        return int(pair.status(pair.mirror)["write"])

    def _plant(self, planting: Callable[[Path, dict[int, bytes]], None], planted: dict[int, bytes]) -> None:
        pair = self.compared.pair
        pair.until_equal()
        pair.mirror.stop()
        planting(pair.mirror.directory, planted)
        pair.mirror.start()
        pair.wait("the mirror is back", lambda: pair.state()["state"] == "in sync")

    def suspect(self) -> list[tuple[int, bool]]:
        """Of each point of the mirror, its write and whether it is suspect."""
        points = json.loads(revolume("points", self.compared.pair.mirror.directory, "--json"))["points"]
        return [(point["write"], bool(point["suspect"])) for point in points]


@pytest.mark.soak
@pytest.mark.timeout(180 + 60 * ROUNDS)
def test_every_divergence_is_found_and_nobody_waits_for_it(folder: Path, tally: Tallied) -> None:
    need("fio")
    counted = tally("real-divergences", "divergences of a required mirror, compared under load", 58)
    compared = Compared(folder, mode="sync", seed=SEED)
    try:
        compared.start()
        divergence, since = Divergence(compared), 0
        for number in range(1, ROUNDS + 1):
            in_log = number <= (ROUNDS + 1) // 2
            fine = divergence.plant_in_log() if in_log else divergence.plant_in_image()
            with Load(compared, 24 * MiB, 16 * MiB) as load:
                found = compared.verify()
            assert found.status == 5, found.said
            assert (found.mirror["different"], found.mirror["repaired"]) == (A_ROUND, A_ROUND), found.said
            assert found.mirror["roots_equal"] is True and load.write["clat_ns"]["max"] < STALL_S * 1e9
            assert equal(compared)
            points = divergence.suspect()
            told = [suspect for write, suspect in points if write > since]
            good = [suspect for write, suspect in points if since < write <= (fine or 0)]
            bad = told[len(good) :].index(False)  # from the point on at which all was put right
            assert not any(good) and bad > 0 and not any(told[len(good) + bad :]), f"good up to w{fine}: {points}"
            since = points[-1][0]
            counted.add(divergences=A_ROUND, writes_meanwhile=load.write["total_ios"])
            counted.round(number, ROUNDS)
        for server in (compared.pair.primary, compared.pair.mirror):
            assert server.stop() == 0
            revolume("check", server.directory)
    finally:
        compared.close()
