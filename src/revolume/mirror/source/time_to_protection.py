"""How much has to be sent until a mirror protects anything, before anything of it is known but its address.

What is counted is what a base would hold now; nothing is held for the mirror yet. ``base_plan.py`` is the plan
that is made, and told, once the mirror has answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.mirror.source.point_reader import open_point
from revolume.mirror.wire.codec import Identity
from revolume.mirror.wire.examine_messages import Examined
from revolume.mirror.wording import size_words
from revolume.volume.members.base_start import point_of
from revolume.volume.metadata.base_history import History
from revolume.volume.primary import Volume

ASSUMED_BYTES_PER_S: Final = 100 << 20
"""About what a link of 1 Gbit/s brings over."""


@dataclass(frozen=True, slots=True)
class ToSend:
    """Bytes of base and log."""

    base: int
    log: int

    @property
    def bytes(self) -> int:
        """Of both."""
        return self.base + self.log

    @property
    def seconds(self) -> float:
        """At the assumed rate."""
        return self.bytes / ASSUMED_BYTES_PER_S

    @property
    def sentence(self) -> str:
        """For who adds the mirror."""
        return (
            f"It protects nothing yet: {size_words(self.base)} of base and {size_words(self.log)} of log have to "
            f"be sent, about {self.seconds:.0f} s at an assumed {size_words(ASSUMED_BYTES_PER_S)}/s; 'revolume "
            "status' shows the true rate."
        )


async def to_send(volume: Volume, history: History, there: Examined | None) -> ToSend:
    """``there``: what answers at the mirror's address, None: nobody. A copy of the volume whose log this one
    continues needs the log alone."""
    if there is not None and (log := await _log_behind(volume, there)) is not None:
        return ToSend(0, log)
    point = volume.base_start(history) or volume.retained.newest or point_of(volume.folder.horizon)
    reader = await open_point(volume, point)
    try:
        base = BLOCK * await reader.count()
    finally:
        reader.close()
    return ToSend(base, _log_between(volume, point.address))


async def _log_behind(volume: Volume, there: Examined) -> int | None:
    """Bytes of log that a copy lacks; None: it is none that this log continues."""
    end, feed = there.end, volume.feed
    if not there.whole or there.volume != volume.volume_id or end.position < feed.oldest:
        return None
    found = await feed.identity_at(end.position)
    if found is None or Identity(*found) != Identity(end.epoch, end.reign, end.chain):
        return None
    address = feed.address_behind(end.position)
    return 0 if address is None else _log_between(volume, address)


def _log_between(volume: Volume, begin: Address) -> int:
    """Bytes of log from there to its end, without what no segment holds."""
    end = volume.feed.end_address
    return max(0, end - begin - volume.log.pool.gap_between(begin, end)) * BLOCK
