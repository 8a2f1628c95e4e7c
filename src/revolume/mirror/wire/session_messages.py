"""What is said while a target is mirrored to: refusals, positions, epochs, the progress of a base. No I/O.

REFUSED (both)
     0  H  bytes of the code     2 H bytes of the cause     4 H bytes of the hint     6 the three, UTF-8

EPOCH      0 Q epoch     8 16s reign id
SYNC       0 Q position
POSITIONS  0 Q received     8 Q durable     16 Q agreed point     24 Q its position
BASE_AT    0 Q first block that is not stored
BASE_END   0 Q number of the base's point     8 Q blocks sent since the beginning of this session
BASE_DONE  0 Q number of the base's point
PING       nothing
DIVERGED   0 Q point at which the target's volume root was not the source's, and it went on; 0: it is equal again
LEASE      0 Q number of the question that it answers, 0: an offer     8 I ms     12 I zero
LEASE_ASK  0 Q number of the question, from 1 on     8 B 1: this copy has recorded that it is detached when lost
           9 7x zero
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.mirror.wire.codec import exact, strict
from revolume.volume.members.positions import Positions

REFUSED: Final = struct.Struct("<HHH")
EPOCH: Final = struct.Struct("<Q16s")
POSITIONS: Final = struct.Struct("<QQQQ")
BASE_END: Final = struct.Struct("<QQ")
NUMBER: Final = struct.Struct("<Q")
LEASE: Final = struct.Struct("<QII")
LEASE_ASK: Final = struct.Struct("<QB7x")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, in words."""

    code: str
    cause: str
    hint: str


_TEXT_MAX = 1000
LEASE_MS_MAX: Final = 3_600_000


def pack_refusal(refusal: Refusal) -> bytes:
    """REFUSED; what is too long is cut."""
    texts = [text.encode()[:_TEXT_MAX] for text in (refusal.code, refusal.cause, refusal.hint)]
    return REFUSED.pack(*map(len, texts)) + b"".join(texts)


@strict
def unpack_refusal(body: memoryview) -> Refusal:
    """REFUSED. It ends up in a log and before a person, so nothing in it moves a cursor."""
    code, cause, hint = REFUSED.unpack_from(body)
    exact(body, REFUSED.size + code + cause + hint)
    text = bytes(body[REFUSED.size :])
    parts = text[:code], text[code : code + cause], text[code + cause :]
    return Refusal(*(_printable(part.decode(errors="replace")) for part in parts))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def pack_positions(p: Positions) -> bytes:
    """POSITIONS."""
    return POSITIONS.pack(p.received, p.durable, p.agreed_point, p.agreed_position)


@strict
def unpack_positions(body: memoryview) -> Positions:
    """POSITIONS."""
    return Positions(*POSITIONS.unpack(body))


def pack_number(number: int) -> bytes:
    """SYNC, BASE_AT, BASE_DONE."""
    return NUMBER.pack(number)


@strict
def unpack_number(body: memoryview) -> int:
    """SYNC, BASE_AT, BASE_DONE."""
    number: int = NUMBER.unpack(body)[0]
    return number


def pack_epoch(epoch: int, reign: bytes) -> bytes:
    """EPOCH."""
    return EPOCH.pack(epoch, reign)


@strict
def unpack_epoch(body: memoryview) -> tuple[int, bytes]:
    """EPOCH: number and reign id."""
    epoch, reign = EPOCH.unpack(body)
    return epoch, reign


def pack_base_end(number: int, blocks: int) -> bytes:
    """BASE_END: number of the point, blocks sent."""
    return BASE_END.pack(number, blocks)


@strict
def unpack_base_end(body: memoryview) -> tuple[int, int]:
    """BASE_END: number of the point, blocks sent."""
    number, blocks = BASE_END.unpack(body)
    return number, blocks


def pack_lease(question: int, lease_ms: int) -> bytes:
    """LEASE: the target may take itself for in sync for so long after it has asked. Question 0: it may ask."""
    return LEASE.pack(question, lease_ms, 0)


@strict
def unpack_lease(body: memoryview) -> tuple[int, int]:
    """LEASE: number of the question, ms."""
    question, lease_ms, _ = LEASE.unpack(body)
    if lease_ms > LEASE_MS_MAX:
        raise ValueError(f"a lease of {lease_ms} ms")
    return question, lease_ms


def pack_lease_ask(question: int, knows: bool) -> bytes:
    """LEASE_ASK."""
    return LEASE_ASK.pack(question, knows)


@strict
def unpack_lease_ask(body: memoryview) -> tuple[int, bool]:
    """LEASE_ASK: number of the question, whether the copy knows of the policy."""
    question, knows = LEASE_ASK.unpack(body)
    return question, bool(knows)
