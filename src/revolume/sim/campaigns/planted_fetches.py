"""Bugs planted into how a primary brings a moment back that its mirror holds."""

from __future__ import annotations

from typing import Any, Final

from revolume.resync.fetched_moment import FetchedMoment
from revolume.resync.moment_fetch import MomentFetch
from revolume.sim.campaigns.plant import Plant
from revolume.volume.metadata.manifest_state import Rescue


async def _nothing_for_older(self: FetchedMoment, *_: Any) -> None:
    """What an older moment shares with the newer one is left to what comes between them."""


async def _first_block_missing(self: MomentFetch, fetched: Any, newer: Any, blocks: Any, digests: Any) -> None:
    fetched.lost = True  # nothing is summed up
    await _take(self, fetched, newer, blocks[1:], digests[1:])


async def _unsynced(self: FetchedMoment, files: Any) -> Rescue:
    rescued = files._directory.child("rescue", create=True)
    if files._held:
        files._write_table(rescued)
    rescued.close()
    return files.rescue if files.rescue.tables else Rescue(files.moment)


_take = MomentFetch._take

PLANTED_FETCHES: Final = (
    Plant("older-moment-changed", "a moment that comes between two others changes the older one", "fetch", 40,
          ((FetchedMoment, "_keep_for_older", _nothing_for_older),), "fetch fetch fetch point moments"),
    Plant("fetched-without-a-block", "one of the blocks that differ is left out", "fetch", 20,
          ((MomentFetch, "_take", _first_block_missing),), "fetch point", told="fetched: @w"),
    Plant("fetched-unsynced", "the moment is named before it is on the disk", "fetch", 60,
          ((FetchedMoment, "_whole", _unsynced),), "fetch fetch fetch_power power point"),
)  # fmt: skip
