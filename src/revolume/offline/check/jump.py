"""A jump: every table and every block that has arrived; once flipped, the image that it will be a part of.

A flipped jump that no opening has put into the image yet is no damage. The image may hold any part of it then, so
only its other blocks are held against their digests; the sum over these and what has arrived is the new point's
volume root."""

from __future__ import annotations

from contextlib import ExitStack, closing

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import LOST_DIGEST
from revolume.errors import Damaged
from revolume.host.disk import Directory, File
from revolume.offline.check.image import hold
from revolume.offline.walk.check_context import CheckContext
from revolume.offline.walk.tolerant_read import runs
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.jump.jump_tables import indexes, open_table, with_content
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Jump, State

U64 = npt.NDArray[np.uint64]


def jumped_sentence(state: State) -> str:
    """What is still to be done to a copy that has jumped; else empty."""
    jump = state.jumped
    if jump is None:
        return ""
    point = jump.target.point.point
    return f"{state.name} has jumped to cp{point}; what arrived is put into its image when it is opened next."


def verify_jump(directory: Directory, state: State, held: ExitStack, context: CheckContext) -> BlockSet:
    """Verify what the manifest says has arrived; which blocks that are."""
    jump = state.jump
    if jump is None or not jump.tables:
        return BlockSet()
    try:
        staged = held.enter_context(closing(directory.child(layout.JUMP)))
        file = held.enter_context(closing(staged.open(layout.JUMP_BLOCKS, write=False)))
    except FileNotFoundError as error:
        context.add_problem(layout.JUMP, f"{error.filename} is missing")
        return BlockSet()
    arrived, last = list[BlockSet](), -1
    for number, entries in ((table.number, table.entries) for table in jump.tables):
        where = f"{layout.JUMP}/{layout.jump_table_name(number)}"
        try:
            with closing(open_table(staged, state.volume, number)) as table:
                if table.verify() != entries:
                    context.add_problem(where, f"has {len(table)} entries, not {entries}")
                for piece in table.pieces():
                    if int(piece.blocks[0]) <= last:
                        context.add_problem(where, "does not follow on the table before it")
                    last = int(piece.blocks[-1])
                    _verify_blocks(file, piece, context)
                    arrived.append(BlockSet.of_blocks(piece.blocks))
        except (Damaged, FileNotFoundError) as error:
            context.add_problem(where, error.cause if isinstance(error, Damaged) else "is missing")
    none = np.zeros(0, np.uint64)
    starts, ends = [each.starts for each in arrived], [each.ends for each in arrived]
    return BlockSet.of_intervals(np.concatenate([none, *starts]), np.concatenate([none, *ends]))


def _verify_blocks(file: File, piece: DeltaMap, context: CheckContext) -> None:
    data = with_content(piece)
    data = data.entries(data.digests != np.uint64(LOST_DIGEST))
    for run in runs(file, indexes(data), data.digests):
        context.blocks += run.count
        context.bytes_read += len(run.data)
        for index in run.wrong:
            where = f"{layout.JUMP}/{layout.JUMP_BLOCKS} block {run.first + index}"
            context.add_problem(where, "is not what arrived")


def verify_jumped_image(
    image: File, sums: BlockDigests, directory: Directory, jump: Jump, arrived: BlockSet, context: CheckContext
) -> None:
    """Compare the blocks that the jump leaves alone with their digests, and the sum over these and what has
    arrived with the new point's volume root. Damaged: the digests themselves are."""
    sums.verify()
    root = roots.EMPTY
    for blocks, digests in sums.within(0, sums.blocks):
        kept = ~arrived.contains(blocks)
        hold(image, blocks[kept], digests[kept], context)
        root = roots.add(root, blocks[kept], digests[kept])
    if jump.tables:
        with closing(directory.child(layout.JUMP)) as staged:
            for table in jump.tables:
                with closing(open_table(staged, sums.volume, table.number)) as opened:
                    for piece in opened.pieces():
                        root = roots.add(root, piece.blocks, piece.digests)
    point = jump.target.point
    if root != (point.root_low, point.root_high):
        context.add_problem(layout.JUMP, f"the sum over all blocks is not the volume root of cp{point.point}")
