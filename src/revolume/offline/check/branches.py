"""Branches: each table, each version's digest, and that the point it begins at is still there."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, RESCUED_SHIFT, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.offline.check.rescued import NOT_RESCUED
from revolume.offline.walk.check_context import CheckContext
from revolume.offline.walk.tolerant_read import runs
from revolume.volume.branches.branch_files import BranchFiles
from revolume.volume.metadata.manifest_state import Branch, State

INDEX = np.uint64((1 << RESCUED_SHIFT) - 1)


def verify_branches(directory: Directory, state: State, context: CheckContext) -> None:
    """Verify all of them. Problems are added to ``context``."""
    kept = {rescue.moment.write for rescue in state.rescues}
    if state.jumped is not None:  # on the way back to where a branch begins
        kept.add(state.jumped.target.point.write)
    for branch in state.branches:
        where = f"branch {branch.name}"
        context.moments += 1
        if branch.common.write < state.horizon.write and branch.common.write not in kept:
            context.add_problem(where, NOT_RESCUED)
        _Verification(directory, state.volume, branch, context).run()


class _Verification:
    """Of one branch: of each of its tables, and of each version of a block once."""

    def __init__(self, directory: Directory, volume: bytes, branch: Branch, context: CheckContext) -> None:
        self._directory = directory
        self._volume = volume
        self._branch = branch
        self._context = context
        self._seen = np.zeros(branch.data, bool)

    def run(self) -> None:
        branch, where = self._branch, f"branch {self._branch.name}"
        whole = self._read(branch.table, where)
        for moment in branch.moments:
            self._context.moments += 1
            whole &= self._read(moment.table, f"{where}, {moment.name}")
        data = int(self._seen.sum())
        if whole and data != branch.data:
            self._context.add_problem(where, f"its tables lead to {data} blocks, and {branch.data} were kept")

    def _read(self, number: int, where: str) -> bool:
        """Whether the table is what was written."""
        try:
            self._table(number, where)
        except Damaged as error:
            self._context.add_problem(where, error.cause)
            return False
        return True

    def _table(self, number: int, where: str) -> None:
        with ExitStack() as held:
            files = BranchFiles(self._directory, self._volume, self._branch, number)
            held.callback(files.close)
            files.table.verify()
            for piece in files.table.pieces():
                found = piece.entries(kinds(piece.locations) == np.uint64(DATA))
                _verify_blocks(files, self._new(found, where), where, self._context)

    def _new(self, found: DeltaMap, where: str) -> DeltaMap:
        """Those that no table before has led to."""
        places = _places(found)
        beyond = places >= np.uint64(len(self._seen))
        if beyond.any():
            self._context.add_problem(where, f"its table leads beyond the {len(self._seen)} blocks that were kept")
        new = ~beyond
        new[new] = ~self._seen[places[new]]
        self._seen[places[new]] = True
        return found.entries(new)


def _places(data: DeltaMap) -> npt.NDArray[np.uint64]:
    return data.locations & np.uint64(ADDRESS_MASK) & INDEX


def _verify_blocks(files: BranchFiles, data: DeltaMap, where: str, context: CheckContext) -> None:
    lost = int((data.digests == np.uint64(LOST_DIGEST)).sum())
    if lost:
        context.add_problem(where, f"{lost} of its blocks could not be read any more when it was made")
    data = data.entries(data.digests != np.uint64(LOST_DIGEST))
    places = _places(data)
    for run in runs(files.blocks, places, data.digests):
        context.blocks += run.count
        context.bytes_read += len(run.data)
        for index in run.wrong:
            name = f"block {run.first + index} of {files.blocks.name}"
            context.add_problem(f"{where}, {name}", "is not what it was")
