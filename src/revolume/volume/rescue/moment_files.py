"""A moment that comes block by block from another node, as files in ``rescue/``: one of content, and tables.

Nothing names the files until the manifest does. Content is written where it belongs at once; a table when it is
large enough, or with the last block.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import DATA_WORD, ZERO_WORD, rescued_address
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.geometry import BLOCK
from revolume.chain.map_file import MapMeta, write_map
from revolume.host.disk import Directory
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Horizon, Rescue, RescueFile, RescueTable

U64 = npt.NDArray[np.uint64]
TABLE_ENTRIES = 1 << 20
"""A table is written when so many entries have come: they are in memory until then."""


class MomentFiles:
    """Of one ``moment``, in the volume's ``directory``. Files get numbers from ``number`` on, which is the next
    one afterwards."""

    def __init__(self, directory: Directory, volume: bytes, moment: Horizon, number: int) -> None:
        self._directory = directory
        self._volume = volume
        self._held: list[DeltaMap] = []
        self.number = number
        self.rescue = Rescue(moment, (), (RescueFile(number, 0),))
        """What there is of it."""

    @property
    def moment(self) -> Horizon:
        """Which moment it is."""
        return self.rescue.moment

    def put(self, blocks: U64, digests: U64, payload: memoryview, last: bool) -> None:
        """Blocks, ascending within one call and from call to call (where they begin anew, they win), with the
        content of those whose digest is not 0. With the ``last`` of them all is synced. Waits for the disk."""
        rescued = self._directory.child(layout.RESCUE, create=True)
        with closing(rescued):
            if self._held and len(blocks) and blocks[0] <= self._held[-1].blocks[-1]:
                self._write_table(rescued)
            if len(blocks):
                self._held.append(self._stored(rescued, blocks, digests, payload))
            if sum(map(len, self._held)) >= TABLE_ENTRIES or (last and self._held):
                self._write_table(rescued)
            if last:
                with closing(rescued.open(self._file_name, create=True)) as file:
                    file.datasync()
                rescued.sync()

    @property
    def _file_name(self) -> str:
        return layout.rescue_file_name(self.rescue.files[0].number)

    def _stored(self, rescued: Directory, blocks: U64, digests: U64, payload: memoryview) -> DeltaMap:
        file = self.rescue.files[0]
        data = digests != 0
        count = int(data.sum())
        with closing(rescued.open(self._file_name, create=True)) as opened:
            opened.pwritev([payload], file.blocks * BLOCK)
        locations = np.full(len(blocks), ZERO_WORD, np.uint64)
        begin = np.uint64(DATA_WORD | rescued_address(file.number, file.blocks))
        locations[data] = begin + np.arange(count, dtype=np.uint64)
        self.rescue = Rescue(self.moment, self.rescue.tables, (RescueFile(file.number, file.blocks + count),))
        return DeltaMap(blocks, locations, digests)

    def _write_table(self, rescued: Directory) -> None:
        moment = self.moment
        name = layout.rescue_table_name(self.number)
        if rescued.exists(name):
            rescued.remove(name)
        with closing(rescued.open(name, create=True, exclusive=True)) as file:
            entries = write_map(
                file, self._volume, MapMeta(moment.write, moment.address, moment.point), self._held
            )
        tables = (*self.rescue.tables, RescueTable(self.number, entries))
        self.rescue, self._held = Rescue(moment, tables, self.rescue.files), []
        self.number += 1
