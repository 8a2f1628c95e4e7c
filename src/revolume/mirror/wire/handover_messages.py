"""A primary hands over to its mirror: the last thing that is said in a session. No I/O.

HANDOVER (source)
     0  Q  position at which its log ends     8 16s chain checksum there     24 Q number of the last point
    32  H  bytes of the address     34 the address, UTF-8: where the source listens from now on, as a mirror

HANDED_OVER (target): nothing. It has all of that, durably, and is being promoted.

The source is a mirror's copy already when it says HANDOVER, durably: there is no primary until the target is one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import Position
from revolume.mirror.wire.codec import exact, strict

HANDOVER: Final = struct.Struct("<Q16sQH")
ADDRESS_BYTES_MAX: Final = 1024

assert HANDOVER.size == 34


@dataclass(frozen=True, slots=True)
class Handover:
    """Where the source's log ends, its last point, and where it is found as a mirror."""

    position: Position
    chain: bytes
    point: int
    address: str


def pack_handover(handover: Handover) -> bytes:
    """HANDOVER."""
    address = handover.address.encode()
    assert len(address) <= ADDRESS_BYTES_MAX
    return HANDOVER.pack(handover.position, handover.chain, handover.point, len(address)) + address


@strict
def unpack_handover(body: memoryview) -> Handover:
    """HANDOVER."""
    position, chain, point, size = HANDOVER.unpack_from(body)
    exact(body, HANDOVER.size + size)
    return Handover(Position(position), chain, point, bytes(body[HANDOVER.size :]).decode())
