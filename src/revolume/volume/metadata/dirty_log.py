"""The dirty region log of a mirror, as the manifest has it.

DIRTY
  0  Q   the mirror's last agreed point: number, 8 Q write number, 16 Q position, 24 Q time, 32 16s chain checksum
 48  Q   the file's number; 0: the mirror has no dirty region log any more, and every number here is 0
 56  Q   point, 64 Q write number and 72 Q position up to which the file is complete
 80  Q   blocks that the file names
 88      name of the mirror in UTF-8
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.errors import Damaged

if TYPE_CHECKING:
    from revolume.chain.point import Point

_DIRTY: Final = struct.Struct("<QQQQ16sQQQQQ")

assert _DIRTY.size == 88


@dataclass(frozen=True, slots=True)
class DirtyLog:
    """The dirty region log of the ``mirror`` of this name: a file, of this number, that names every block changed
    since the mirror's last agreed point ``since`` and up to the write ``write``, which is that of ``point``, cut
    at ``position``. What changed behind that is in the log. ``blocks``: so many are named."""

    mirror: str
    since: Point
    file: int
    point: int
    write: WriteNumber
    position: Position
    blocks: int


def agreed_point(point: Point) -> Point:
    """What a dirty region log knows of a mirror's last agreed point."""
    return _point(point.number, point.write, point.position, point.time_ns, point.chain)


def _point(number: int, write: WriteNumber, position: Position, time_ns: int, chain: bytes) -> Point:
    from revolume.chain.point import Point  # not before: verbs know the manifest, and do not wait for numpy

    return Point(
        number=number, previous=0, position=position, write=write, time_ns=time_ns, epoch=0, digest=0, root=(0, 0),
        chain=chain, changed_blocks=0, address=Address(0), record=Address(0),
    )  # fmt: skip


def pack_dirty(dirty: DirtyLog) -> bytes:
    """DIRTY."""
    since = dirty.since
    head = _DIRTY.pack(
        since.number, since.write, since.position, since.time_ns, since.chain,
        dirty.file, dirty.point, dirty.write, dirty.position, dirty.blocks,
    )  # fmt: skip
    return head + dirty.mirror.encode()


def pack_clean(mirror: str) -> bytes:
    """DIRTY of a mirror that has no dirty region log any more."""
    return bytes(_DIRTY.size) + mirror.encode()


def dirtied(logs: tuple[DirtyLog, ...], body: bytes) -> tuple[DirtyLog, ...]:
    """The dirty region logs after DIRTY, in order of the mirrors' names. Damaged: it is not whole."""
    if len(body) <= _DIRTY.size:
        raise Damaged("manifest-damaged", "A dirty region log in the manifest is not whole.", "Restore it.")
    number, write, position, time_ns, chain, file, *upto = _DIRTY.unpack_from(body)
    mirror = body[_DIRTY.size :].decode()
    others = without_dirty(logs, mirror)
    if not file:
        return others
    made = DirtyLog(mirror, _point(number, write, position, time_ns, chain), file, *upto)
    return tuple(sorted((*others, made), key=lambda each: each.mirror))


def without_dirty(logs: tuple[DirtyLog, ...], mirror: str) -> tuple[DirtyLog, ...]:
    """All but that of this mirror."""
    return tuple(each for each in logs if each.mirror != mirror)
