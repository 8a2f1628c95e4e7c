"""What a volume's manifest knows: plain values, whatever file they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.log.format.log_cut import NO_CUT, LogCut
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.branch_moment import BranchMoment
from revolume.volume.metadata.clock_mark import NEVER, ClockMark
from revolume.volume.metadata.clone_edits import NO_CLONES, CloneFacts
from revolume.volume.metadata.dirty_log import DirtyLog
from revolume.volume.metadata.fork import Fork
from revolume.volume.metadata.jump_table import JumpTable
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.on_lost import BLOCK_WHEN_LOST, OnLost
from revolume.volume.metadata.resync_order import NO_ORDER, ResyncOrder
from revolume.volume.metadata.resync_point import ResyncPoint
from revolume.volume.metadata.retention_record import NOTHING_KEPT, RetentionRecord
from revolume.volume.metadata.rung import Rung
from revolume.volume.metadata.scrub_record import NEVER_SCRUBBED, ScrubRecord
from revolume.volume.metadata.suspect_edits import NOTHING_SUSPECT, SuspectRecord
from revolume.volume.metadata.verified import Verified


@dataclass(frozen=True, slots=True)
class Epoch:
    """One opening as primary; ``position`` and ``write`` are those of the end before it."""

    number: int
    reign: bytes
    position: Position
    write: WriteNumber


@dataclass(frozen=True, slots=True)
class Horizon:
    """The moment that the image holds: a point, and where its cut lies in the log."""

    point: int = 0
    write: WriteNumber = WriteNumber(0)
    position: Position = Position(0)
    address: Address = Address(0)
    time_ns: int = 0
    size: int = 0
    root_low: int = 0
    root_high: int = 0
    chain: bytes = bytes(16)
    pages_generation: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the log: behind the transfer ``position``, at ``address``."""

    position: Position = Position(0)
    address: Address = Address(0)
    chain: bytes = bytes(16)
    write: WriteNumber = WriteNumber(0)
    time_ns: int = 0


@dataclass(frozen=True, slots=True)
class PinnedSnapshot:
    """A named, pinned point."""

    name: str
    write: WriteNumber
    point: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Listener:
    """Where this node listens for other copies' nodes, and how they reach it. "": not known, or the same."""

    address: str = ""
    advertised: str = ""


NO_LISTENER: Final = Listener()


@dataclass(frozen=True, slots=True)
class RescueTable:
    """A map file in ``rescue/`` and how many blocks it names."""

    number: int
    entries: int


@dataclass(frozen=True, slots=True)
class RescueFile:
    """A file of blocks in ``rescue/``: the first ``blocks`` of them are used."""

    number: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Rescue:
    """What folds have rescued for ``moment``, a pinned moment that the horizon has left: the blocks changed since,
    up to the next pinned moment, as they were. ``tables`` are asked in this order, and the first that names a
    block is right; what their entries lead to lies in ``files``, the last of which still grows."""

    moment: Horizon
    tables: tuple[RescueTable, ...] = ()
    files: tuple[RescueFile, ...] = ()

    @property
    def bytes(self) -> int:
        """What the rescued blocks take. Those that a merge of tables found hidden have been punched out."""
        return min(sum(file.blocks for file in self.files), sum(table.entries for table in self.tables)) * BLOCK


class Role(IntEnum):
    """Who changes this copy: clients, or its source alone."""

    PRIMARY = 0
    SECONDARY = 1


class MirrorMode(IntEnum):
    """SYNC: a write is answered once it is in the mirror's log file too. ASYNC: the mirror lags."""

    SYNC = 1
    ASYNC = 2


@dataclass(frozen=True, slots=True)
class Agreed:
    """A point of the source that this copy holds: built from the references received, digest and root equal.
    ``position``: records of the log up to here have been dealt with."""

    point: int = 0
    position: Position = Position(0)
    write: WriteNumber = WriteNumber(0)


