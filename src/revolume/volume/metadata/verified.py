"""When a mirror was last compared with its primary, and how that ended: kept by the primary, one edit (VERIFIED).

 0  Q  when it ended, wall time in ns     8 Q point at which it began
16  I  1: by stored digests alone     2: only some regions     20 I outcome
24  Q  blocks that differed     32 Q of them put right     40 Q number of the file that names those which are to
       be put right; 0: there is none
48  16s node id of the copy     64 name of the mirror, UTF-8
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_VERIFIED: Final = struct.Struct("<QQIIQQQ16s")
_QUICK: Final = 1
_PARTLY: Final = 2

assert _VERIFIED.size == 64


class VerifyOutcome(IntEnum):
    """How a comparison ended. REPAIRING: it has not ended, and what is to be put right is known durably."""

    EQUAL = 0
    REPAIRED = 1
    DIFFERENT = 2
    REPAIRING = 3


@dataclass(frozen=True, slots=True)
class Verified:
    """Of the mirror ``name``, whose copy is ``node``'s."""

    name: str
    node: bytes
    time_ns: int
    point: int
    outcome: VerifyOutcome
    quick: bool
    partly: bool
    different: int
    repaired: int
    map_number: int = 0


def pack_verified(verified: Verified) -> bytes:
    """VERIFIED."""
    flags = verified.quick * _QUICK | verified.partly * _PARTLY
    head = _VERIFIED.pack(
        verified.time_ns, verified.point, flags, verified.outcome, verified.different, verified.repaired,
        verified.map_number, verified.node,
    )  # fmt: skip
    return head + verified.name.encode()


def unpack_verified(body: bytes) -> Verified:
    """VERIFIED."""
    time_ns, point, flags, outcome, different, repaired, number, node = _VERIFIED.unpack_from(body)
    return Verified(
        name=body[_VERIFIED.size :].decode(),
        node=node,
        time_ns=time_ns,
        point=point,
        outcome=VerifyOutcome(outcome),
        quick=bool(flags & _QUICK),
        partly=bool(flags & _PARTLY),
        different=different,
        repaired=repaired,
        map_number=number,
    )


def others_verified(known: tuple[Verified, ...], name: str) -> tuple[Verified, ...]:
    """What is known of other mirrors than this one."""
    return tuple(verified for verified in known if verified.name != name)
