"""The base map, which an opening would start from, compared with what the log says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ZERO, addresses, kinds, pack
from revolume.blocks.delta_map import DeltaMap
from revolume.chain.map_file import MapFile
from revolume.chain.versions import NO_WRITE, of_writes
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.offline.walk.check_context import CheckContext
from revolume.offline.walk.log_walk import LogRecords
from revolume.volume.metadata.manifest_state import State


def verify_base_map(maps: Directory, state: State, records: LogRecords, context: CheckContext) -> None:
    """Verify the map file that the manifest names, and compare it with the newest versions in the log."""
    if not state.base_map:
        return
    where = f"maps/{state.base_map}"
    if not maps.exists(state.base_map):
        context.add_problem(where, "is missing (it will be rebuilt)")
        return
    base = MapFile.open(maps.open(state.base_map, write=False), state.volume)
    try:
        base.verify()
        if not _agrees(base, state, records):
            context.add_problem(where, "disagrees with the log")
    except Damaged as error:
        context.add_problem(where, error.cause)
    finally:
        base.close()


def _agrees(base: MapFile, state: State, records: LogRecords) -> bool:
    if base.meta.address <= state.horizon.address:
        return True
    expected = records.newest(state.horizon.write, base.meta.write).delta
    have = DeltaMap.joined(base.pieces())
    kept = addresses(have.locations) >= np.uint64(state.horizon.address)
    kept &= ~np.isin(have.locations, older_locations(state, records))
    have = have.entries(kept)
    return np.array_equal(have.blocks, expected.blocks) and np.array_equal(
        _comparable(have.locations), _comparable(expected.locations)
    )


def _comparable(locations: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The locations with the addresses of zeroes removed: a mirror's map places zeroes at the cut of the point
    that states them, the log where they were written, and nothing is read from either."""
    return np.where(kinds(locations) == ZERO, np.uint64(pack(ZERO, 0)), locations)


def older_locations(state: State, records: LogRecords) -> npt.NDArray[np.uint64]:
    """Locations of versions that the horizon includes although they lie after its cut: those in its point's
    record. A map may name them; the image holds the same content."""
    found = [np.zeros(0, np.uint64)]
    for columns in of_writes(records.pieces, NO_WRITE, state.horizon.write):
        versions = columns.versions()
        found.append(versions.words[versions.asof <= np.uint64(state.horizon.write)])
    return np.concatenate(found)
