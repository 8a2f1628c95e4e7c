"""What was rescued for pinned moments: every table, every block's digest, and each moment's volume root."""

from __future__ import annotations

from contextlib import ExitStack, closing

import numpy as np

from revolume.blocks.block_location import ADDRESS_MASK, DATA, RESCUED, RESCUED_SHIFT, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.chain.map_file import MapFile
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.offline.walk.check_context import CheckContext
from revolume.offline.walk.tolerant_read import runs
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Rescue, Role, State
from revolume.volume.rescue.moment_roots import rescued_pieces, root_before

INDEX = np.uint64((1 << RESCUED_SHIFT) - 1)
NOT_RESCUED = "lies before the horizon, and nothing was rescued for it"
NUMBER = np.uint64(RESCUED >> RESCUED_SHIFT) - np.uint64(1)


def verify_rescued(
    directory: Directory, sums: BlockDigests, state: State, held: ExitStack, context: CheckContext
) -> None:
    """Verify what the manifest says has been rescued. The files are closed with ``held``."""
    if not state.kept_writes() & {rescue.moment.write for rescue in state.rescues}:
        return  # nobody reads what may be there: a crash left it
    rescued = directory
    if any(
        rescue.tables for rescue in state.rescues
    ):  # there may be moments for which nothing was overwritten yet
        rescued = held.enter_context(closing(directory.child(layout.RESCUE)))
    newer: list[MapFile] = []
    root = state.horizon.root_low, state.horizon.root_high
    for rescue in reversed(state.rescues):
        where = f"rescue of w{rescue.moment.write}"
        try:
            tables = _tables(rescued, state, rescue, held)
        except (Damaged, FileNotFoundError) as error:
            context.add_problem(where, error.cause if isinstance(error, Damaged) else "a table is missing")
            return  # what is older can't be followed
        for piece in rescued_pieces(tables):
            _verify_blocks(rescued, piece, where, context)
            root = root_before(root, piece, newer, sums)
        # Else the digests may be of the fold or the jump that was under way, or the base is not complete.
        settled = state.folding <= state.horizon.write and state.base is None and state.jumped is None
        stated = rescue.moment.root_low, rescue.moment.root_high
        if settled and root != stated and not context.periods.within(rescue.moment.write):
            context.add_problem(where, "the sum over all blocks is not the volume root of its point")
        newer = tables + newer


def verify_snapshots(state: State, context: CheckContext) -> None:
    """What is pinned is retained: the horizon has not left it, or what folds overwrote since was rescued."""
    kept = {rescue.moment.write for rescue in state.rescues}
    for snapshot in state.snapshots:
        context.moments += 1
        if snapshot.write < state.horizon.write and snapshot.write not in kept:
            context.add_problem(f"snapshot {snapshot.name}", NOT_RESCUED)
    if state.role != Role.PRIMARY:
        return  # what was kept for mirrors means nothing at a copy
    for mirror in state.mirrors:
        for pin in mirror.pinned:
            context.moments += 1
            if pin.write < state.horizon.write and pin.write not in kept:
                context.add_problem(f"cp{pin.point}, pinned for mirror {mirror.name}", NOT_RESCUED)


def _tables(rescued: Directory, state: State, rescue: Rescue, held: ExitStack) -> list[MapFile]:
    tables = []
    for number in (table.number for table in rescue.tables):
        file = rescued.open(layout.rescue_table_name(number), write=False)
        tables.append(held.enter_context(closing(MapFile.open(file, state.volume))))
        tables[-1].verify()
    return tables


def _verify_blocks(rescued: Directory, piece: DeltaMap, where: str, context: CheckContext) -> None:
    data = piece.entries(kinds(piece.locations) == np.uint64(DATA))
    places = data.locations & np.uint64(ADDRESS_MASK)
    numbers = places >> np.uint64(RESCUED_SHIFT) & NUMBER
    for number in sorted(set(numbers.tolist())):
        chosen = np.flatnonzero(numbers == number)
        chosen = chosen[np.argsort(places[chosen])]
        name = layout.rescue_file_name(number)
        with closing(rescued.open(name, write=False)) as file:
            for run in runs(file, places[chosen] & INDEX, data.digests[chosen]):
                context.blocks += run.count
                context.bytes_read += len(run.data)
                for index in run.wrong:
                    context.add_problem(f"{where}, block {run.first + index} of {name}", "is not what it was")
