"""A few seeds of every world, some power cuts, and some planted bugs: what ``make soak`` does at length."""

from __future__ import annotations

import pytest

from revolume.sim.campaign import CUTS, one
from revolume.sim.part import Part, read
from revolume.sim.planted import PLANTED, caught
from revolume.sim.report import joined
from revolume.sim.worlds import WORLDS

SEEDS = {"primary": 3, "pair": 3, "rot": 6, CUTS: 2}
QUICK = (
    "names-not-synced", "manifest-not-synced", "image-not-synced", "footers-not-synced", "last-segment-forgotten",
    "overwritten-fragments-live", "transfers-again", "epoch-not-compared",
)  # fmt: skip


@pytest.mark.parametrize(("world", "seed"), [(world, seed) for world in SEEDS for seed in range(SEEDS[world])])
def test_a_seed_of_a_world(world: str, seed: int) -> None:
    verdict, _ = one(world, 1000 + seed)
    assert verdict.wrong == [], f"python -m revolume.sim --world {world} --seeds {1000 + seed}"
    assert verdict.answered > 50 if world in WORLDS else len(verdict.cuts) >= 30


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_caught(name: str) -> None:
    plant = next(plant for plant in PLANTED if plant.name == name)
    found = caught(plant)
    assert found is not None and found[0] <= plant.seeds


def test_planted_bugs_are_many_and_leave_the_code_as_it_was() -> None:
    assert len({plant.name for plant in PLANTED}) == len(PLANTED) >= 34
    before = [getattr(owner, name) for plant in PLANTED for owner, name, _ in plant.patches]
    caught(next(plant for plant in PLANTED if plant.name == "names-not-synced"))
    assert before == [getattr(owner, name) for plant in PLANTED for owner, name, _ in plant.patches]


def test_a_report_fails_for_what_failed_what_is_missing_and_what_is_too_little(tmp_path: object) -> None:
    folder = str(tmp_path)
    counts = {
        "seeds": 2000.0, "client operations": 2e6, "faults": 2e4, "distinct crash states": 2e4, "minutes": 20.0,
        "simulated seconds a real one": 11.0,
    }  # fmt: skip
    for name in ("planted", "every-byte", "nth", "campaign"):
        Part(name, name, 10, counts=dict(counts) if name == "campaign" else {}).write(folder)
    text, sound = joined(read(folder))
    assert sound and text.splitlines()[-1] == "VERDICT: PASSED"
    for part in ("campaign", "nth"):
        fewer = [each for each in read(folder) if each.part != part]
        assert joined(fewer)[0].splitlines()[-1] == "VERDICT: FAILED"
    for name in counts:
        if name != "minutes":
            Part("campaign", "campaign", 10, counts={**counts, name: counts[name] * 0.9 - 2}).write(folder)
            assert not joined(read(folder))[1], name
    Part("campaign", "campaign", 10, counts=counts, failures=["seed 3"]).write(folder)
    text, sound = joined(read(folder))
    assert not sound and "- seed 3" in text
