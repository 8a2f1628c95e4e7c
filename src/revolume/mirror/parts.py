"""What a mirror link asks of the storage at either end: a page for each.

The real ones are ``volume/feed.py``, ``volume/mirrors.py`` and ``volume/secondary.py``. Whoever drives one end of
a link alone provides the other's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.host.disk import Buffer
from revolume.log.carried import Carried, Shipment
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.messages import Opening, Room, Start
from revolume.volume.end import End

U64 = npt.NDArray[np.uint64]


class Feed(Protocol):
    """A log to be shipped."""

    @property
    def oldest(self) -> int:
        """What lies at or before this position is gone."""

    @property
    def end(self) -> int:
        """The newest complete position."""

    def recent(self, after: int, max_bytes: int) -> list[Shipment] | None:
        """What follows ``after``, from memory. []: nothing newer. None: ask ``older``."""

    async def older(self, after: int, max_bytes: int) -> list[Shipment]:
        """The same, read from the log."""

    async def identity_at(self, position: int) -> tuple[int, bytes, bytes] | None:
        """(epoch, reign id, chain checksum) of the transfer at a position, or of the horizon."""

    @property
    def end_address(self) -> int:
        """Where in this node's log the next transfer will be written, in blocks."""

    def address_behind(self, position: int) -> int | None:
        """The address behind a transfer for whose identity was asked a moment ago."""

    def listen(
        self, wake: Callable[[], None], leaving: Callable[[int, bytes, Sequence[Buffer]], None]
    ) -> Callable[[], None]:
        """``leaving(position, proper part, payload)`` just before a write is in the log's file, and ``wake()``
        after every append, both from within it; returns what stops that."""


class Mirror(Protocol):
    """What a source knows of one mirror, durably and at this moment."""

    ask_durable: Callable[[int], None]

    @property
    def node(self) -> bytes:
        """Node id of the copy that it is; zero: not known."""

    @property
    def peer(self) -> str:
        """The name for which its certificate must be valid, instead of its address's host; "" for the latter."""

    @property
    def acknowledged_durable(self) -> int:
        """The highest position that it is known to have acknowledged as durable."""

    @property
    def name(self) -> str: ...

    @property
    def mode(self) -> int: ...

    @property
    def joined(self) -> bool:
        """Base and log have met there."""

    @property
    def required(self) -> bool:
        """Answers wait for it."""

    @property
    def lost(self) -> bool:
        """Nothing of the log is kept for it any more."""

    @property
    def received(self) -> int: ...

    @property
    def durable(self) -> int: ...

    @property
    def agreed_point(self) -> int: ...

    @property
    def agreed_position(self) -> int: ...


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


class Origin(Protocol):
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
    def segment_blocks(self) -> int: ...

    @property
    def feed(self) -> Feed: ...

    @property
    def blocks(self) -> int:
        """Of the volume, now."""

    def end(self) -> End:
        """Where the log ends."""

    def openings(self, position: int) -> tuple[Opening, ...]:
        """Those that had begun when the log was at ``position``."""

    def size_at(self, write: int) -> int:
        """Of the volume as of a write."""

    def point(self, number: int) -> Point | None:
        """A retained point."""

    def base_point(self, mirror: Mirror) -> Point | None:
        """The point that is held for its base, while that is not complete."""

    async def plan_base(self, mirror: Mirror) -> BasePlan:
        """What its base will take. Its point is held until the mirror has joined: the same again while it is."""

    async def based(self, mirror: Mirror) -> None:
        """Its base is complete; durable."""

    async def unpin_base(self, mirror: Mirror) -> None:
        """The base is not begun: nothing is held for it any more."""

    async def joined(self, mirror: Mirror, node: bytes) -> None:
        """Base and log have met in the copy of this node; durable, and none but this copy is the mirror from then
        on."""

    def connected(
        self, mirror: Mirror, received: int, durable: int, agreed_point: int, agreed_position: int
    ) -> None:
        """A session begins, and this is what the copy has now. It may be less than it had acknowledged."""

    def acknowledged(
        self, mirror: Mirror, received: int, durable: int, agreed_point: int, agreed_position: int
    ) -> None:
        """The mirror's own word; within a session it never goes back."""

    async def passed(self, mirror: Mirror) -> None:
        """It has agreed on a newer point, durably: less of the log is kept for it."""

    def durable_wanted(self, mirror: Mirror) -> int:
        """The newest position for whose durability there somebody waits."""

    async def open_point(self, point: Point) -> PointReader:
        """Open it for reading. NotFound: it is not retained."""


class Keeper(Protocol):
    """Where received transfers go."""

    @property
    def received(self) -> int:
        """The newest position up to which every write is complete."""

    def keep(self, carried: Sequence[Carried]) -> int:
        """Store them, in order, before it returns. NoRoomNow: nothing was stored."""

    def need(self, carried: Sequence[Carried]) -> int:
        """Blocks that these take at most."""

    async def room(self, blocks: int) -> None:
        """Wait for room for so many blocks."""


class BaseState(Protocol):
    """An unfinished base."""

    @property
    def point(self) -> int: ...

    @property
    def position(self) -> int: ...

    @property
    def chain(self) -> bytes: ...

    @property
    def next_block(self) -> int: ...


class Bound(Protocol):
    """What a copy durably knows of the source that it is bound to; see ``volume/bound.py``."""

    @property
    def source_name(self) -> str: ...

    @property
    def owes(self) -> int: ...

    async def name_source(self, name: str) -> None: ...

    async def told(self, acknowledged: int) -> None: ...


class Secondary(Keeper, Protocol):
    """A volume as the target of a source."""

    @property
    def bound(self) -> Bound: ...

    on_durable: Callable[[int], None]
    on_agreed: Callable[[Point], None]
    on_failure: Callable[[RevolumeError], None]
    ask_whole: Callable[[Point, list[int]], Awaitable[dict[int, bytes | None]]] | None

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
    def durable(self) -> int: ...

    @property
    def agreed(self) -> Point | None: ...

    @property
    def base(self) -> BaseState | None: ...

    @property
    def known_epoch(self) -> tuple[int, bytes]:
        """The newest opening that it knows."""

    @property
    def feed(self) -> Feed: ...

    async def make_durable(self, position: int) -> None:
        """Return once everything up to there survives a power cut."""

    async def put_base(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Store blocks of the base, after verifying them; the base is complete below ``next_block`` then."""

    async def settle_base(self) -> None:
        """The link is lost: what has been stored of the base survives a power cut."""

    async def finish_base(self) -> None:
        """That was all of it. Refused: it does not sum up to the point's root."""


class Shelf(Protocol):
    """The place where a target keeps a volume, or will."""

    @property
    def secondary(self) -> Secondary | None:
        """None: it is empty."""

    @property
    def node(self) -> bytes:
        """Node id of the copy that is here, or that will be made here."""

    def fit(self, segment_blocks: int) -> None:
        """A source's segments have so many blocks: an empty one that was told no size gets the same."""

    @property
    def segment_blocks(self) -> int:
        """Of the segments that an empty one will get."""

    def room(self) -> Room:
        """What there is room for."""

    async def create(self, volume: bytes, name: str, start: Start) -> Secondary:
        """Begin a base here; an unfinished one gives way. Refused: what is here may not be replaced."""

    async def drop_half(self) -> None:
        """Cut off the write of which only a part has come, and will not be continued."""
