"""What a mirror link asks of the storage at either end, a page for each; ``tests/mirror/test_storage_contract.py``
asks it of every storage.

The real ones are ``volume/members/feed.py``, ``volume/members/mirrors.py`` and ``volume/secondary.py``. Whoever
drives one end of a link alone provides the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.point import Point
from revolume.host.disk import Buffer
from revolume.log.format.received_transfer import OutgoingTransfer
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.wire.begin_messages import Common, EpochEntry
from revolume.mirror.wire.block_messages import BlockRows
from revolume.mirror.wire.codec import Pin
from revolume.volume.heal.healing import Healing
from revolume.volume.members.found_differences import FoundDifferences
from revolume.volume.members.kept_points import KeptStatus
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.resync_order import Prefer, ResyncOrder
from revolume.volume.open.log_identity import End
from revolume.volume.suspect.suspect_history import SuspectHistory

U64 = npt.NDArray[np.uint64]


class Feed(Protocol):
    """A log to be shipped."""

    @property
    def oldest(self) -> Position:
        """What lies at or before this position is gone."""

    @property
    def end(self) -> Position:
        """The newest position. It may lie within a write that is half there."""

    @property
    def complete(self) -> Position:
        """The newest complete position."""

    def recent(self, after: Position, max_bytes: int) -> list[OutgoingTransfer] | None:
        """What follows ``after``, from memory. []: nothing newer. None: ask ``older``."""

    async def older(self, after: Position, max_bytes: int) -> list[OutgoingTransfer]:
        """What follows ``after``, read from the log, up to about ``max_bytes``."""

    async def identity_at(self, position: Position) -> tuple[int, bytes, bytes] | None:
        """(epoch, reign id, chain checksum) of the transfer at a position, or of the horizon."""

    @property
    def end_address(self) -> Address:
        """Where in this node's log the next transfer will be written, in blocks."""

    def address_behind(self, position: Position) -> Address | None:
        """The address behind a transfer for whose identity was asked a moment ago."""

    def listen(
        self, wake: Callable[[], None], leaving: Callable[[Position, bytes, Sequence[Buffer]], None]
    ) -> Callable[[], None]:
        """``leaving(position, shared header, payload)`` just before a write is in the log's file, and ``wake()``
        after every append, both from within it; returns what stops that."""


class PointReader(Protocol):
    """A consistency point opened for reading, block by block."""

    async def next_rows(self, first: int, count: int) -> tuple[U64, U64, int]:
        """At most ``count`` blocks from ``first`` on that hold anything but zeroes, with their digests, ascending;
        and the block up to which that is all of them (the volume's end, at the end)."""

    async def count(self) -> int:
        """Of the blocks that hold anything but zeroes."""

    async def digests(self, blocks: U64) -> U64:
        """Of these blocks; 0 for zeroes."""

    async def read(self, blocks: U64) -> memoryview:
        """Their content, one after the other, checked."""

    def close(self) -> None: ...


class MomentReader(Protocol):
    """An earlier pinned moment of a source: the blocks that a new mirror must have for it beside its base."""

    async def next_rows(self, count: int, version: int) -> BlockRows:
        """At most ``count`` blocks, none when that was all: ascending, but for where it begins anew. ``version``
        of the protocol that the target speaks: from COMPARISON on it takes zeroes for what is damaged and nobody
        has. Damaged: one can't be read, and it does not."""

    def close(self) -> None: ...


class PinnedMoments(Protocol):
    """The earlier pinned moments of a volume, which a new mirror gets before its base."""

    def before(self, base: Point) -> list[Point]:
        """Those that a base at this point goes with, oldest first."""

    async def open(self, moment: Point, base: Point) -> MomentReader:
        """Open one of them. NotFound: it is not pinned any more."""


