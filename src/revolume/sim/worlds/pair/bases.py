"""The base of a new mirror, interrupted while it is under way, again and again.

A volume of a real size goes over in thousands of pieces, and is synced every few dozen; the little volume of this
world would be one piece. So its pieces and stretches are made smaller, by the seed, and the link is slow.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

from revolume.blocks.geometry import BLOCK
from revolume.mirror.source import base_sender
from revolume.mirror.wire.block_messages import ROWS_MAX
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.monkeypatch import patched
from revolume.sim.worlds.pair.crashes import Crashes
from revolume.sim.worlds.pair.network_faults import NetworkFaults
from revolume.sim.worlds.pair.running import Running
from revolume.sim.worlds.pair.state import PairState
from revolume.volume.image import base_receiver
from revolume.volume.jump import staged_jump


def drawn_pieces(chance: Chance) -> tuple[int, int]:
    """Blocks of a piece of a base, and blocks between two syncs of one."""
    chance = chance.stream("pieces")
    return chance.choice((4, 32, ROWS_MAX)), chance.choice((16, 64, 256))


def small_pieces(piece_blocks: int, stretch_blocks: int) -> AbstractContextManager[None]:
    """For the time of the context, bases and differences go in such pieces and are synced after so many blocks."""
    stretch_bytes = stretch_blocks * BLOCK
    return patched([
        (base_sender, "ROWS_MAX", piece_blocks), (base_receiver, "STRETCH_BYTES", stretch_bytes),
        (staged_jump, "STRETCH_BYTES", stretch_bytes), (staged_jump, "STRETCH_ENTRIES", stretch_blocks),
        (staged_jump, "TABLE_ENTRIES", 4 * stretch_blocks),
    ])  # fmt: skip


class InterruptedBases:
    """Begins a mirror anew on a slow line, and ends processes while its base is under way."""

    def __init__(self, pair: PairState, crashes: Crashes, running: Running, network: NetworkFaults) -> None:
        self.pair = pair
        self.world = pair.world
        self.fabric = pair.world.fabric
        self.chance = pair.world.chance
        self.crashes = crashes
        self.running = running
        self.network = network

    async def op_half_base(self) -> None:
        """A mirror begins with nothing, on a slow line, and either machine or the line fails meanwhile."""
        crashes = self.crashes
        for way in (("a", "b"), ("b", "a")):
            self.fabric.path(*way).bytes_per_s = self.chance.choice((1e5, 1e6))
        await crashes.op_wipe_mirror()
        for _ in range(self.chance.randrange(1, 4)):
            await asyncio.sleep(self.chance.uniform(0.0, 4.0))
            await self.chance.choice((
                crashes.op_kill_mirror, crashes.op_power_mirror, self.running.op_stop_mirror, crashes.op_kill,
                crashes.op_power, crashes.op_both, self.network.op_stutter,
            ))()  # fmt: skip
        await self.pair.heal()
