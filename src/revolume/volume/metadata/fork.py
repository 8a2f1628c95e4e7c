"""The point of a promotion, as the manifest has it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import WriteNumber

_FORK: Final = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class Fork:
    """The point at which this copy was promoted, to its ``opening`` of this number: members that have not been
    seen since may have gone another way behind it."""

    opening: int
    point: int
    write: WriteNumber


def pack_fork(fork: Fork) -> bytes:
    """FORK: number of the opening that began there, point, write number."""
    return _FORK.pack(fork.opening, fork.point, fork.write)


def unpack_fork(body: bytes) -> Fork:
    """FORK."""
    return Fork(*_FORK.unpack(body))
