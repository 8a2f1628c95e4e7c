"""A member's resync point, and its bytes: the same in a fact of the log and in an edit of the manifest.

0  Q   point     8 Q write number     16 16s node id     32 name, UTF-8
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import WriteNumber

_POINT: Final = struct.Struct("<QQ16s")


@dataclass(frozen=True, slots=True)
class ResyncPoint:
    """The copy ``node``, which is the member ``name``, stands at this consistency point or at a later one: who
    knows what has changed since can bring it up to date. ``write``: the point's last."""

    name: str
    node: bytes
    point: int
    write: WriteNumber


def pack_resync_point(resync: ResyncPoint) -> bytes:
    """A resync point."""
    return _POINT.pack(resync.point, resync.write, resync.node) + resync.name.encode()


def unpack_resync_point(data: bytes) -> ResyncPoint:
    """The one that fills ``data``. ValueError, struct.error: it is none."""
    point, write, node = _POINT.unpack_from(data)
    name = data[_POINT.size :].decode()
    if not name or not name.isprintable():
        raise ValueError("a name that nobody can read")
    return ResyncPoint(name, node, point, WriteNumber(write))
