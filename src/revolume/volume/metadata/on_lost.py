"""What becomes of clients' answers when a required mirror is lost: they wait for it, or it is detached.

Under *detach* a mirror that has not acknowledged what answers wait for within its deadline ceases to be required.
That happens in two steps, each durable before the next. The mirror is *detached* (in the manifest, and as a fact
in the log): from then on it gets no lease and can't be told that it is in sync. Only when its lease has run out,
and where there are other mirrors a majority of the copies knows, the detach *counts*: answers no longer wait.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

DEADLINE_MS: Final = 20_000
DEADLINE_MS_MIN: Final = 1_000
DEADLINE_MS_MAX: Final = 3_600_000
LEASE_MS_MAX: Final = 30_000
"""Whoever gives a mirror up by an order waits for no longer than that."""
_ON_LOST: Final = struct.Struct("<BBHIQ")
ON_LOST_BYTES: Final = _ON_LOST.size
_DETACHES: Final = 1
_TOLD, _COUNTS = 1, 2


@dataclass(frozen=True, slots=True)
class OnLost:
    """Of one mirror. ``detaches``: the policy; ``deadline_ms``: how long answers wait before that; ``told``: the
    copy itself has recorded that the policy is *detach*, before which it is not detached by deadline.
    ``detached_ns``: since when it is detached, by the wall clock; 0: it is not. ``counts``: answers do not wait
    for it any more."""

    detaches: bool = False
    deadline_ms: int = DEADLINE_MS
    told: bool = False
    detached_ns: int = 0
    counts: bool = False

    def afresh(self) -> OnLost:
        """The same policy for a copy of which nothing is known yet."""
        return OnLost(self.detaches, self.deadline_ms)

    @property
    def lease_ms(self) -> int:
        """How long the mirror may take itself for in sync after its source has said so; 0: it gets no lease."""
        return min(self.deadline_ms // 2, LEASE_MS_MAX) if self.detaches else 0


BLOCK_WHEN_LOST: Final = OnLost()


@dataclass(frozen=True, slots=True)
class AskedOnLost:
    """What is asked for when a mirror is lost; None: as it is."""

    detaches: bool | None = None
    deadline_ms: int | None = None

    def applied(self, known: OnLost) -> OnLost:
        """What it comes to. A copy that knew of another policy has to be told of *detach*."""
        detaches = known.detaches if self.detaches is None else self.detaches
        told = known.told and known.detaches and detaches
        return replace(known, detaches=detaches, deadline_ms=self.deadline_ms or known.deadline_ms, told=told)


AS_IT_IS: Final = AskedOnLost()


def pack_on_lost(on_lost: OnLost) -> bytes:
    """16 bytes: B policy (0 block, 1 detach), B flags (1: the copy was told, 2: its detach counts), H zero, I
    deadline in ms, Q detached since (ns of the wall clock; 0: it is not)."""
    flags = _TOLD * on_lost.told | _COUNTS * on_lost.counts
    return _ON_LOST.pack(on_lost.detaches, flags, 0, on_lost.deadline_ms, on_lost.detached_ns)


def unpack_on_lost(body: bytes, at: int) -> OnLost:
    """ValueError: a policy or a flag that this version does not know."""
    policy, flags, _, deadline_ms, detached_ns = _ON_LOST.unpack_from(body, at)
    if policy > _DETACHES or flags & ~(_TOLD | _COUNTS):
        raise ValueError(f"policy {policy} with flags {flags:#x}")
    return OnLost(policy == _DETACHES, deadline_ms, bool(flags & _TOLD), detached_ns, bool(flags & _COUNTS))