@dataclass(frozen=True, slots=True)
class MirrorState:
    """What a primary durably knows of a mirror. ``joined``: base and log have met there. ``point`` and
    ``write``: the point from which the log is kept for it; 0 = nothing is kept. ``node``: the node id of the copy
    that the mirror is, zero until one has joined (or where a store of before MEMBER knew none). ``durable``: a
    position that it has acknowledged as durable; what it holds may be more. ``peer``: the name that its
    certificate must have, "" for any. ``since``: the write at which its history begins, None: not known (no base
    has begun, or it was made by an older release). ``from_creation``: the point from which the log is kept is
    number 0, the volume as it was made. ``based``: its base is complete, also if the log has not caught up yet.
    ``moments``: the pinned moments before its base are there too.
    ``address``: where it is connected to, "" where a store of before kept none; ``advertised``: where it says that
    other nodes reach it, "" if it says nothing else. ``history``: how much of the past
    its base begins with.

    ``pin``: the log behind this point was given up; what changed since is known (rescued), and nothing else.
    ``cut``: the point that was made when its link was lost. ``jump``: the point to which it is being brought by
    a difference; it may stand there already. ``on_lost``: what becomes of answers when it is lost. ``order``:
    what was ordered of how it is brought up to date, and is not done yet."""

    name: str
    mode: MirrorMode
    joined: bool
    point: int
    write: WriteNumber
    node: bytes = bytes(16)
    durable: Position = Position(0)
    peer: str = ""
    since: WriteNumber | None = None
    from_creation: bool = False
    based: bool = False
    moments: bool = False
    address: str = ""
    advertised: str = ""
    history: History = History.NAMED
    pin: Kept | None = None
    cut: Kept | None = None
    jump: Kept | None = None
    on_lost: OnLost = BLOCK_WHEN_LOST
    order: ResyncOrder = NO_ORDER

    @classmethod
    def unjoined(cls, name: str, mode: MirrorMode) -> MirrorState:
        """A mirror of which nothing else is known."""
        return cls(name, mode, joined=False, point=0, write=WriteNumber(0))

    @property
    def kept(self) -> bool:
        """Whether log is kept for this mirror, from its point on."""
        return self.point > 0 or self.from_creation

    @property
    def pinned(self) -> tuple[Kept, ...]:
        """The points that are pinned for this mirror."""
        return tuple(kept for kept in (self.pin, self.cut, self.jump) if kept is not None)

    @property
    def detached(self) -> bool:
        """It was detached by deadline; it is required again once it is level."""
        return self.on_lost.detached_ns > 0

    @property
    def required(self) -> bool:
        """Answers wait for it."""
        return self.joined and self.mode == MirrorMode.SYNC and not (self.detached and self.on_lost.counts)

    @property
    def firm(self) -> bool:
        """What is kept for it does not give way: a sync mirror that is required, or will be once it has caught
        up. What is kept for a detached one gives way like an async mirror's."""
        return (self.joined or self.based) and self.mode == MirrorMode.SYNC and not self.detached


@dataclass(frozen=True, slots=True)
class Member:
    """One copy of the volume, as all copies know it up to where their log reaches. ``mode``: None for the one that
    is the primary, or was. ``node``: zero until a copy has joined. ``address``: where other nodes reach its node,
    "" where that is not known. ``deadline_ms``: it is detached when it is lost for so long, 0: answers wait;
    ``detached``: it was."""

    name: str
    node: bytes
    address: str
    mode: MirrorMode | None
    joined: bool
    deadline_ms: int = 0
    detached: bool = False

    @property
    def required(self) -> bool:
        """Answers wait for it."""
        return self.joined and self.mode == MirrorMode.SYNC and not self.detached


@dataclass(frozen=True, slots=True)
class JumpTarget:
    """The point to which a copy jumps, as its source says it. ``point``: the point itself; address and pages
    generation are the copy's own to choose. ``epochs``: every opening up to there. ``snapshots``: every name that
    the volume has as of ``names_position`` of the log, whether a copy holds it or not; ``members``: likewise.
    ``since``: the number of the common point, at which the copy stands."""

    point: Horizon
    epochs: tuple[Epoch, ...]
    snapshots: tuple[PinnedSnapshot, ...]
    names_position: Position
    members: tuple[Member, ...]
    since: int


@dataclass(frozen=True, slots=True)
class Jump:
    """What has arrived of a jump, durably: every changed block below ``next_block``. ``tables`` name them, each
    table's blocks behind those of the one before; ``blocks`` of them have content. ``flipped``: all of them are
    there, and they are this copy's state from then on."""

    target: JumpTarget
    next_block: int = 0
    tables: tuple[JumpTable, ...] = ()
    blocks: int = 0
    flipped: bool = False

    @property
    def bytes(self) -> int:
        """What the content takes."""
        return self.blocks * BLOCK

    @property
    def entries(self) -> int:
        """Blocks that have arrived, those that read as zeroes included."""
        return sum(table.entries for table in self.tables)


@dataclass(frozen=True, slots=True)
class Branch:
    """What this copy wrote alone behind ``common``, a point that it shares with the volume's other copies, and has
    taken back since: its state at ``write``, as the blocks that differ from the common point's. ``time_ns``: of
    that write; ``size``: the volume's then, in bytes. ``made_ns``: when it was taken back, by the wall clock.
    ``table`` and ``file``: numbers in ``branches/``. ``blocks`` are named, ``writes`` were made. ``data``: blocks
    in the file, every version that the end or a moment has. ``openings``: in which it was written. ``snapshots``:
    named on it; ``moments``: those of them that can be read, oldest first."""

    name: str
    common: Horizon
    write: WriteNumber
    time_ns: int
    size: int
    made_ns: int
    table: int
    file: int
    blocks: int
    data: int
    writes: int
    openings: tuple[Epoch, ...] = ()
    snapshots: tuple[str, ...] = ()
    moments: tuple[BranchMoment, ...] = ()

    @property
    def bytes(self) -> int:
        """What its blocks take."""
        return self.data * BLOCK

    @property
    def tables(self) -> tuple[int, ...]:
        """Numbers of all its tables: the end's, then those of its moments."""
        return (self.table, *(moment.table for moment in self.moments))


