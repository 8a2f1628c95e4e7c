"""Large tables cost what is touched of them."""

from __future__ import annotations

import resource

import numpy as np

from revolume.blocks.reserved import reserved


def test_what_is_not_touched_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    table = reserved(1 << 27)
    table[5] = 7
    assert table.dtype == np.uint64
    assert (len(table), int(table[5]), int(table[-1])) == (1 << 27, 7, 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000
