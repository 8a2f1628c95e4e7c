"""The compare delta map, revised: without what clients changed in the scan interval.

The primary is scanned live, while the copy is compared as of the point at which the scan began. What was written
in between differs without being wrong: the log carries it to the copy.
"""

from __future__ import annotations

from revolume.blocks.block_set import BlockSet


def revise(compared: BlockSet, scan: BlockSet) -> BlockSet:
    """``compared`` less ``scan``, the scan delta map."""
    return compared.difference(scan)
