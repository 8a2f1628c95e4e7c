"""What the world ``heal`` asks of a read that meets a rotted block: the block, as soon as the other side can be
asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from revolume.mirror.healing import LinkSibling
from revolume.sim.kernel.monkeypatch import patched
from revolume.sim.worlds.heal import HealWorld
from revolume.sim.worlds.pair.bit_rot import BitRot, Side
from revolume.volume.heal.damaged_block import DamagedBlock
from revolume.volume.heal.siblings import Contents, Wanted

HELD_S = 0.5
FAILS = "has rotted while the other side has it"


class RotOnly(HealWorld):
    """Nothing but rot, which is read by clients."""

    steps = 6
    requests = (60,)

    def operations(self) -> dict[str, int]:
        return {"rot": 1}


class WhileHeld(BitRot):
    """Reads rotted blocks while the link to the other side receives nothing."""

    held = 0

    async def _read(self, side: Side, places: list[DamagedBlock]) -> None:
        for sibling in side.healing.siblings.attached():
            assert isinstance(sibling, LinkSibling)
            sibling._link.hold()
            asyncio.get_running_loop().call_later(HELD_S, sibling._link.go_on)
            self.held += 1
        await super()._read(side, places)


async def has_nothing(self: LinkSibling, wanted: Sequence[Wanted]) -> Contents:
    return {}


def test_a_read_while_no_answer_is_received_brings_the_block_once_answers_are() -> None:
    world = RotOnly(3)
    world.rot = WhileHeld(world.pair)
    assert world.live().wrong == []
    assert world.rot.held > 0


def test_a_read_that_fails_though_the_other_side_can_be_asked_is_told() -> None:
    with patched([(LinkSibling, "ask", has_nothing)]):
        wrong = RotOnly(3).live().wrong
    assert any(FAILS in each for each in wrong), wrong
