"""The target's side of HANDOVER: refused, or answered, and then this node becomes the primary."""

from __future__ import annotations

from collections.abc import Callable

from revolume.errors import Refused
from revolume.host.address import parse_address
from revolume.mirror.copy_protocols import TargetVolume
from revolume.mirror.link import Link
from revolume.mirror.wire.frames import Type
from revolume.mirror.wire.handover_messages import Handover


async def answer_handover(
    link: Link, volume: TargetVolume, handover: Handover, accept: Callable[[], Callable[[], None]]
) -> None:
    """Accept it, as long as the source waits for the answer: one that has gone is told nothing, and may be the
    primary again itself. ``accept`` returns what makes this node the primary. Refused: something is missing."""
    refuse_handover(volume, handover)
    parse_address(handover.address)
    link.drain()
    if not link.open:
        return
    take_over = accept()
    link.send_control(Type.HANDED_OVER)
    await link.close()
    take_over()


def refuse_handover(volume: TargetVolume, handover: Handover) -> None:
    """Refused unless everything is here, durable and agreed on."""
    end, agreed = volume.end, volume.agreed.number
    there = (handover.position, handover.chain, handover.point)
    if (end.position, end.chain, agreed) != there or volume.durable < end.position or volume.failure is not None:
        raise Refused(
            "handover-behind",
            f"This mirror's log ends at position {end.position}, durable {volume.durable}, agreed on cp{agreed}; "
            f"the source's ends at {handover.position}, at cp{handover.point}.",
            "Hand over once it has caught up.",
        )
