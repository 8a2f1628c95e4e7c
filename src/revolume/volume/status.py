"""What a volume says about itself: plain values, formatted by the faces."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.volume.events import Event


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named, pinned point."""

    name: str
    write: int
    point: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class OldestMoment:
    """The first moment that can be opened: position of its cut, last write, and that write's label time. They are
    one value, so that write and time are never those of two moments."""

    position: int
    write: int
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
class Forecast:
    """What somebody who never gives way keeps of the log, of what it may come to, and in how many seconds that is
    reached at the present rate (None: nothing is being written)."""

    holder: str
    held_bytes: int
    limit_bytes: int
    full_in_s: float | None

    @property
    def sentence(self) -> str:
        """In words."""
        when = "" if self.full_in_s is None else f"; at the present rate it is full in {_spoken(self.full_in_s)}"
        held, limit = self.held_bytes / (1 << 30), self.limit_bytes / (1 << 30)
        return f"{self.holder} keeps {held:.2f} GiB of the log's {limit:.2f} GiB{when}."


def _spoken(seconds: float) -> str:
    for size, word in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} seconds"


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
    events: tuple[Event, ...]
    gave_way: int = 0
    damaged: tuple[tuple[int, int], ...] = ()
    """(first, count) of blocks of the live volume that can't be read."""
    forecast: Forecast | None = None
