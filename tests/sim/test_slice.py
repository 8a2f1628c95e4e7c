"""A few seeds of every world, some power cuts, and some planted bugs: what ``make soak`` does at length."""

from __future__ import annotations

import pytest

from revolume.sim.campaigns.campaign import CUTS, one
from revolume.sim.campaigns.mutations import PLANTED
from revolume.sim.campaigns.planting import caught
from revolume.sim.campaigns.report import joined
from revolume.sim.campaigns.report_section import ReportSection, read
from revolume.sim.worlds import WORLDS

SEEDS = {
    "primary": 2, "pair": 2, "away": 1, "trio": 1, "cluster": 2, "lease": 1, "rot": 6, "heal": 2, "restore": 2,
    "fetch": 1, CUTS: 2,
}  # fmt: skip
QUICK = (
    "names-not-synced", "manifest-not-synced", "image-not-synced", "footers-not-synced", "last-segment-forgotten",
    "overwritten-fragments-live", "transfers-again", "aged-by-the-wall-clock",
    "base-begins-now", "pin-not-kept", "root-not-compared", "everything-sent", "jump-not-synced",
    "restore-by-log-alone", "fetched-without-a-block",
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
        ReportSection(name, name, 10, counts=dict(counts) if name == "campaign" else {}).write(folder)
    text, sound = joined(read(folder))
    assert sound and text.splitlines()[-1] == "VERDICT: PASSED"
    for part in ("campaign", "nth"):
        fewer = [each for each in read(folder) if each.part != part]
        assert joined(fewer)[0].splitlines()[-1] == "VERDICT: FAILED"
    for name in counts:
        if name != "minutes":
            fewer_of_it = {**counts, name: counts[name] * 0.9 - 2}
            ReportSection("campaign", "campaign", 10, counts=fewer_of_it).write(folder)
            assert not joined(read(folder))[1], name
    ReportSection("campaign", "campaign", 10, counts=counts, failures=["seed 3"]).write(folder)
    text, sound = joined(read(folder))
    assert not sound and "- seed 3" in text
