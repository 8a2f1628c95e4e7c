"""What dropping a snapshot would give back to the disk, as ``du`` tells it of files that have several names.

What was rescued for a moment is asked for every older pinned moment too. Dropped, its blocks go to the next older
one that is pinned, but for those of which that one has a version of its own; without an older one all of them go.
"""

from __future__ import annotations

from dataclasses import replace

from revolume.volume.volume_base import OpenVolume


async def snapshot_room(volume: OpenVolume) -> dict[str, int]:
    """By the name of each snapshot the bytes that it alone keeps: 0 where another name or the policy keeps its
    moment, or nothing was rescued for it. Waits for the disk; Damaged, OSError: a table can't be read."""
    state = volume.manifest.state
    found = dict.fromkeys((pin.name for pin in state.snapshots), 0)
    with volume.rescued.in_use():
        for pin in state.snapshots:
            others = replace(state, snapshots=tuple(each for each in state.snapshots if each.name != pin.name))
            if pin.write not in others.pinned_writes() | set(volume.policy.writes()):
                found[pin.name] = await volume.log.work.call(volume.rescued.given_back, pin.write)
    return found
