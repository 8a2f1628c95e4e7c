"""A seed is a run: the same again, whoever plays it, and another one another."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from revolume.sim.worlds import WORLDS
from tests.support.tally import SOAK

SEEDS = 50 if SOAK else 1
PLAY = """
import json, sys
from revolume.sim.worlds import WORLDS
class Short:
    steps, size = 1, 1 << 18
    def start_clients(self, count):
        super().start_clients(1)
        self.orders.enough = 50
found = {}
for name, world in sorted(WORLDS.items()):
    short = type(name, (Short, world), {})
    for seed in range(int(sys.argv[1])):
        if name != "rot":
            verdict = short(seed).live()
            found[f"{name} {seed}"] = [f"{verdict.digest:016x}", verdict.events, verdict.wrong]
print(json.dumps(found))
"""


def played(hash_seed: str) -> dict[str, list[object]]:
    """In a process of its own, in which sets of names and objects have another order."""
    done = subprocess.run(
        [sys.executable, "-c", PLAY, str(SEEDS)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.soak
@pytest.mark.slow
def test_seeds_that_are_played_twice_are_the_same_to_the_event() -> None:
    one, other = played("1"), played("2")
    assert len(one) == (len(WORLDS) - 1) * SEEDS  # rot has no client
    assert {name for name in one if one[name] != other[name]} == set()
    assert len({str(found[0]) for found in one.values()}) == len(one), "every seed is a run of its own"
    assert [name for name, found in one.items() if found[2]] == []
