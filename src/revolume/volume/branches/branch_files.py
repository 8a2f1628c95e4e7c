"""The files of a branch: tables in the map-file format, and the blocks that they lead to.

There is a table for the branch's end, and one for each named moment within it; a version of a block that several
of them have is in the file once. A table names every block that was changed behind the common point, with its
digest, or as part of a zero range.
A location is DATA with an address as rescued blocks have one (``blocks/block_location.py``): the number of the
branch's file, and the block's index in it; or ZERO. Numbers are given out together with those of rescue files, so
none leads into both.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import DATA_WORD, ZERO_WORD, rescued_address
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.geometry import BLOCK
from revolume.blocks.ranges import Ranges
from revolume.chain.map_file import MapFile, MapMeta, write_map
from revolume.errors import Damaged
from revolume.host.disk import Directory, File
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Branch

U64 = npt.NDArray[np.uint64]


class BranchWriter:
    """Writes the files of a branch. Nothing leads to them until the manifest does."""

    def __init__(self, directory: Directory, number: int, tables: Iterable[int]) -> None:
        """``directory``: the volume's. ``number``: of the file of blocks; ``tables``: of the tables to be written.
        What an earlier attempt has left under these names is thrown away."""
        self._volume_directory = directory
        self._number = number
        self._directory = directory.child(layout.BRANCHES, create=True)
        self._names = (layout.branch_file_name(number), *map(layout.branch_table_name, tables))
        self.data = 0
        """Blocks in the file."""
        try:
            self.discard()
            self._file: File = self._directory.open(self._names[0], create=True, exclusive=True)
        except BaseException:
            self._directory.close()
            raise

    def put(self, content: memoryview, digests: U64) -> U64:
        """Append the blocks of ``content`` whose digest is not 0; the locations of all of them."""
        some = np.flatnonzero(digests != 0)
        if len(some) == len(digests):
            self._file.pwritev([content], self.data * BLOCK)
        elif len(some):
            size = BLOCK
            pieces = [content[at * size : (at + 1) * size] for at in some.tolist()]
            self._file.pwritev([b"".join(pieces)], self.data * size)
        locations = np.full(len(digests), ZERO_WORD, np.uint64)
        begin = DATA_WORD | rescued_address(self._number, self.data)
        locations[some] = np.uint64(begin) + np.arange(len(some), dtype=np.uint64)
        self.data += len(some)
        return locations

    def table(self, number: int, volume: bytes, meta: MapMeta, delta: DeltaMap) -> None:
        """Write a table: of a moment, or of the branch's end."""
        words = np.full(len(delta.zeroes), ZERO_WORD, np.uint64)
        starts, ends, _ = delta.zeroes.arrays()
        name = layout.branch_table_name(number)
        with closing(self._directory.open(name, create=True, exclusive=True)) as table:
            write_map(table, volume, meta, [delta], Ranges(starts, ends, words))

    def finish(self) -> None:
        """All files are durable, with their names, when it returns."""
        self._file.datasync()
        self._directory.sync()
        self._volume_directory.sync()

    def discard(self) -> None:
        """Remove what was written."""
        for name in self._names:
            with suppress(FileNotFoundError):
                self._directory.remove(name)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._directory.close()


class BranchFiles:
    """The blocks of a branch and one of its tables, open for reading; a drop that comes meanwhile takes only their
    names."""

    def __init__(self, directory: Directory, volume: bytes, branch: Branch, table: int) -> None:
        """``table``: one of ``branch.tables``. Damaged: it is not what was written, or a file is missing."""
        try:
            branches = directory.child(layout.BRANCHES)
            with closing(branches):
                self.table = MapFile.open(branches.open(layout.branch_table_name(table), write=False), volume)
                try:
                    self.blocks = branches.open(layout.branch_file_name(branch.file), write=False)
                except BaseException:
                    self.table.close()
                    raise
        except (Damaged, FileNotFoundError) as error:
            what = error.cause if isinstance(error, Damaged) else f"{error.filename} is missing."
            raise Damaged(
                "branch-damaged", f"Branch {branch.name} can't be read: {what}",
                "Run 'revolume check' on the stopped volume; the volume itself is not affected.",
            ) from error  # fmt: skip
        self.number = branch.file

    def close(self) -> None:
        """Close both."""
        self.table.close()
        self.blocks.close()


def sweep_branches(directory: Directory, branches: Iterable[Branch]) -> None:
    """Remove the files that none of these branches has: an attempt that a crash cut short, a branch dropped."""
    if not directory.exists(layout.BRANCHES):
        return
    kept = list(branches)
    named = {layout.branch_table_name(table) for branch in kept for table in branch.tables}
    named |= {layout.branch_file_name(branch.file) for branch in kept}
    with closing(directory.child(layout.BRANCHES)) as held:
        for name in held.names():
            if name not in named:
                with suppress(OSError):  # what the disk does not let go of now goes another time
                    held.remove(name)
