"""What each holder of history takes of the disk, and what its end would give back.

A block that was rescued for a pinned moment is needed by the older pinned moments as well, unless these have a
version of their own: dropping the moment hands it to the next older one. So only what that one names itself comes
back, or everything if there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from revolume.blocks.block_location import DATA, kinds
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.volume.space.holder import Holder, HolderKind
from revolume.volume.volume_base import OpenVolume


@dataclass(frozen=True, slots=True)
class HolderUsage:
    """What the end of a holder gives back at once (``exclusive_bytes``), and what it keeps together with others
    (``shared_bytes``), or hands on to them; ``why``, in words, where that is to be said."""

    name: str
    write: int
    exclusive_bytes: int
    shared_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a volume takes of its disk, in bytes, and its holders, oldest write first."""

    image_bytes: int
    log_bytes: int
    rescued_bytes: int
    holders: tuple[HolderUsage, ...]


async def usage(volume: OpenVolume) -> Usage:
    """Of an open volume, now."""
    pinned = volume.holders.pinned_writes()
    work, pool = volume.log.work, volume.log.pool
    held = volume.holders.all()
    with volume.rescued.in_use():
        freed = {write: await work.call(_freed, volume, pinned, write) for write in volume.rescued.moments()}
    rescued = volume.manifest.state.rescued_bytes()
    rows = [_of_holder(volume, each, held, rescued, freed) for each in held]
    image = await work.call(lambda: sum(size for _, size in volume.image.file.data_extents(0, volume.image.bytes)))
    return Usage(
        image_bytes=image,
        log_bytes=(len(pool.by_use) - len(pool.ready)) * pool.segment_blocks * BLOCK,
        rescued_bytes=sum(rescued.values()),
        holders=tuple(rows),
    )


def _of_holder(
    volume: OpenVolume,
    holder: Holder,
    held: list[Holder],
    rescued: dict[WriteNumber, int],
    freed: dict[WriteNumber, int],
) -> HolderUsage:
    if not holder.pinned:
        return HolderUsage(holder.name, holder.write, holder.held_bytes, 0, "it holds the log from there on")
    own = holder.held_bytes if holder.kind == HolderKind.BRANCH else 0
    total = rescued.get(holder.write, 0)
    others = [
        each.name for each in held if each.pinned and each.write == holder.write and each.name != holder.name
    ]
    if others:
        return HolderUsage(holder.name, holder.write, own, total, f"as does {', '.join(others)}")
    alone = freed.get(holder.write, 0)
    why = "an older one needs the rest" if alone < total else ""
    return HolderUsage(holder.name, holder.write, own + alone, total - alone, why)


def _freed(volume: OpenVolume, pinned: list[WriteNumber], write: WriteNumber) -> int:
    """What comes back when nobody pins this moment any more. Waits for the disk."""
    rescued = volume.rescued
    older = [each for each in rescued.moments() if each < write and each in set(pinned)]
    if not older:
        return volume.manifest.state.rescued_bytes().get(write, 0)
    blocks = 0
    for piece in rescued.within(write, WriteNumber(write + 1), 0, 1 << 52):
        found = rescued.get(write, piece, False)
        assert found is not None
        named = rescued.changed(older[-1], write, piece)
        blocks += int((named & (kinds(found[0]) == np.uint64(DATA))).sum())
    return blocks * BLOCK
