"""Which moments of a target's history are suspect, as its source has found out by a comparison. No I/O.

SUSPECT (source -> target): the rows of one comparison come in one or more frames, the last of which says so
     0  Q  number of these marks, drawn by the source, ascending     8 16s reign id of the opening whose write
           numbers these are
    24  Q  point at which the comparison began     32 I rows, at most 8192     36 B 1: the last frame; 2: there
           are no rows, and as of the point the whole target was found to be what the source is
    37  B  bytes of the cause     38 H zero     40 the cause, UTF-8, zeroes up to a multiple of 8
     …     rows x (Q first block, Q blocks, Q since write, Q until write); until 2 to 63 - 1: not repaired yet
SUSPECT_AT (target -> source): these marks are durable
     0  Q  their number
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from revolume.mirror.wire.codec import exact, strict
from revolume.mirror.wire.frames import CHECK_SIZE
from revolume.volume.suspect.marks import CAUSE_BYTES_MAX, Marks
from revolume.volume.suspect.suspect_rows import ROW, Rows, sound

_HEAD: Final = struct.Struct("<Q16sQIBBH")
_LAST, _EQUAL = 1, 2
ROWS_MAX: Final = 8192
MARKS_ROWS_MAX: Final = 1 << 20
"""Rows of one comparison: 32 MiB that the target holds until they are all there."""
SUSPECT_BODY_MAX: Final = _HEAD.size + CAUSE_BYTES_MAX + 8 + ROWS_MAX * ROW.itemsize + CHECK_SIZE

assert _HEAD.size == 40


@dataclass(frozen=True, slots=True)
class SuspectPart:
    """Some rows of the marks of this ``number``. ``equal``: at ``point`` the target is what it should be."""

    number: int
    reign: bytes
    point: int
    cause: str
    rows: Rows
    last: bool
    equal: bool = False


def pack_suspect_parts(number: int, marks: Marks) -> Iterator[bytes]:
    """The bodies of SUSPECT; one at least."""
    count = len(marks.rows)
    for at in range(0, max(count, 1), ROWS_MAX):
        rows = marks.rows[at : at + ROWS_MAX]
        yield _packed(number, marks, rows, last=at + ROWS_MAX >= count)


def pack_equal(number: int, point: int) -> bytes:
    """SUSPECT that says that nothing is, from a point on."""
    return _HEAD.pack(number, bytes(16), point, 0, _EQUAL, 0, 0)


def _packed(number: int, marks: Marks, rows: Rows, last: bool) -> bytes:
    cause = marks.cause.encode()[:CAUSE_BYTES_MAX]
    head = _HEAD.pack(number, marks.reign, marks.point, len(rows), _LAST * last, len(cause), 0)
    return head + cause.ljust(_padded(len(cause)), b"\0") + rows.tobytes()


def _padded(size: int) -> int:
    return -(-size // 8) * 8


@strict
def unpack_suspect_part(body: memoryview) -> SuspectPart:
    """SUSPECT. What its cause says ends up before a person, so nothing in it moves a cursor."""
    number, reign, point, count, kind, size, _ = _HEAD.unpack_from(body)
    if count > ROWS_MAX or size > CAUSE_BYTES_MAX or kind > _EQUAL or (kind == _EQUAL and count):
        raise ValueError(f"{count} rows in a frame of kind {kind}, {size} bytes of a cause")
    at = _HEAD.size + _padded(size)
    exact(body, at + count * ROW.itemsize)
    rows = np.frombuffer(body, ROW, count, at).copy()
    if not sound(rows):
        raise ValueError("a row names no blocks, or no writes")
    text = bytes(body[_HEAD.size : _HEAD.size + size]).decode(errors="replace")
    cause = "".join(character if character.isprintable() else " " for character in text)
    return SuspectPart(number, reign, point, cause, rows, kind == _LAST, kind == _EQUAL)
