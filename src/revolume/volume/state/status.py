"""What a volume says about itself: plain values, formatted by the faces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.volume.metadata.manifest_state import Jump, PinnedSnapshot
from revolume.volume.space.holder import Holder
from revolume.volume.state.events import Event
from revolume.volume.state.scrub_status import ScrubStatus


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named, pinned point. ``rescued_bytes``: what folds have copied for it so far. ``holder``: for whom it is
    kept, and until that is done; "": for those who have named it, until they drop it. ``branch``: the name of the
    branch that this is, "" if it is none: what this copy wrote alone behind the point, to which ``write`` and
    ``point`` belong; ``branch_moment``: of the moment within it, "" for its end. ``expires_in_s``: it is dropped
    when the volume has been open for so long, None: never; ``held``: not before it is released."""

    name: str
    write: WriteNumber
    point: int
    time_ns: int
    rescued_bytes: int = 0
    holder: str = ""
    branch: str = ""
    branch_moment: str = ""
    expires_in_s: float | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class BranchMomentStatus:
    """A named moment within a branch, which can be read: after ``write``, point ``point`` there, at ``time_ns``.
    ``size``: the volume's then, in bytes; ``blocks``: changed since the point that the branch begins at."""

    name: str
    write: WriteNumber
    point: int
    time_ns: int
    size: int
    blocks: int


@dataclass(frozen=True, slots=True)
class BranchStatus:
    """What this copy wrote alone behind point ``point``, after ``write``, and has taken back: ``writes`` of them,
    up to write ``end_write`` at ``time_ns``; ``size``: the volume's at that end, in bytes. ``bytes``: what its
    ``blocks`` take, in every version that it holds. ``made_ns``: when it was taken back. ``rescued_bytes``: what
    folds have copied so that its point stays. ``snapshots``: names that were given on it; ``moments``: those that
    can be read, oldest first."""

    name: str
    write: WriteNumber
    point: int
    end_write: WriteNumber
    time_ns: int
    size: int
    writes: int
    blocks: int
    bytes: int
    rescued_bytes: int
    made_ns: int
    snapshots: tuple[str, ...] = ()
    moments: tuple[BranchMomentStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class OldestMoment:
    """The first moment that can be opened: position of its cut, last write, and that write's label time. They are
    one value, so that write and time are never those of two moments."""

    position: Position
    write: WriteNumber
    time_ns: int


@dataclass(frozen=True, slots=True)
class HolderStatus:
    """Who keeps log from being recycled, and from which write on; if ``pinned``, it keeps that one moment instead.
    Whether it is ended when there is no other room, and what it holds of the disk besides: a throw-away overlay,
    what was rescued for a snapshot."""

    name: str
    write: WriteNumber
    gives_way: bool = False
    bytes: int = 0
    pinned: bool = False


def holder_statuses(holders: Iterable[Holder]) -> tuple[HolderStatus, ...]:
    """Plain values, in the same order."""
    return tuple(
        HolderStatus(each.name, each.write, each.kind.gives_way, each.held_bytes, each.pinned) for each in holders
    )


FORESEEN_S = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What somebody who never gives way keeps of the log, of what it may come to, and in how many seconds that is
    reached at the present rate (None: nothing is being written)."""

    holder: str
    held_bytes: int
    limit_bytes: int
    full_in_s: float | None

    @property
    def matters(self) -> bool:
        """Whether it is for this month, or half of the room is used up."""
        soon = self.full_in_s is not None and self.full_in_s < FORESEEN_S
        return soon or 2 * self.held_bytes >= self.limit_bytes

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
class JumpStatus:
    """What has durably arrived at a mirror of a jump: from the point ``since`` to ``point``; everything below
    ``next_block`` of ``volume_blocks``; ``blocks`` that changed, and the ``bytes`` that their content takes on the
    disk until it is in the image."""

    since: int
    point: int
    next_block: int
    volume_blocks: int
    blocks: int
    bytes: int


def jump_status(jump: Jump | None) -> JumpStatus | None:
    """Plain values; None: none has begun."""
    if jump is None:
        return None
    point = jump.target.point
    blocks = -(-point.size // BLOCK)
    return JumpStatus(jump.target.since, point.point, jump.next_block, blocks, jump.entries, jump.bytes)


@dataclass(frozen=True, slots=True)
class UnhealedBlock:
    """A damaged block, by its number, and where it lies: image, log or rescue file."""

    block: int
    place: str


@dataclass(frozen=True, slots=True)
class DamagedTable:
    """A file that said what was rescued for the pinned moment at ``write``, which nobody can make anew: neither
    that moment nor a pinned one before it can be read whole. ``snapshots``: those that are lost with it."""

    write: WriteNumber
    file: str
    snapshots: tuple[str, ...]


def damaged_tables(
    tables: Sequence[tuple[WriteNumber, str]], snapshots: Sequence[PinnedSnapshot]
) -> tuple[DamagedTable, ...]:
    """For status: the tables (write of the moment, file) with what they take with them."""
    return tuple(
        DamagedTable(write, file, tuple(each.name for each in snapshots if each.write <= write))
        for write, file in tables
    )


@dataclass(frozen=True, slots=True)
class SuspectStatus:
    """A period in which this copy is not what the volume was: from write ``since`` to the one before ``until``
    (None: it is not repaired), in ``blocks`` at most, for ``causes``."""

    since: WriteNumber
    until: WriteNumber | None
    blocks: int
    causes: tuple[str, ...]


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
    position: Position
    durable: Position
    write: WriteNumber
    time_ns: int
    point: int
    points: int
    horizon_write: WriteNumber
    horizon_time_ns: int
    log_bytes: int
    log_budget_bytes: int
    log_ready_bytes: int
    image_bytes: int
    partial_blocks: int
    map_entries: int
    map_bytes: int
    holders: tuple[HolderStatus, ...]
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
    branches: tuple[BranchStatus, ...] = ()
    """Oldest first."""
    jump: JumpStatus | None = None
    """At a mirror that goes on without the log in between."""
    healed_blocks: int = 0
    """That were damaged and have been rewritten, since the volume was opened."""
    unhealed: tuple[UnhealedBlock, ...] = ()
    """Damaged blocks that no other copy could give back yet; the first of them."""
    unhealed_count: int = 0
    damaged_tables: tuple[DamagedTable, ...] = ()
    """Of blocks that were rescued for pinned moments; oldest moment first."""
    suspect: tuple[SuspectStatus, ...] = ()
    """Periods of its history, oldest first."""
    scrub: ScrubStatus | None = None
    """None: there is no volume, or it is not served."""
