"""The suspect walk: since when have blocks differed that a comparison has found to differ? Pure.

Two copies that got the same writes were equal when a block was last written: then both stored what the client
sent, and proved at the next point that they had stored the same. So a block that differs now has differed at most
since the interval in which it was last written. Starting with the newest delta map of the primary before the
comparison and walking back, each map is selected: what remains of the differing blocks is suspect throughout its
interval; then its own changes are taken out, until nothing remains. What remains when there are no more maps is
suspect from the beginning: the image may have held it so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from revolume.blocks.block_set import BlockSet
from revolume.blocks.numbers import WriteNumber
from revolume.chain.newest_first import Changes
from revolume.volume.suspect.suspect_rows import OPEN, Rows, rows_of

BEGINNING = WriteNumber(0)


def suspect_rows(differing: BlockSet, chain: Iterable[Changes], until: WriteNumber = OPEN) -> Iterator[Rows]:
    """Rows for the blocks of ``differing``, those that changed last first. ``chain``: what the primary changed,
    newest interval first; an interval may come in several pieces. ``until``: the write at which the blocks are, or
    were, repaired."""
    left = differing
    for changes in chain:
        if not len(left):
            return
        met = left.intersection(changes.blocks)
        if len(met):
            yield rows_of(met, WriteNumber(changes.after + 1), until)
            left = left.difference(met)
    if len(left):
        yield rows_of(left, BEGINNING, until)
