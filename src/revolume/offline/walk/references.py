"""What a point's references mean, looked up in the log that was walked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, kinds, pack_all
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.extents import numbers_in
from revolume.chain.point import Part
from revolume.log.format.columns import Columns, select
from revolume.log.format.transfer import Kind
from revolume.log.format.transfer_table import TableView
from revolume.volume.livemap.point_records import addresses

U64 = npt.NDArray[np.uint64]
MASK = np.uint64(ADDRESS_MASK)


class TransferIndex:
    """All transfers of the log by (epoch, position), to resolve the references in points' records."""

    def __init__(self, pieces: list[Columns]) -> None:
        empty = np.zeros(0, np.uint64)
        rows = [c.rows for c in pieces]
        self._positions = np.concatenate([r["position"] for r in rows] or [empty])
        self._epochs = np.concatenate([r["epoch"] for r in rows] or [empty])
        self._payloads = np.concatenate([addresses(c) + c.rows["header_blocks"] for c in pieces] or [empty])
        self._sizes = np.concatenate([r["blocks"] for r in rows] or [empty]).astype(np.uint64)
        versions = [select(c, c.rows["kind"] == Kind.WRITES).versions() for c in pieces]
        words = np.concatenate([v.words for v in versions] or [empty])
        data = kinds(words) == DATA
        place = words[data] & MASK
        order = np.argsort(place)
        self._places = place[order]
        self._blocks = np.concatenate([v.blocks for v in versions] or [empty])[data][order]
        self._digests = np.concatenate([v.digests for v in versions] or [empty])[data][order]

    def view(self) -> TableView:
        """The index in the form of a mirror's transfer table."""
        return TableView(self._payloads, self._positions, self._epochs)

    def resolve(self, part: Part) -> DeltaMap | None:
        """The referenced blocks, with their locations and digests; None if a reference does not resolve."""
        refs = part.references
        if not len(refs.runs):
            return DeltaMap()
        row = np.searchsorted(self._positions, refs.positions)
        if (row >= len(self._positions)).any():
            return None
        if (self._positions[row] != refs.positions).any() or (self._epochs[row] != refs.epochs).any():
            return None
        if (refs.blocks + refs.runs > self._sizes[row]).any():
            return None
        starts = self._payloads[row] + refs.blocks
        wanted = numbers_in(starts, starts + refs.runs)
        at = np.searchsorted(self._places, wanted)
        if (at >= len(self._places)).any() or (self._places[at] != wanted).any():
            return None
        return DeltaMap.of(self._blocks[at], pack_all(DATA, wanted), self._digests[at])
