"""What a copy promises to keep of its past, as values: a tier for every write, one for every point, and any number
that keep the first point of each hour, each day or another period. All spans are lived time, in ms.

KEEP_POLICY (98)
  0  B   what happens when there is no room: 0 shrink, 1 block, 2 refuse
  1  3x  zero     4 I tiers     8 Q span of every write     16 Q span of every point, 0: no such tier
 24      rows: Q period, Q span; shorter periods first
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_HEAD: Final = struct.Struct("<B3xIQQ")
_TIER: Final = struct.Struct("<QQ")

assert _HEAD.size == 24


class WhenFull(IntEnum):
    """What happens when history has no room left. SHRINK: the oldest of it goes, whatever was promised. BLOCK:
    writers wait until something is older than was promised. REFUSE: they get ENOSPC."""

    SHRINK = 0
    BLOCK = 1
    REFUSE = 2


@dataclass(frozen=True, slots=True)
class Tier:
    """The first point of each period is kept for the span."""

    period_ms: int
    span_ms: int


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """``every_point_ms``: 0 where points are kept no longer than writes. ``tiers``: shorter periods first."""

    every_write_ms: int
    every_point_ms: int = 0
    tiers: tuple[Tier, ...] = ()
    when_full: WhenFull = WhenFull.SHRINK

    @property
    def pins(self) -> bool:
        """Whether it keeps any point beyond the window of every write."""
        return bool(self.every_point_ms or self.tiers)


DEFAULT_POLICY: Final = KeepPolicy(24 * 3600 * 1000)


def pack_policy(policy: KeepPolicy) -> bytes:
    """KEEP_POLICY."""
    head = _HEAD.pack(policy.when_full, len(policy.tiers), policy.every_write_ms, policy.every_point_ms)
    return head + b"".join(_TIER.pack(tier.period_ms, tier.span_ms) for tier in policy.tiers)


def unpack_policy(body: bytes) -> KeepPolicy:
    """KEEP_POLICY. ValueError, struct.error: it is none that this version knows."""
    when_full, count, writes_ms, points_ms = _HEAD.unpack_from(body)
    rows = tuple(Tier(*row) for row in _TIER.iter_unpack(body[_HEAD.size :]))
    if len(rows) != count:
        raise ValueError(f"{len(rows)} tiers instead of {count}")
    return KeepPolicy(writes_ms, points_ms, rows, WhenFull(when_full))
