"""The base of a new mirror, interrupted while it is under way, again and again.

A volume of a real size goes over in thousands of pieces, and is synced every few dozen; the little volume of this
world would be one piece. So its pieces and stretches are made smaller, by the seed, and the link is slow.
"""

from __future__ import annotations

import asyncio

from revolume.blocks.geometry import BLOCK
from revolume.mirror import base
from revolume.mirror.rows import ROWS_MAX
from revolume.sim.patched import patched
from revolume.sim.worlds.pair.parting import PairParting
from revolume.sim.worlds.world import Verdict
from revolume.volume import basefill


class PairBases(PairParting):
    """See the module's text."""

    def live(self) -> Verdict:
        rows, stretch = self._pieces()
        with patched([(base, "ROWS_MAX", rows), (basefill, "STRETCH_BYTES", stretch * BLOCK)]):
            return super().live()

    def _pieces(self) -> tuple[int, int]:
        """Blocks of a piece, and of a stretch."""
        chance = self.chance.stream("pieces")
        return chance.choice((4, 32, ROWS_MAX)), chance.choice((16, 64, 256))

    async def op_half_base(self) -> None:
        """A mirror begins with nothing, on a slow line, and either machine or the line fails meanwhile."""
        for way in (("a", "b"), ("b", "a")):
            self.fabric.path(*way).bytes_per_s = self.chance.choice((1e5, 1e6))
        await self.op_wipe_mirror()
        for _ in range(self.chance.randrange(1, 4)):
            await asyncio.sleep(self.chance.uniform(0.0, 4.0))
            await self.chance.choice((
                self.op_kill_mirror, self.op_power_mirror, self.op_stop_mirror, self.op_kill, self.op_power,
                self.op_both, self.op_stutter,
            ))()  # fmt: skip
        await self._heal()
