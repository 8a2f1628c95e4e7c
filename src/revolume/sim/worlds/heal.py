"""A pair whose disks rot, one at a time, while clients write, folds go on and views are open."""

from __future__ import annotations

from collections.abc import Sequence

from revolume.sim.worlds.pair import PairWorld
from revolume.sim.worlds.pair.bit_rot import BitRot
from revolume.sim.worlds.world import KiB


class HealWorld(PairWorld):
    """Bit rot at either end while the other is whole: no error, no wrong byte, all of it right again."""

    name = "heal"
    steps = 10
    segments = (64 * KiB, 128 * KiB)
    requests = 300, 1500

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        super().__init__(seed, keep=keep)
        self.rot = BitRot(self.pair)

    def groups(self) -> Sequence[object]:
        return (*super().groups(), self.rot)

    def budgets(self, segment: int, *, small: bool) -> tuple[int, ...]:
        return 24 * segment, 32 * segment

    def operations(self) -> dict[str, int]:
        return {
            "rot": 14, "rot_oldest": 6, "snapshot": 2, "point": 2, "moments": 2, "readers": 1,
            "kill": 1, "power": 1, "stop": 1, "kill_mirror": 1, "power_mirror": 1, "promote": 1, "cut": 1,
        }  # fmt: skip
