"""What a new mirror's base will take, worked out before anything is sent: where it begins, how large it is, what
log follows it, and which names will and will not be on the mirror.

``catch_up_plan.py`` compares it with the room at the target. The log goes out when the base is complete, and can
be folded there as it arrives, except for what a snapshot keeps: so the target's budget must take that, and a few
segments to work with. It need not take all of the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.chain.point import Point
from revolume.mirror.wire.begin_messages import BaseNeed, NamedSnapshot
from revolume.mirror.wire.greeting_messages import Room
from revolume.mirror.wording import lacking_words, older_words, size_words
from revolume.volume.metadata.manifest_state import Member
from revolume.volume.metadata.resync_point import ResyncPoint

TURN_SEGMENTS: Final = 4


@dataclass(frozen=True, slots=True)
class BasePlan:
    """A base that begins at ``point``. Sizes in bytes; ``log`` is what will be shipped behind the base."""

    point: Point
    names: tuple[NamedSnapshot, ...]
    names_position: Position
    need: BaseNeed
    log: int
    members: tuple[Member, ...] = ()
    """Of the volume, with all that the log up to ``names_position`` says of them."""
    resync_points: tuple[ResyncPoint, ...] = ()
    """Of members, those that the mirror will have."""
    oldest: WriteNumber = WriteNumber(0)
    """The first moment that the source retains, a write number."""

    @property
    def lacking(self) -> list[str]:
        """Names of the snapshots that will not be on the mirror."""
        return [named.name for named in self.names if not named.held and not named.follows]

    def sentence(self, mirror: str, room: Room) -> str:
        """What an operator is told before it begins."""
        words = older_words(self.point.write, self.oldest), lacking_words(self.lacking)
        lacks = "".join(f" {told}" for told in words if told)
        return (
            f"Mirror {mirror} begins at cp{self.point.number} (w{self.point.write}): {size_words(self.need.base)} "
            f"of base, then {size_words(self.log)} of log; its disk has {size_words(room.free)} free, its log may "
            f"take {size_words(room.budget)}.{lacks}"
        )


def budget_for(need: BaseNeed, segment_blocks: int) -> int:
    """The smallest budget with which a target can keep what the snapshots keep. Footers and the ends of segments
    take a little more there than here."""
    return need.kept_log + need.kept_log // 16 + TURN_SEGMENTS * segment_blocks * BLOCK


def disk_for(need: BaseNeed, segment_blocks: int) -> int:
    """What it will take of the disk, digests included."""
    return need.base + need.base // 64 + budget_for(need, segment_blocks)
