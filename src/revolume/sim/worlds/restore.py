"""A pair whose primary goes back to moments of its past, again and again, and whose clients go on from there."""

from __future__ import annotations

from collections.abc import Sequence

from revolume.sim.worlds.pair import PairWorld
from revolume.sim.worlds.pair.restores import Restores


class RestoreWorld(PairWorld):
    """Restores, with what ends them half-way, and with takeovers and folds between them."""

    name = "restore"
    steps = 10
    requests = 600, 2000

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        self.restores = Restores(self.pair, self.running, self.crashes, self.takeover, self.inspections)

    def groups(self) -> Sequence[object]:
        return (*super().groups(), self.restores)

    def operations(self) -> dict[str, int]:
        return {
            "restore": 12, "restore_power": 5, "restore_kill": 4, "restore_promote": 4, "restore_beside": 5,
            "snapshot": 4, "point": 4,
            "moments": 2, "power": 2, "kill_mirror": 1, "power_mirror": 1, "promote": 2, "stop": 1, "cut": 1,
            "scrub": 1,
        }  # fmt: skip
