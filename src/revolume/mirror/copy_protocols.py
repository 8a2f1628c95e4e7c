"""What a mirror link asks of the storage at its target's end; ``tests/mirror/test_storage_contract.py`` asks it of
every storage. The real one is ``volume/secondary.py``, in ``mirror/target/copy_directory.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.host.disk import Buffer
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.mirror.storage_protocols import Feed
from revolume.mirror.wire.begin_messages import BaseStart
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.examine_messages import Examined
from revolume.mirror.wire.greeting_messages import Room
from revolume.mirror.wire.recall_messages import Moments, Recall, Recalled
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.heal.healing import Healing
from revolume.volume.members.source_link import SourceLink
from revolume.volume.metadata.manifest_state import Horizon, Jump, JumpTarget
from revolume.volume.open.log_identity import End
from revolume.volume.points.staged_fixups import Fixups
from revolume.volume.suspect.marks import Marks

U64 = npt.NDArray[np.uint64]


class TransferStore(Protocol):
    """Where received transfers go."""

    @property
    def received(self) -> Position:
        """The newest position up to which every write is complete."""

    def keep(self, carried: Sequence[ReceivedTransfer]) -> Position:
        """Store them, in order, before it returns. WouldBlock: nothing was stored."""

    def need(self, carried: Sequence[ReceivedTransfer]) -> int:
        """Blocks that these take at most."""

    async def room(self, blocks: int) -> None:
        """Wait for room for so many blocks."""


class TailStore(TransferStore, Protocol):
    """Where the missing end of a primary's own log goes."""

    def check_end(self, end: End) -> None:
        """Refused: a log that ends so goes on in an opening that is none of this directory's."""


class BaseState(Protocol):
    """An unfinished base."""

    @property
    def point(self) -> int: ...

    @property
    def position(self) -> Position: ...

    @property
    def chain(self) -> bytes: ...

    @property
    def next_block(self) -> int: ...


class Bound(Protocol):
    """What a copy durably knows of the source that it is bound to; see ``volume/metadata/bound_source.py``."""

    @property
    def source_name(self) -> str: ...

    @property
    def owes(self) -> Position: ...

    @property
    def yields(self) -> bool: ...

    async def follows(self) -> None: ...

    @property
    def may_be_detached(self) -> bool: ...

    async def name_source(self, name: str) -> None: ...

    async def told(self, acknowledged: Position) -> None: ...

    async def bounded(self, largest_blocks: int) -> None: ...


