"""The fix-up delta map: a batch that was copied, merged under what clients changed until its point was cut.

A block that was copied and then written, or written and then copied, is the client's: what the log carries to the
copy is newer than what was read, or the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet

U64 = npt.NDArray[np.uint64]


def losers(batch: U64, host: BlockSet) -> U64:
    """The blocks of a batch, ascending, that lose to ``host``, the host change delta map: they are right without
    it."""
    return batch[host.contains(batch)]
