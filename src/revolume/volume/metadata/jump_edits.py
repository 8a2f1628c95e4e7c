"""The body of JUMP: what has arrived of a jump, and the point that it leads to.

  0      the point as in HORIZON (88 bytes); address and pages generation are 0
 88  Q   the number of the common point     96 Q every changed block below this one has arrived
104  Q   blocks with content               112 Q position up to which names and members are known
120  B   1: flipped     121 3x zero        124 I tables     128 I openings     132 I snapshots     136 I members
140      rows: tables (Q number, Q entries); openings as in EPOCH (40 bytes); then snapshots as in SNAPSHOT and
         members as in MEMBERSHIP, each behind its size (I)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from revolume.errors import Damaged
from revolume.volume.metadata.jump_table import JumpTable
from revolume.volume.metadata.manifest_state import Jump, JumpTarget
from revolume.volume.metadata.member_record import pack_membership, unpack_membership
from revolume.volume.metadata.moment_edits import (
    EPOCH,
    HORIZON,
    pack_epochs,
    pack_horizon,
    pack_snapshot,
    unpack_epochs,
    unpack_horizon,
    unpack_snapshot,
)

_HEAD: Final = struct.Struct("<QQQQB3xIIII")
_TABLE: Final = struct.Struct("<QQ")
_SIZE: Final = struct.Struct("<I")

assert HORIZON.size + _HEAD.size == 140


def pack_jump(jump: Jump) -> bytes:
    """JUMP."""
    to = jump.target
    counts = len(jump.tables), len(to.epochs), len(to.snapshots), len(to.members)
    head = _HEAD.pack(to.since, jump.next_block, jump.blocks, to.names_position, jump.flipped, *counts)
    tables = b"".join(_TABLE.pack(table.number, table.entries) for table in jump.tables)
    sized = _sized([*map(pack_snapshot, to.snapshots), *map(pack_membership, to.members)])
    return pack_horizon(to.point) + head + tables + pack_epochs(to.epochs) + sized


def unpack_jump(body: bytes) -> Jump:
    """JUMP. Damaged: it is not whole."""
    try:
        return _unpacked(body)
    except (ValueError, struct.error) as error:
        raise Damaged(
            "manifest-damaged", "A jump in the manifest is not whole.", "Restore it from a mirror."
        ) from error


def _unpacked(body: bytes) -> Jump:
    point = unpack_horizon(body)
    since, next_block, blocks, names, flipped, *counts = _HEAD.unpack_from(body, HORIZON.size)
    at = HORIZON.size + _HEAD.size
    epochs_at = at + counts[0] * _TABLE.size
    rest_at = epochs_at + counts[1] * EPOCH.size
    tables = tuple(JumpTable(*row) for row in _TABLE.iter_unpack(body[at:epochs_at]))
    pieces = list(_pieces(body[rest_at:]))
    if len(pieces) != counts[2] + counts[3]:
        raise ValueError("rows are missing")
    snapshots = tuple(unpack_snapshot(piece) for piece in pieces[: counts[2]])
    members = tuple(unpack_membership(piece) for piece in pieces[counts[2] :])
    target = JumpTarget(point, unpack_epochs(body[epochs_at:rest_at]), snapshots, names, members, since)
    return Jump(target, next_block, tables, blocks, bool(flipped))


def _sized(pieces: Iterable[bytes]) -> bytes:
    return b"".join(_SIZE.pack(len(piece)) + piece for piece in pieces)


def _pieces(data: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        if at + _SIZE.size + size > len(data):
            raise ValueError("a row is cut off")
        yield data[at + _SIZE.size : at + _SIZE.size + size]
        at += _SIZE.size + size
