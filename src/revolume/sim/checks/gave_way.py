"""No client's write is refused while a reader of the past could have given way, or what is kept for a mirror.

Found out beside ``volume/space/holders.py``, not with it: a reader could have gone if a fold up to some point
would then have freed a segment, with everything kept that never gives way; or if it holds room of its own where
the disk is short. What is pinned for an async mirror goes before that, where a fold has no room for what it
rescues."""

from __future__ import annotations

from revolume.volume.metadata.manifest_state import Role
from revolume.volume.space.holder import HolderKind
from revolume.volume.volume_base import OpenVolume


def check_refused(volume: OpenVolume, who: str) -> list[str]:
    """At the moment of a refusal. Where the disk lets no fold be done, nobody's going would have helped."""
    if volume.folder.failure is not None and not volume.folder.starved:
        return []
    could_go = _could_go(volume) + _pinned_for_mirrors(volume)
    return [f"{who}: a write was refused, and {name} could have given way" for name in could_go]


def _pinned_for_mirrors(volume: OpenVolume) -> list[str]:
    state = volume.manifest.state
    if state.role != Role.PRIMARY or not volume.folder.starved:
        return []
    return [f"the pin of mirror {mirror.name}" for mirror in state.mirrors if mirror.pinned and not mirror.firm]


def _could_go(volume: OpenVolume) -> list[str]:
    blocks = volume.log.pool.segment_blocks
    begin = volume.image.horizon.address // blocks
    all_holders = volume.holders.all()
    holders = [each for each in all_holders if not each.pinned]
    upto = min((each.write for each in holders if each.kind > HolderKind.MIRROR), default=1 << 63)
    useful = [p.write for p in volume.retained if p.address // blocks > begin and p.write <= upto]
    readers = [each for each in all_holders if each.kind in (HolderKind.VIEW, HolderKind.OVERLAY)]
    kept = [each for each in holders if each.kind == HolderKind.MIRROR]
    return [
        each.name
        for each in readers + kept
        if (not each.pinned and any(each.write < write for write in useful))
        or (volume.log.pool.disk_short and each.held_bytes)
    ] + _pins_that_could_go(volume)


def _pins_that_could_go(volume: OpenVolume) -> list[str]:
    """Points of mirrors, on a short disk, if something was rescued for them that no older snapshot needs."""
    if not volume.log.pool.disk_short:
        return []
    state, pinned = volume.manifest.state, [each for each in volume.holders.all() if each.pinned]
    firm = min((each.write for each in pinned if each.kind > HolderKind.MIRROR), default=1 << 63)
    rescued = {write for write, size in state.rescued_bytes().items() if size and write < firm}
    return [each.name for each in pinned if each.kind == HolderKind.MIRROR and each.write in rescued]
