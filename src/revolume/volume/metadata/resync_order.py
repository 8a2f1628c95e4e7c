"""What was ordered of how a mirror is brought up to date, kept until that is done."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_ORDER: Final = struct.Struct("<BB6x16s")
_TAKE_BACK, _CANCELLED = 1, 2
_NOT_YET: Final = bytes(16)


class Prefer(IntEnum):
    """How a copy is brought up to date where both the log and a difference would do. EITHER: by the log, unless
    that costs far more; HISTORY: by the log, which keeps the copy's history whole; BYTES: by what sends less."""

    EITHER = 0
    HISTORY = 1
    BYTES = 2


@dataclass(frozen=True, slots=True)
class ResyncOrder:
    """Of one mirror. ``prefer``: where the log and a difference would both do. ``take_back``: the copy takes back
    what it wrote alone, once: ``let_back`` is the chain checksum of the last transfer of the log that it was told
    to take back, zero until then. ``cancelled``: no difference is sent to it until another order."""

    prefer: Prefer = Prefer.EITHER
    take_back: bool = False
    cancelled: bool = False
    let_back: bytes = _NOT_YET

    def taken_back(self, chain: bytes) -> bool:
        """Whether a copy whose log ends with this chain checksum has done what it was told."""
        return self.take_back and self.let_back not in (_NOT_YET, chain)

    @property
    def words(self) -> str:
        """What is shown of it; "" where nothing was ordered."""
        if self.cancelled:
            return "it is not resynchronised, which was cancelled; 'revolume resync DIR --mirror NAME' goes on"
        wanted = [_PREFERRED[self.prefer]] if self.prefer else []
        wanted += ["it takes back what it wrote alone"] if self.take_back else []
        return f"by order: {', and '.join(wanted)}" if wanted else ""


NO_ORDER: Final = ResyncOrder()
_PREFERRED: Final = {
    Prefer.HISTORY: "it is brought up to date by the log where that is there",
    Prefer.BYTES: "it is brought up to date by what sends fewer bytes",
}


def pack_order(order: ResyncOrder) -> bytes:
    """24 bytes: B what is preferred (0 either, 1 the log, 2 fewer bytes), B flags (1: it takes back what it wrote
    alone, 2: cancelled), 6x zero, 16s chain checksum of the end of the log that it was told to take back."""
    return _ORDER.pack(order.prefer, _TAKE_BACK * order.take_back | _CANCELLED * order.cancelled, order.let_back)


def unpack_order(body: bytes, at: int) -> ResyncOrder:
    """ValueError: a preference or a flag that this version does not know."""
    prefer, flags, let_back = _ORDER.unpack_from(body, at)
    if flags & ~(_TAKE_BACK | _CANCELLED):
        raise ValueError(f"an order with flags {flags:#x}")
    return ResyncOrder(Prefer(prefer), bool(flags & _TAKE_BACK), bool(flags & _CANCELLED), let_back)
