"""A pair whose mirror remembers, whose primary forgets, and fetches what it has forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from revolume.sim.worlds.pair import PairWorld
from revolume.sim.worlds.pair.fetches import Fetches
from revolume.sim.worlds.world import MiB, Verdict


class FetchWorld(PairWorld):
    """Fetches, with what ends them half-way, and with folds and snapshots between them."""

    name = "fetch"
    steps = 12
    requests = 600, 2000

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        self.fetches = Fetches(self.pair, self.running, self.crashes)
        options = self.pair.options
        options["a"] = replace(options["a"], keep_s=0.3, cp_interval_s=0.3, budget_bytes=64 * MiB)
        options["b"] = replace(options["b"], keep_s=3600.0, budget_bytes=64 * MiB)

    def groups(self) -> Sequence[object]:
        return (*super().groups(), self.fetches)

    def operations(self) -> dict[str, int]:
        return {
            "fetch": 14, "fetch_power": 6, "snapshot": 2, "point": 4, "moments": 3, "power": 1, "kill": 1,
            "power_mirror": 1, "stop": 1, "cut": 1, "slow_link": 1, "scrub": 1,
        }  # fmt: skip

    def live(self) -> Verdict:
        verdict = super().live()
        self.happened.update({f"- {what}": count for what, count in self.fetches.counts.items()})
        return verdict