class BaseTarget(Protocol):
    """A copy whose base comes."""

    @property
    def base(self) -> BaseState | None:
        """How far it is; None: the copy is whole."""

    async def put_base(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Store blocks of the base, after verifying them; the base is complete below ``next_block`` then."""

    async def put_moment(self, moment: Horizon, blocks: U64, digests: U64, payload: Buffer, last: bool) -> None:
        """Store blocks of an earlier pinned moment, whose digests hold; with the ``last`` of them it is there."""

    async def settle_base(self) -> None:
        """The link is lost: what has been stored of the base survives a power cut."""

    async def finish_base(self) -> None:
        """That was all of it. Refused: it does not sum up to the point's root."""


class DifferenceTarget(Protocol):
    """A whole copy that jumps to a later point: what has changed comes, and is kept beside its state until then.
    See ``CopyDirectory.finish_jump`` for the end of it."""

    @property
    def jump(self) -> Jump | None:
        """What has arrived of a jump, and survives a power cut: the source goes on at its ``next_block``."""

    async def begin_jump(self, target: JumpTarget) -> None:
        """What changed between the point where it stands and this one will be sent. What has arrived for the same
        point is kept, for another one discarded. Refused: it does not stand at that point."""

    async def put_jump(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Store changed blocks, ascending, after verifying them; no content follows for a digest of 0. All that
        changed below ``next_block`` is there then. NoSpace: there is no room for it."""

    async def settle_jump(self) -> None:
        """The link is lost: what has been stored of the jump survives a power cut."""

    async def discard_jump(self) -> None:
        """What has arrived of a jump is of no use any more."""


class ComparedPoint(Protocol):
    """A point of a copy, held open to be compared. ``close`` it."""

    async def scan(self, first: int, count: int, read: bool) -> tuple[U64, U64, int]:
        """The digests of ``count`` blocks from ``first`` on, 0 for those that read as zeroes or lie behind the
        volume's end; with ``read`` also those of the blocks whose content has another digest than was stored,
        ascending, and how many bytes of content were read. GaveWay: the volume needed the room that was kept for
        it."""

    def close(self) -> None: ...


class RecalledMoment(Protocol):
    """A moment of a volume, held open for a node that lacks it. ``close`` it."""

    @property
    def recalled(self) -> Recalled:
        """What it is."""

    async def scan(self, first: int, count: int, read: bool) -> tuple[U64, U64, int]:
        """The digests of ``count`` blocks from ``first`` on, 0 for those that read as zeroes or lie behind the
        moment's end; which blocks are damaged, ascending, and how many bytes were read, both only if it looks for
        damage. GaveWay: the volume needed the room that was kept for it."""

    async def read(self, blocks: U64) -> tuple[U64, memoryview]:
        """The digests of these blocks, ascending, and the content of those whose digest is not 0. What lies behind
        the moment's end is left out."""

    def close(self) -> None: ...


class TargetVolume(TransferStore, BaseTarget, DifferenceTarget, Protocol):
    """A volume as the target of a source: where it stands, who feeds it, and what it takes."""

    @property
    def bound(self) -> Bound: ...

    def attach(self, source: SourceLink) -> None:
        """This session is told how far the copy is, and asked for blocks, until it is detached or another one is
        attached."""

    def detach(self, source: SourceLink) -> None:
        """The session is over; nothing happens if another one is attached by now."""

    @property
    def failure(self) -> RevolumeError | None:
        """Why it takes no more points."""

    def resume(self) -> None:
        """There is a source to ask again."""

    @property
    def name(self) -> str: ...

    @property
    def volume_id(self) -> bytes: ...

    @property
    def segment_blocks(self) -> int: ...

    @property
    def end(self) -> End:
        """The last transfer here; it may be part of a write."""

    @property
    def durable(self) -> Position: ...

    @property
    def agreed(self) -> Point:
        """The last point that it has agreed on; the one of its base at first."""

    def points(self) -> Sequence[Point]:
        """Those that it retains."""

    def isolated_points(self) -> Sequence[Point]:
        """Those of pinned moments that its horizon has left."""

    @property
    def known_epoch(self) -> tuple[int, bytes]:
        """The newest opening that it knows."""

    @property
    def feed(self) -> Feed: ...

    @property
    def healing(self) -> Healing:
        """What it offers for damaged blocks at either end."""

    def stage_fixups(self, fixups: Fixups) -> asyncio.Future[int]:
        """Blocks that put the copy right; the number of them, once the point to which they belong is agreed,
        durably. ConnectionError: it is not that point. Cancelled, they are dropped."""

    async def make_durable(self, position: Position) -> None:
        """Return once everything up to there survives a power cut."""

    async def add_marks(self, marks: Marks) -> None:
        """Some of its history is suspect: durable when it returns."""

    @property
    def differs_since(self) -> int:
        """The point at which its root was found to differ from its source's; 0: it does not."""

    async def proved_equal(self, point: int) -> None:
        """At this point the copy was found to be what it should be: durable when it returns. Refused: it does not
        stand there."""


class CopyDirectory(Protocol):
    """The place where a target keeps a volume, or will."""

    @property
    def secondary(self) -> TargetVolume | None:
        """None: it is empty."""

    @property
    def node(self) -> bytes:
        """Node id of the copy that is here, or that will be made here."""

    @property
    def advertised(self) -> str:
        """The address at which other nodes reach this one, "" for the one where its source does."""

    def fit(self, segment_blocks: int) -> None:
        """A source's segments have so many blocks: an empty one that was told no size gets the same."""

    @property
    def segment_blocks(self) -> int:
        """Of the segments that an empty one will get."""

    def room(self) -> Room:
        """What there is room for."""

    async def examined(self, asked: Fetch) -> Examined:
        """What is here, for a peer that only asks."""

    async def create(self, volume: bytes, name: str, start: BaseStart, seeded: bool = False) -> TargetVolume:
        """Begin a base here; an unfinished one gives way. ``seeded``: over what is there as a seed. Refused: what
        is here may not be replaced, or the seed is none of this volume."""

    async def truncate_incomplete(self) -> None:
        """Cut off the write of which only a part has come, and will not be continued."""

    async def take_back(self, point: Pin, name: str) -> str:
        """Go back to a point; what the copy wrote behind it alone is a branch then, of this name. What was done,
        as a sentence. Refused: it can't; the copy is what it was."""

    async def finish_jump(self) -> None:
        """That was all of the jump: the copy stands at its point from then on, durably, and ``secondary`` is
        opened anew. Refused: it does not sum up to the point's root; what has arrived is gone, the copy is what
        it was."""

    @property
    def seeded(self) -> bool:
        """A copy that is made here begins with a seed; or the one that is here did, and its base is not
        complete."""

    async def open_compared(self, point: Pin, quick: bool) -> ComparedPoint:
        """Hold a point open to be compared; ``quick``: no content is read. NotFound: the copy does not have it;
        Refused: its base is not complete."""

    def moments(self, version: int) -> Moments:
        """The moments that the copy holds. Refused: it is empty, or not whole."""

    async def open_moment(self, asked: Recall, fed: bool) -> RecalledMoment:
        """Hold a moment open for another node. NotFound: the copy does not hold it; Refused: it may not be
        given. ``fed``: its source is connected."""

    async def open_again(self) -> None:
        """If the copy was closed to be opened again, and could not be: try again, before anything is asked of
        it."""