@dataclass(frozen=True)
class State:
    """Everything that the edits amount to."""

    volume: bytes = bytes(16)
    name: str = ""
    segment_blocks: int = 0
    largest_blocks: int = 0  # of the largest transfer that the volume's log may have; 0 = an older release's store
    created_ns: int = 0
    epochs: tuple[Epoch, ...] = ()
    reserved: WriteNumber = WriteNumber(0)
    uses: dict[int, int] = field(default_factory=dict)  # segment file -> use number; 0 = free
    ends: dict[int, int] = field(default_factory=dict)  # use number -> end block
    horizon: Horizon = Horizon()
    folding: WriteNumber = WriteNumber(0)
    durable: Mark = Mark()
    clean: Mark | None = None
    snapshots: tuple[PinnedSnapshot, ...] = ()
    base_map: str = ""
    budget: int = 0  # 0 = not decided yet
    next_use: int = 1
    node: bytes = bytes(16)
    role: Role = Role.PRIMARY
    agreed: Agreed = Agreed()
    base: int | None = None  # blocks of the image that have arrived, while a mirror is brought up
    mirrors: tuple[MirrorState, ...] = ()
    lacking: tuple[PinnedSnapshot, ...] = ()  # snapshots of the volume that this copy does not hold
    names_position: Position = Position(0)  # a mirror's: the log up to here says nothing new of names
    source_name: str = ""  # the certificate name that a mirror's source must show; "" = any
    owes: Position = Position(0)  # a mirror's: it had acknowledged the log up to here as durable, its source says
    clock: ClockMark = NEVER
    listener: Listener = NO_LISTENER
    rescues: tuple[Rescue, ...] = ()  # oldest moment first
    next_rescue: int = 1  # numbers of rescue tables and files below this have been given out
    members: tuple[Member, ...] = ()  # as the log states them
    resync_points: tuple[ResyncPoint, ...] = ()  # of members: a primary's as stated, a mirror's as pinned here
    detached: Position = Position(0)  # a mirror's: its source has given it up, as the log says at this position
    handed_to: str = ""  # a mirror's: it was the primary, and has handed over to the mirror of this name
    jump: Jump | None = None  # a mirror's: what has arrived of a point far ahead of its log
    branches: tuple[Branch, ...] = ()  # oldest first
    forks: tuple[Fork, ...] = ()  # oldest first
    yields: bool = False  # made a mirror by order: it takes back what it wrote alone, whoever feeds it
    cut: LogCut = NO_CUT
    suspect: SuspectRecord = NOTHING_SUSPECT  # of this copy, where it was found to differ from its primary
    dirty: tuple[DirtyLog, ...] = ()  # of mirrors of which nothing else is kept, by name
    verified: tuple[Verified, ...] = ()  # a primary's: of its mirrors
    scrub: ScrubRecord = NEVER_SCRUBBED
    clones: CloneFacts = NO_CLONES
    retention: RetentionRecord = NOTHING_KEPT
    elsewhere: int = 0  # openings up to this number are known to other copies: the next one here is above
    rungs: tuple[Rung, ...] = ()  # of the ladder, by the points up to which they go

    @property
    def largest_transfer(self) -> int:
        """Blocks of the largest transfer that the volume's log may have, with the footer of a segment that holds
        it alone: the same at every copy. Without the record (an older release) what there is fits its segments."""
        return self.largest_blocks or self.segment_blocks

    @property
    def jumped(self) -> Jump | None:
        """A jump that has been flipped, and that no opening has put into the image yet."""
        return self.jump if self.jump is not None and self.jump.flipped else None

    def pinned_writes(self) -> set[WriteNumber]:
        """The moments that are pinned durably: by snapshots, for mirrors, and below branches. What a primary has
        stated of its mirrors it has not pinned."""
        pinned = {kept.write for mirror in self.mirrors for kept in mirror.pinned}
        pinned |= {branch.common.write for branch in self.branches}
        pinned |= {fork.write for fork in self.forks}
        pinned |= {each.write for each in self.resync_points if self.role == Role.SECONDARY}
        return pinned | self.clones.writes() | {snapshot.write for snapshot in self.snapshots}

    def kept_writes(self) -> set[WriteNumber]:
        """The moments that are pinned durably, with those that the policy keeps, as was last written down."""
        return self.pinned_writes() | self.retention.lived.keys()

    def rescued_bytes(self) -> dict[WriteNumber, int]:
        """By the write of a pinned moment, what was rescued for it."""
        return {rescue.moment.write: rescue.bytes for rescue in self.rescues}

    def epoch_at(self, position: Position) -> tuple[int, bytes]:
        """Number and reign id of the epoch in which a position was made; zeroes before the first."""
        found = [(e.number, e.reign) for e in self.epochs if e.position < position]
        return found[-1] if found else (0, bytes(16))
