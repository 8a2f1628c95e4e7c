"""A rung of the ladder, as the manifest has it: a map file of what changed between two points.

RUNG
  0  Q  number, of its file      8  I  level: how often stretches were merged for it, 0: made from the log
 12  I  zero ranges in it       16  Q  entries in it
 24  Q  point behind which it begins     32  Q  write of that
 40  Q  point up to which it goes        48  Q  write      56  Q  position      64  Q  address of that one's cut

DROP_RUNGS  rows of Q, numbers; empty: all of them
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import Address, Position, WriteNumber

_RUNG: Final = struct.Struct("<QIIQQQQQQQ")
_NUMBER: Final = struct.Struct("<Q")

assert _RUNG.size == 72


@dataclass(frozen=True, slots=True)
class Rung:
    """What changed behind point ``after`` (at write ``after_write``) up to ``point``, whose cut lies at ``write``,
    ``position`` and ``address``: in the file of this ``number``."""

    number: int
    level: int
    ranges: int
    entries: int
    after: int
    after_write: WriteNumber
    point: int
    write: WriteNumber
    position: Position
    address: Address


Rungs = tuple[Rung, ...]


def pack_rung(rung: Rung) -> bytes:
    """RUNG."""
    return _RUNG.pack(
        rung.number, rung.level, rung.ranges, rung.entries, rung.after, rung.after_write,
        rung.point, rung.write, rung.position, rung.address,
    )  # fmt: skip


def changed_rungs(rungs: Rungs, made: bool, body: bytes) -> Rungs:
    """The rungs after RUNG (``made``) or DROP_RUNGS."""
    return _with_rung(rungs, body) if made else _without_rungs(rungs, body)


def _with_rung(rungs: Rungs, body: bytes) -> Rungs:
    """By the points up to which they go, the shorter first."""
    made = Rung(*_RUNG.unpack(body))
    others = (rung for rung in rungs if rung.number != made.number)
    return tuple(sorted((*others, made), key=lambda rung: (rung.point, -rung.after)))


def pack_dropped(numbers: Iterable[int]) -> bytes:
    """DROP_RUNGS."""
    return b"".join(_NUMBER.pack(number) for number in numbers)


def _without_rungs(rungs: Rungs, body: bytes) -> Rungs:
    gone = {number for (number,) in _NUMBER.iter_unpack(body)}
    return tuple(rung for rung in rungs if rung.number not in gone) if gone else ()


def rungs_above(rungs: Rungs, point: int) -> Rungs:
    """Those that say anything the image at a point does not."""
    return tuple(rung for rung in rungs if rung.point > point)


def rungs_upto(rungs: Rungs, position: Position) -> Rungs:
    """Those of a log that was cut behind a position."""
    return tuple(rung for rung in rungs if rung.position <= position)
