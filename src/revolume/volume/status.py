"""What a volume says about itself: plain values, formatted by the faces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named, pinned point."""

    name: str
    write: int
    point: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who keeps log from being recycled, and from which write on; whether it is ended when there is no other room,
    and what it holds of the disk besides (a throw-away overlay)."""

    name: str
    write: int
    gives_way: bool = False
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """A volume at one instant. Sizes in bytes, times in ns since 1970, positions and writes as numbers."""

    name: str
    directory: str
    volume_id: str
    size: int
    epoch: int
    state: str
    reason: str
    position: int
    durable: int
    write: int
    time_ns: int
    point: int
    points: int
    horizon_write: int
    horizon_time_ns: int
    log_bytes: int
    log_budget_bytes: int
    log_ready_bytes: int
    image_bytes: int
    partial_blocks: int
    map_entries: int
    map_bytes: int
    holders: tuple[Holder, ...]
    snapshots: tuple[Snapshot, ...]
    folding: bool
    folds: int
    folded_blocks: int
    syncs: int
    transfers: int
    read_mismatches: int
    events: tuple[str, ...]
    gave_way: int = 0
