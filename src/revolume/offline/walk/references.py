"""What a point's references mean, looked up in the log that was walked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.word import ADDRESS_MASK
from revolume.chain.point import Part
from revolume.log.columns import Columns, only, ramp
from revolume.log.table import TableView
from revolume.log.transfer import Kind
from revolume.volume.replay import addresses

U64 = npt.NDArray[np.uint64]
MASK = np.uint64(ADDRESS_MASK)


class Transfers:
    """All transfers of the log by (epoch, position)."""

    def __init__(self, pieces: list[Columns]) -> None:
        empty = np.zeros(0, np.uint64)
        rows = [c.rows for c in pieces]
        self._positions = np.concatenate([r["position"] for r in rows] or [empty])
        self._epochs = np.concatenate([r["epoch"] for r in rows] or [empty])
        self._payloads = np.concatenate([addresses(c) + c.rows["header_blocks"] for c in pieces] or [empty])
        self._sizes = np.concatenate([r["blocks"] for r in rows] or [empty]).astype(np.uint64)
        versions = [only(c, c.rows["kind"] == Kind.WRITES).versions() for c in pieces]
        words = np.concatenate([v.words for v in versions] or [empty])
        data = (words >> np.uint64(62)) == 1
        place = words[data] & MASK
        order = np.argsort(place)
        self._places = place[order]
        self._blocks = np.concatenate([v.blocks for v in versions] or [empty])[data][order]
        self._digests = np.concatenate([v.digests for v in versions] or [empty])[data][order]

    def view(self) -> TableView:
        """The same as a mirror's own table."""
        return TableView(self._payloads, self._positions, self._epochs)

    def resolve(self, part: Part) -> tuple[U64, U64] | None:
        """(blocks, digests) that the references mean; None if one resolves to nothing."""
        refs = part.references
        if not len(refs.runs):
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        row = np.searchsorted(self._positions, refs.positions)
        if (row >= len(self._positions)).any():
            return None
        if (self._positions[row] != refs.positions).any() or (self._epochs[row] != refs.epochs).any():
            return None
        if (refs.blocks + refs.runs > self._sizes[row]).any():
            return None
        wanted = np.repeat(self._payloads[row] + refs.blocks, refs.runs.astype(np.int64)) + ramp(refs.runs)
        at = np.searchsorted(self._places, wanted)
        if (at >= len(self._places)).any() or (self._places[at] != wanted).any():
            return None
        return self._blocks[at], self._digests[at]
