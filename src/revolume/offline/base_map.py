"""The base map, which an opening would start from, compared with what the log says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.word import ADDRESS_MASK, ZERO
from revolume.chain.mapfile import MapFile
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.offline.findings import Findings
from revolume.offline.walked import Walked
from revolume.volume.manifest import State

MASK = np.uint64(ADDRESS_MASK)


def verify_base_map(maps: Directory, state: State, walked: Walked, findings: Findings) -> None:
    """The map that the manifest names, if it names one."""
    if not state.base_map:
        return
    where = f"maps/{state.base_map}"
    if not maps.exists(state.base_map):
        findings.say(where, "is missing (it will be made anew)")
        return
    base = MapFile.open(maps.open(state.base_map, write=False), state.volume)
    try:
        base.verify()
        if not _agrees(base, state, walked):
            findings.say(where, "disagrees with the log")
    except Damaged as error:
        findings.say(where, error.cause)
    finally:
        base.close()


def _agrees(base: MapFile, state: State, walked: Walked) -> bool:
    if base.meta.address <= state.horizon.address:
        return True
    expected = walked.newest(state.horizon.write, base.meta.write)
    have = [chunk for chunk in base.chunks() if len(chunk[0])]
    blocks = np.concatenate([c[0] for c in have]) if have else np.zeros(0, np.uint64)
    words = np.concatenate([c[1] for c in have]) if have else np.zeros(0, np.uint64)
    kept = (words & MASK) >= np.uint64(state.horizon.address)
    kept &= ~np.isin(words, _older(state, walked))
    return np.array_equal(blocks[kept], expected.blocks) and np.array_equal(
        _comparable(words[kept]), _comparable(expected.words)
    )


def _comparable(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Of zeroes only that they are zeroes: a mirror's map places them at the cut of the point that states them,
    the log where they were written, and nothing is read from either place."""
    return np.where(words >> np.uint64(62) == np.uint64(ZERO), np.uint64(ZERO << 62), words)


def _older(state: State, walked: Walked) -> npt.NDArray[np.uint64]:
    """Words of versions that lie behind the horizon's cut although they are not newer than it: its point's
    record. A map may still name them; the image holds the same."""
    found = [np.zeros(0, np.uint64)]
    for columns in walked.pieces:
        versions = columns.versions()
        found.append(versions.words[versions.asof <= np.uint64(state.horizon.write)])
    return np.concatenate(found)
