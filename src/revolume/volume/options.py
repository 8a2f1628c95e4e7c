"""How a volume is opened: plain values with the defaults that a user gets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """``size`` creates the volume if the directory is empty, and must otherwise agree with what is there.
    ``budget_bytes``: the log on the disk; None = what was decided before, at creation half of the free space.
    It is kept in the manifest, unless ``budget_once``. ``keep_s``: seconds of which every write is kept.
    ``segment_bytes``: of a new volume's log files; None = as its size asks for. ``spare_bytes``: made ready ahead,
    but no more than the volume's size. ``promote``: a mirror becomes a primary. ``mirrors``: the names of those
    that will be served; a required one that is missing is refused. ``overlay_quota_bytes``: what a throw-away
    overlay may take of the disk; None = a tenth of what is free when it is opened. ``reserve_writes``: write
    numbers that the manifest reserves at a time; a crash skips at most twice as many, no batch may have more."""

    name: str | None = None
    size: int | None = None
    cp_interval_s: float = 5.0
    keep_s: float = 24 * 3600.0
    budget_bytes: int | None = None
    map_memory_bytes: int = 256 << 20
    segment_bytes: int | None = None
    spare_bytes: int = 1 << 30
    sync_interval_s: float = 1.0
    unsynced_bytes_max: int = 256 << 20
    reserve_bytes: int | None = None
    budget_once: bool = False
    promote: bool = False
    mirrors: tuple[str, ...] = ()
    overlay_quota_bytes: int | None = None
    reserve_writes: int = 1 << 24
