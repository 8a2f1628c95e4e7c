"""What a new mirror's base will take, worked out before anything is sent: where it begins, how large it is, what
log follows it, and which names will and will not be on the mirror.

Room at the target is compared with it by ``decide``. The log goes out when the base is complete, and can be folded
there as it arrives, except for what a snapshot keeps: so the target's budget must take that, and a few segments to
turn round in. It need not take all of the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from revolume.chain.point import Point
from revolume.log.transfer import BLOCK
from revolume.mirror.messages import Named, Need, Room
from revolume.mirror.wording import lacking_words, size_words

TURN_SEGMENTS: Final = 4


@dataclass(frozen=True, slots=True)
class BasePlan:
    """See the module's text. Sizes in bytes; ``log`` is what will be shipped behind the base."""

    point: Point
    names: tuple[Named, ...]
    names_position: int
    need: Need
    log: int

    @property
    def lacking(self) -> list[str]:
        """Names of the snapshots that will not be on the mirror."""
        return [named.name for named in self.names if not named.held]

    def sentence(self, mirror: str, room: Room) -> str:
        """What an operator is told before it begins."""
        lacks = f" {lacking_words(self.lacking)}" if self.lacking else ""
        return (
            f"Mirror {mirror} begins at cp{self.point.number} (w{self.point.write}): {size_words(self.need.base)} "
            f"of base, then {size_words(self.log)} of log; its disk has {size_words(room.free)} free, its log may "
            f"take {size_words(room.budget)}.{lacks}"
        )


def budget_for(need: Need, segment_blocks: int) -> int:
    """The smallest budget with which a target can keep what the snapshots keep. Footers and the ends of segments
    take a little more there than here."""
    return need.kept_log + need.kept_log // 16 + TURN_SEGMENTS * segment_blocks * BLOCK


def disk_for(need: Need, segment_blocks: int) -> int:
    """What it will take of the disk, digests included."""
    return need.base + need.base // 64 + budget_for(need, segment_blocks)
