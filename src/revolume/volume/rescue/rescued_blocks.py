"""The rescued blocks of an open volume, looked up: what a pinned moment had where the image has gone on.

Moments stand in order of age, and so do the tables of each. For a moment, its own tables are asked first, then
those of every newer one, then the image: the first that names a block is right. So no block is kept twice, and the
tables of a moment that is not pinned any more go to the next older one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import DATA, RESCUED, RESCUED_SHIFT, kinds
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.chain.map_file import MapFile
from revolume.errors import Damaged
from revolume.host.disk import Directory, File
from revolume.host.open_files import OpenFiles, PooledFile
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Horizon, Rescue
from revolume.volume.rescue.moment_roots import rescued_pieces

U64 = npt.NDArray[np.uint64]


class _Table:
    """A table that is opened when it is first asked."""

    def __init__(self, file: PooledFile, volume: bytes) -> None:
        self._file = file
        self._volume = volume
        self._map: MapFile | None = None
        self.damaged = False
        """Somebody has found that it is not what was written. Nothing else says what it said."""

    @property
    def name(self) -> str:
        return self._file.name

    def get(self, blocks: U64, nowait: bool) -> tuple[U64, U64] | None:
        if self._map is None and nowait:
            return None
        with self._noting():
            return self.opened().get(blocks, nowait)

    def opened(self) -> MapFile:
        if self._map is None:
            with self._noting():
                self._map = MapFile.open(self._file, self._volume)
        return self._map

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except (Damaged, FileNotFoundError):
            self.damaged = True
            raise

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class _Moment:
    moment: Horizon
    tables: dict[int, _Table]


class RescuedBlocks:
    """Of one volume. What it answers changes in one step, ``adopt``; threads may ask meanwhile."""

    def __init__(self, directory: Directory, volume: bytes, rescues: Sequence[Rescue]) -> None:
        """``directory`` is the volume's own; the caller closes it after this."""
        self._directory = directory
        self._volume = volume
        self._held = ExitStack()
        self._files: OpenFiles | None = None
        self._tables: dict[int, _Table] = {}
        self._data: dict[int, PooledFile] = {}
        self._moments: tuple[_Moment, ...] = ()
        self.users = 0
        self.arriving: set[str] = set()
        """Names of files that nothing names yet, and that are not swept: a moment that comes is in them."""
        self.adopt(rescues)

    def __len__(self) -> int:
        """Moments that something has been rescued for."""
        return len(self._moments)

    def adopt(self, rescues: Sequence[Rescue]) -> None:
        """From now on these. Files that they do not name are closed, and can be removed."""
        if not rescues and self._files is None:
            return
        self._moments = tuple(
            _Moment(each.moment, {table.number: self._table(table.number) for table in each.tables})
            for each in rescues
        )
        tables = {table.number for each in rescues for table in each.tables}
        files = {file.number for each in rescues for file in each.files}
        for number in files - self._data.keys():
            self._data[number] = self._opener().file(layout.rescue_file_name(number))
        for number in self._tables.keys() - tables:
            self._tables.pop(number).close()
        for number in self._data.keys() - files:
            self._data.pop(number).close()

    def _opener(self) -> OpenFiles:
        if self._files is None:
            directory = self._directory.child(layout.RESCUE, create=True)
            self._held.callback(directory.close)
            self._files = OpenFiles(directory, write=False)
        return self._files

    def _table(self, number: int) -> _Table:
        if number not in self._tables:
            name = layout.rescue_table_name(number)
            self._tables[number] = _Table(self._opener().file(name), self._volume)
        return self._tables[number]

    def moments(self) -> list[WriteNumber]:
        """The writes of the moments that something has been rescued for, oldest first."""
        return [each.moment.write for each in self._moments]

    def moment(self, write: WriteNumber) -> Horizon | None:
        """What is known of the pinned moment at this write; None: nothing has been rescued for it."""
        return next((each.moment for each in self._moments if each.moment.write == write), None)

    def found_damaged(self, number: int) -> None:
        """The table of this number is not what was written."""
        if (table := self._tables.get(number)) is not None:
            table.damaged = True

    def damaged_tables(self) -> list[tuple[WriteNumber, str]]:
        """(write, file within ``rescue/``) of the moments of tables that were found damaged, oldest first. What
        was rescued for a moment is asked for older ones too: none up to that write can be read."""
        tables = ((each.moment.write, table) for each in self._moments for table in each.tables.values())
        return [(write, table.name) for write, table in tables if table.damaged]

    def needed_by(self, write: WriteNumber) -> bool:
        """Whether something is rescued that a moment at this write may need."""
        return bool(self._moments) and self._moments[-1].moment.write >= write

    def get(self, write: WriteNumber, blocks: U64, nowait: bool) -> tuple[U64, U64] | None:
        """Locations and digests (uint64, one for each of ``blocks``) as of the moment at ``write``; location 0: it
        was not rescued, the image has it. None, only with ``nowait``: it would have to wait. Damaged: a table is
        not what was written."""
        found = np.zeros((2, len(blocks)), np.uint64)
        missing = np.arange(len(blocks))
        for table in self._tables_between(write, None):
            values = table.get(blocks[missing], nowait)
            if values is None:
                return None
            found[:, missing] = values
            missing = missing[values[0] == 0]
            if not len(missing):
                break
        return found[0], found[1]

    def changed(self, since: WriteNumber, until: WriteNumber, blocks: U64) -> npt.NDArray[np.bool_]:
        """A mask (bool, one for each of ``blocks``): which changed, and were therefore rescued, for a moment at or
        after ``since`` and before ``until``. Waits for the disk."""
        changed = np.zeros(len(blocks), bool)
        for table in self._tables_between(since, until):
            found = table.get(blocks, False)
            assert found is not None
            changed |= found[0] != 0
        return changed

    def _tables_between(self, since: WriteNumber, until: WriteNumber | None) -> Iterator[_Table]:
        for each in self._moments:
            if each.moment.write >= since and (until is None or each.moment.write < until):
                yield from each.tables.values()

    def within(self, since: WriteNumber, until: WriteNumber | None, start: int, end: int) -> Iterator[U64]:
        """The numbers, among [start, end), of the blocks that changed and were therefore rescued for a moment
        at or after ``since`` and before ``until``: pieces, each of which ascends. Waits for the disk. OSError:
        a table was merged and closed meanwhile."""
        for table in self._tables_between(since, until):
            yield from (piece.blocks for piece in table.opened().within(start, end))

    def blocks_between(self, since: WriteNumber, until: WriteNumber, done: set[int]) -> Iterator[U64] | None:
        """The numbers of the blocks, ascending, in those tables of the moments from ``since`` on and before
        ``until`` that are not ``done``; they are from now on. None: there are none. Waits for the disk; only where
        tables are not merged meanwhile (``in_use``)."""
        within = [each.tables for each in self._moments if since <= each.moment.write < until]
        tables = {number: table for each in within for number, table in each.items()}
        found = [table.opened() for number, table in tables.items() if number not in done]
        done.update(tables)
        return (piece.blocks for piece in rescued_pieces(found)) if found else None

    def given_back(self, write: WriteNumber) -> int:
        """The bytes that come back once nobody pins the moment at this write: those of its blocks of which the
        next older moment has a version of its own, or all. Waits for the disk; only where tables are
        ``in_use``."""
        at = next((at for at, each in enumerate(self._moments) if each.moment.write == write), None)
        if at is None:
            return 0
        older = list(self._moments[at - 1].tables.values()) if at else []
        blocks = 0
        for piece in rescued_pieces([table.opened() for table in self._moments[at].tables.values()]):
            gone = kinds(piece.locations) == np.uint64(DATA)
            blocks += int((gone & self._named(older, piece.blocks)).sum() if at else gone.sum())
        return blocks * BLOCK

    @staticmethod
    def _named(tables: Sequence[_Table], blocks: U64) -> npt.NDArray[np.bool_]:
        """Which of these blocks some table names."""
        named = np.zeros(len(blocks), bool)
        for table in tables:
            found = table.get(blocks, False)
            assert found is not None
            named |= found[0] != 0
        return named

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """No table is merged or removed meanwhile."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    def place(self, address: int) -> tuple[File, int]:
        """The file of a rescued block's address, and its offset there in bytes. KeyError: it is gone."""
        number, index = divmod(address - RESCUED, 1 << RESCUED_SHIFT)
        return self._data[number], index * BLOCK

    def file_name(self, address: int) -> str | None:
        """The name, within ``rescue/``, of the file of a rescued block's address; None: it is gone."""
        file = self._data.get((address - RESCUED) >> RESCUED_SHIFT)
        return None if file is None else file.name

    def sweep(self) -> None:
        """Remove the files that nothing names: an attempt that a crash cut short, a moment that nobody needs."""
        if not self._directory.exists(layout.RESCUE):
            return
        directory = self._directory.child(layout.RESCUE)
        named = {layout.rescue_table_name(number) for number in self._tables}
        named |= {layout.rescue_file_name(number) for number in self._data}
        try:
            for name in directory.names():
                if name not in named | self.arriving:
                    with suppress(OSError):  # what the disk does not let go of now goes another time
                        directory.remove(name)
        finally:
            directory.close()

    def close(self) -> None:
        """Close every file. Nobody may be asking any more."""
        for table in self._tables.values():
            table.close()
        for file in self._data.values():
            file.close()
        self._held.close()
