"""The bodies of the edits about what folds have rescued for pinned moments.

RESCUE
  0      the moment as in HORIZON (88 bytes), whose address is of no use any more
 88  Q   numbers of tables and files below this have been given out
 96  I   tables     100 I files
104      rows of two numbers: table and its entries, then file and its blocks

DROP_RESCUE  Q write number of the moment
"""

from __future__ import annotations

import struct
from typing import Any, Final

from revolume.errors import Damaged
from revolume.volume.metadata.manifest_state import Rescue, RescueFile, RescueTable, State
from revolume.volume.metadata.moment_edits import HORIZON, pack_horizon, unpack_horizon
from revolume.volume.metadata.retention_record import RetentionRecord, lived_only
from revolume.volume.metadata.rung import rungs_above

_COUNTS: Final = struct.Struct("<QII")
_ROW: Final = struct.Struct("<QQ")

assert HORIZON.size + _COUNTS.size == 104


def pack_rescue(rescue: Rescue, following: int) -> bytes:
    """RESCUE. ``following``: numbers below have been given out."""
    rows = [(table.number, table.entries) for table in rescue.tables]
    rows += [(file.number, file.blocks) for file in rescue.files]
    counts = _COUNTS.pack(following, len(rescue.tables), len(rescue.files))
    return pack_horizon(rescue.moment) + counts + b"".join(_ROW.pack(*row) for row in rows)


def _unpack_rescue(body: bytes) -> tuple[Rescue, int]:
    moment = unpack_horizon(body)
    following, tables, files = _COUNTS.unpack_from(body, HORIZON.size)
    rows = list(_ROW.iter_unpack(body[HORIZON.size + _COUNTS.size :]))
    if len(rows) != tables + files:
        raise Damaged("manifest-damaged", "A rescue in the manifest is not whole.", "Restore it from a mirror.")
    made = Rescue(
        moment, tuple(RescueTable(*row) for row in rows[:tables]), tuple(RescueFile(*row) for row in rows[tables:])
    )
    return made, following


def rescued(state: State, body: bytes) -> tuple[tuple[Rescue, ...], int]:
    """The rescues after RESCUE, by their moments, and the next number of a file. Damaged: it is not whole."""
    made, following = _unpack_rescue(body)
    rescues = (*without_rescue(state, made.moment.write), made)
    return tuple(sorted(rescues, key=lambda rescue: rescue.moment.write)), max(state.next_rescue, following)


def without_rescue(state: State, write: int) -> tuple[Rescue, ...]:
    """The rescues but for the one of the moment of this write number."""
    return tuple(rescue for rescue in state.rescues if rescue.moment.write != write)


def known_lived(state: State, rescues: tuple[Rescue, ...]) -> RetentionRecord:
    """The ages of points that are neither the image's nor among those with these rescues are forgotten."""
    known = {state.horizon.write, *(each.moment.write for each in rescues)}
    return lived_only(state.retention, known)


def without_passed(state: State) -> dict[str, Any]:
    """What is forgotten at a new horizon, as changes of the state: early ends of segments that lie wholly behind
    it, rungs that do, and the ages of points that only the image had."""
    first = state.horizon.address // state.segment_blocks if state.segment_blocks else 0
    ends = {use: end for use, end in state.ends.items() if use >= first}
    rungs = rungs_above(state.rungs, state.horizon.point)
    return {"ends": ends, "rungs": rungs, "retention": known_lived(state, state.rescues)}
