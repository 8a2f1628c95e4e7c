"""What is shown of a mirror at its source: plain values, now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MirrorState(StrEnum):
    """Where a mirror is in its life."""

    CONNECTING = "connecting"
    REFUSED = "refused"
    BASE = "base"
    CATCHING_UP = "catching up"
    IN_SYNC = "in sync"


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """One mirror. ``sentence`` says why it is in its state; bytes count since this source was opened."""

    name: str
    address: str
    mode: str
    state: MirrorState
    sentence: str
    required: bool
    rule: str
    base_fraction: float
    lag_seconds: float
    lag_bytes: int
    received: int
    durable: int
    agreed_point: int
    agreed_position: int
    client_bytes: int
    log_bytes: int
    point_bytes: int
    saved_bytes: int
    base_bytes: int
    whole_bytes: int
    lost_seconds: float
    refusals: int = 0
    warning: str = ""
    left_bytes: int = 0
    left_seconds: float | None = None
