"""The image held against its digests, and the sum over all of them against the horizon's volume root.

Not looked at: blocks that a fold under way was about to replace (all reads of them go to the log), and, of a
mirror whose base is under way, what lies behind it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.host.disk import File
from revolume.log.transfer import BLOCK
from revolume.offline.findings import Findings
from revolume.offline.reading import runs
from revolume.offline.walked import Walked
from revolume.volume.manifest import State
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]


def verify_image(image: File, sums: Sums, state: State, walked: Walked, findings: Findings) -> None:
    """Every block that has a digest. Damaged if the digests themselves are."""
    sums.verify()
    replaced = _being_folded(state, walked)
    total = -(-state.horizon.size // BLOCK)
    root = roots.EMPTY
    for blocks, digests in sums.within(0, max(total, sums.blocks)):
        if len(blocks):
            findings.progress("image", int(blocks[-1]), total)
        kept = ~np.isin(blocks, replaced)
        if state.base is not None:  # of what is behind it digests may be on the disk, and blocks not yet
            kept &= blocks < np.uint64(state.base)
        _hold(image, blocks[kept], digests[kept], findings)
        root = roots.add(root, blocks, digests)
    whole = state.base is None or state.base >= total
    if whole and not len(replaced) and root != (state.horizon.root_low, state.horizon.root_high):
        findings.say("image", "the sum over all blocks is not the volume root of its point")


def _being_folded(state: State, walked: Walked) -> U64:
    """Blocks that a fold which was under way may have replaced already."""
    if state.folding <= state.horizon.write:
        return np.zeros(0, np.uint64)
    changed = walked.newest(state.horizon.write, state.folding)
    ranges = [np.arange(start, end, dtype=np.uint64) for start, end, _ in changed.zero_ranges()]
    return np.unique(np.concatenate([changed.blocks, *ranges]))


def _hold(image: File, blocks: U64, digests: U64, findings: Findings) -> None:
    for run in runs(image, blocks, digests):
        findings.blocks += run.count
        findings.bytes_read += len(run.data)
        for index in sorted({*run.wrong, *run.refused}):
            what = "can't be read" if index in run.refused else "is not what was written"
            findings.say(f"image block {run.first + index}", what)