class Differences(Protocol):
    """What has changed in a volume since a point at which a copy stands."""

    def points(self) -> tuple[Pin, ...]:
        """Some of which it is known what has changed since: where openings began, pinned ones; newest first."""

    async def common(
        self, mirror: Mirror, stands: Pin, end: Position, prefer: Prefer, partly: Pin | None = None
    ) -> Common | None:
        """The point at which a copy ``stands``, if what has changed since is known, or since an earlier point;
        with what it takes to bring a copy up to date whose log ends at ``end``, and that has a difference up to
        ``partly`` in part."""

    async def ordered(self, mirror: Mirror, order: ResyncOrder) -> None:
        """This is what is ordered of how it is brought up to date, durably, in place of what was."""

    def known(self, number: int) -> Point | None:
        """A point since which it is known what has changed."""

    async def link_lost(self, mirror: Mirror) -> None:
        """The link of a mirror that has joined is lost: where it was cut is a point that is kept for it."""

    async def begin(self, mirror: Mirror, since: Pin, partly: Pin | None, stands: Pin | None = None) -> BasePlan:
        """The point up to which a difference is sent, kept for the mirror from now on: the one that is ``partly``
        at the copy, if it is still kept; else that of the oldest snapshot that the copy lacks, which ``stands``
        there (None: at ``since``); else one that is made now, with the log behind it."""

    async def open(self, since: Pin, upto: Point, stands: Pin) -> PointReader:
        """The blocks that have changed between two points, as of ``upto``; zeroes have a digest of 0. For a copy
        that ``stands`` behind ``since`` those are among them that are zero at both. NotFound: one of the two is
        not retained."""


class SourceVolume(Protocol):
    """A volume as the source of its mirrors."""

    @property
    def name(self) -> str: ...

    @property
    def volume_id(self) -> bytes: ...

    @property
    def size(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    @property
    def reign(self) -> bytes: ...

    @property
    def log_blocks(self) -> tuple[int, int]:
        """Blocks of a segment here; and of the volume's largest transfer, which every copy of it has to hold."""

    @property
    def feed(self) -> Feed: ...

    healing: Healing
    """What it offers for damaged blocks at either end."""

    suspect: SuspectHistory
    """What is suspect of its own history."""

    found_differences: FoundDifferences
    """What is done where a mirror's copy differs."""

    @property
    def moments(self) -> PinnedMoments: ...

    @property
    def differences(self) -> Differences: ...

    def end(self) -> End:
        """Where the log ends."""

    def openings(self, position: Position) -> tuple[EpochEntry, ...]:
        """Those that had begun when the log was at ``position``."""

    def size_at(self, write: WriteNumber) -> int:
        """Of the volume as of a write."""

    def point(self, number: int) -> Point | None:
        """A retained point."""

    def base_point(self, mirror: Mirror) -> Point | None:
        """The point that is held for its base, while that is not complete."""

    async def plan_base(self, mirror: Mirror, with_moments: bool = False) -> BasePlan:
        """What its base will take. Its point is held until the mirror has joined: the same again while it is.
        ``with_moments``: the mirror takes earlier pinned moments beside it."""

    async def based(self, mirror: Mirror, with_moments: bool = False) -> None:
        """Its base is complete, and earlier pinned moments went ``with_moments`` before it; durable."""

    async def unpin_base(self, mirror: Mirror) -> None:
        """The base is not begun: nothing is held for it any more."""

    async def joined(self, mirror: Mirror, node: bytes, advertised: str = "") -> None:
        """Base and log have met in the copy of this node; durable, and none but this copy is the mirror from then
        on. ``advertised``: the address at which it says that other nodes reach it."""

    def refuse_same_copy(self, mirror: Mirror, node: bytes) -> None:
        """Refused: the copy of this node has joined as another mirror."""

    def connected(self, mirror: Mirror, there: Positions) -> None:
        """A session begins, and this is what the copy has now. It may be less than it had acknowledged."""

    def acknowledged(self, mirror: Mirror, now: Positions) -> None:
        """The mirror's own word; within a session it never goes back."""

    async def advance_hold(self, mirror: Mirror) -> None:
        """It has agreed on a newer point, durably: less of the log is kept for it."""

    def durable_wanted(self, mirror: Mirror) -> Position:
        """The newest position for whose durability there somebody waits."""

    async def open_point(self, point: Point) -> PointReader:
        """Open it for reading. NotFound: it is not retained."""

    def kept_status(self, mirror: Mirror) -> KeptStatus:
        """What is kept for it, now."""
