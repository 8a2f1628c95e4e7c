"""The rungs of the ladder, through which moments are opened, compared with what the log says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ZERO, addresses, kinds
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap
from revolume.chain.map_file import MapFile
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.offline.check.base_map import older_locations
from revolume.offline.walk.check_context import CheckContext
from revolume.offline.walk.log_walk import LogRecords
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.rung import Rung


def verify_rungs(maps: Directory, state: State, records: LogRecords, context: CheckContext) -> None:
    """Verify the map file of each rung that the manifest names, and compare it with the newest versions that the
    log has of its stretch."""
    for number, rung in enumerate(state.rungs):
        context.progress("maps", number, len(state.rungs))
        name = layout.rung_name(rung.number)
        where = f"maps/{name}"
        if not maps.exists(name):
            context.add_problem(where, "is missing (it will be made anew)")
            continue
        try:
            file = MapFile.open(maps.open(name, write=False), state.volume)
        except Damaged as error:
            context.add_problem(where, error.cause)
            continue
        try:
            file.verify()
            if not _says_what_the_manifest_says(file, rung):
                context.add_problem(where, "is another map than the manifest says")
            elif not _agrees(file, rung, state, records):
                context.add_problem(where, "disagrees with the log")
        except Damaged as error:
            context.add_problem(where, error.cause)
        finally:
            file.close()


def _says_what_the_manifest_says(file: MapFile, rung: Rung) -> bool:
    meta = file.meta
    return (meta.after, meta.write, meta.address, meta.point, len(file)) == (
        rung.after_write, rung.write, rung.address, rung.point, rung.entries
    )  # fmt: skip


def _agrees(file: MapFile, rung: Rung, state: State, records: LogRecords) -> bool:
    """Of what the horizon has passed of it the log says nothing any more."""
    horizon = state.horizon
    want = records.newest(max(rung.after_write, horizon.write), rung.write).delta
    have = DeltaMap.joined(file.pieces()).with_zeroes(file.ranges())
    if rung.after_write < horizon.write:
        have = _behind(have, state, records)
    data, expected = (delta.entries(kinds(delta.locations) != np.uint64(ZERO)) for delta in (have, want))
    return (
        np.array_equal(data.blocks, expected.blocks)
        and np.array_equal(data.locations, expected.locations)
        and np.array_equal(data.digests, expected.digests)
        and _reading_as_zero(have, data.blocks) == _reading_as_zero(want, expected.blocks)
    )


def _behind(have: DeltaMap, state: State, records: LogRecords) -> DeltaMap:
    """What of a rung lies behind the horizon."""
    kept = addresses(have.locations) >= np.uint64(state.horizon.address)
    kept &= ~np.isin(have.locations, older_locations(state, records))
    return have.entries(kept).with_zeroes(have.zeroes.without_below(state.horizon.address))


def _reading_as_zero(delta: DeltaMap, data: npt.NDArray[np.uint64]) -> BlockSet:
    """However that is stated: a mirror has it from the points' records, as runs."""
    return delta.zero_runs().difference(BlockSet.of_blocks(data))
