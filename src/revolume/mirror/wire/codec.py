"""What the codecs of the messages share: the end of a log, identities, and strictness. No I/O.

END, 64 bytes: where a log ends
     0  Q  position      8 Q epoch     16 16s reign id     32 16s chain checksum     48 Q write     56 Q time, ns
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from revolume.blocks.numbers import Position, WriteNumber
from revolume.mirror.wire.frames import ProtocolError
from revolume.volume.open.log_identity import End

END: Final = struct.Struct("<QQ16s16sQQ")
assert END.size == 64

NOWHERE: Final = End(
    position=Position(0), epoch=0, reign=bytes(16), chain=bytes(16), write=WriteNumber(0), time_ns=0
)
"""Where the log of an empty target ends."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which transfer lies at a position: equal, and the logs are the same up to there."""

    epoch: int
    reign: bytes
    chain: bytes


@dataclass(frozen=True, slots=True)
class Pin:
    """A consistency point by what proves it to be the same one."""

    number: int
    position: Position
    chain: bytes


PIN: Final = struct.Struct("<QQ16s")
PINS_MAX: Final = 64
"""So many points are named at most."""

NOBODY: Final = Identity(0, bytes(16), bytes(16))
"""Where no identity is known."""
NO_PIN: Final = Pin(0, Position(0), bytes(16))
"""Where no point is held."""


def pack_pins(pins: Sequence[Pin]) -> bytes:
    """Rows of Q number, Q position, 16s chain checksum."""
    return b"".join(PIN.pack(pin.number, pin.position, pin.chain) for pin in pins)


def unpack_pins(data: bytes | memoryview) -> tuple[Pin, ...]:
    """The rows that fill ``data``. ValueError: more than may be."""
    if len(data) > PINS_MAX * PIN.size:
        raise ValueError(f"more than {PINS_MAX} points")
    return tuple(Pin(number, Position(position), chain) for number, position, chain in PIN.iter_unpack(data))


def pack_end(end: End) -> bytes:
    """END."""
    return END.pack(end.position, end.epoch, end.reign, end.chain, end.write, end.time_ns)


def unpack_end(data: bytes | memoryview) -> End:
    """END."""
    return End(*END.unpack(data))


Message = TypeVar("Message")


def strict(unpack: Callable[[memoryview], Message]) -> Callable[[memoryview], Message]:
    """What a body's bytes can't be made into is the peer's fault."""

    def checked(body: memoryview) -> Message:
        try:
            return unpack(body)
        except (struct.error, ValueError) as error:
            raise ProtocolError(f"A message is not what its type says: {error}.") from None

    return checked


def exact(body: memoryview, size: int) -> None:
    if len(body) != size:
        raise ValueError(f"{len(body)} bytes instead of {size}")
