"""The image held against its digests, and the sum over all of them against the horizon's volume root.

Not looked at: blocks that a fold under way was about to replace (all reads of them go to the log), and, of a
mirror whose base is under way, what lies behind it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.block_set import BlockSet
from revolume.blocks.geometry import BLOCK
from revolume.host.disk import File
from revolume.offline.walk.check_context import CheckContext
from revolume.offline.walk.log_walk import LogRecords
from revolume.offline.walk.tolerant_read import runs
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.origin_image import OriginDigests
from revolume.volume.metadata.clone_edits import CloneOrigin
from revolume.volume.metadata.manifest_state import State

U64 = npt.NDArray[np.uint64]


def verify_image(
    image: File,
    sums: BlockDigests,
    state: State,
    records: LogRecords,
    context: CheckContext,
    origin: OriginDigests | None = None,
) -> None:
    """Compare every block of the image that has a digest with it, and their sum with the horizon's volume root.
    ``origin``: a clone's; what lies in its parent is counted only. Damaged: the digests themselves are."""
    sums.verify()
    elsewhere = 0
    replaced = _being_folded(state, records)
    total = -(-state.horizon.size // BLOCK)
    root = roots.EMPTY
    for blocks, digests in sums.within(0, max(total, sums.blocks)):
        if len(blocks):
            context.progress("image", int(blocks[-1]), total)
        kept = ~replaced.contains(blocks)
        if state.base is not None:  # of what is behind it digests may be on the disk, and blocks not yet
            kept &= blocks < np.uint64(state.base)
        if origin is not None and (there := origin.there(blocks, digests)) is not None:
            elsewhere += int(there.sum())
            kept &= ~there
        hold(image, blocks[kept], digests[kept], context)
        root = roots.add(root, blocks, digests)
    if state.clones.origin is not None:
        context.elsewhere = elsewhere_sentence(state.clones.origin, elsewhere)
    whole = state.base is None or state.base >= total
    stated = state.horizon.root_low, state.horizon.root_high
    known = state.suspect.unproved(state.horizon.point) or context.periods.within(state.horizon.write)
    if whole and not len(replaced) and root != stated and not known:
        context.add_problem("image", "the sum over all blocks is not the volume root of its point")


def elsewhere_sentence(origin: CloneOrigin, blocks: int) -> str:
    """What of a clone is not in its own directory."""
    return f"{blocks} blocks lie in its parent {origin.parent} in {origin.directory}, and were not looked at."


def _being_folded(state: State, records: LogRecords) -> BlockSet:
    """Blocks that a fold which was under way may have replaced already."""
    if state.folding <= state.horizon.write:
        return BlockSet()
    return records.newest(state.horizon.write, state.folding).delta.changed()


def hold(image: File, blocks: U64, digests: U64, context: CheckContext) -> None:
    """Compare blocks of the image with these digests."""
    for run in runs(image, blocks, digests):
        context.blocks += run.count
        context.bytes_read += len(run.data)
        for index in sorted({*run.wrong, *run.refused}):
            what = "can't be read" if index in run.refused else "is not what was written"
            context.add_problem(f"image block {run.first + index}", what)
