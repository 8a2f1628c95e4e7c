"""A pair whose mirror is away most of the time, with little room for the log: what the operator of ``pair`` does
now and then is done here again and again, so that most worlds see several jumps."""

from __future__ import annotations

from revolume.sim.worlds.pair import PairWorld
from revolume.sim.worlds.world import KiB


class AwayWorld(PairWorld):
    """Differences, and what fails while they are sent and become the copy."""

    name = "away"
    steps = 4
    sync_share = 0.15
    segments = (64 * KiB,)
    requests = 100, 300

    def budgets(self, segment: int, *, small: bool) -> tuple[int, ...]:
        return 24 * segment, 32 * segment

    def operations(self) -> dict[str, int]:
        return {
            "away": 12, "jump_power": 2, "jump_restart": 2, "noted": 5, "resync": 5, "lost_point": 2,
            "snapshot": 3, "readers": 3, "moments": 2, "promote": 1,
            "kill": 1, "power": 1, "kill_mirror": 1, "power_mirror": 1, "cut": 1, "stutter": 1, "point": 1,
            "set_mode": 1, "older": 1, "wipe_mirror": 1, "full": 1,
        }  # fmt: skip
