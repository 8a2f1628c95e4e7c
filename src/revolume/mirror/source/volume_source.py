"""An open volume as the source of its mirrors: ``storage_protocols.SourceVolume``, answered by its parts."""

from __future__ import annotations

from revolume.blocks.numbers import Position, WriteNumber
from revolume.chain.point import Point
from revolume.errors import Refused
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.source.base_planner import BasePlanner
from revolume.mirror.source.differences import Differences
from revolume.mirror.source.moment_reader import PinnedMoments
from revolume.mirror.source.point_reader import open_point
from revolume.mirror.storage_protocols import Feed, PointReader
from revolume.mirror.wire.begin_messages import EpochEntry
from revolume.volume.members.base_start import point_of
from revolume.volume.members.kept_points import KeptStatus
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.base_history import History
from revolume.volume.open.log_identity import End
from revolume.volume.primary import Volume
from revolume.volume.primary_status import kept_status


class VolumeSource:
    """``volume``, for one mirror: ``history`` says how much of the past a base of that mirror begins with."""

    def __init__(self, volume: Volume, history: History = History.NAMED) -> None:
        self._volume = volume
        self._history = history
        self.healing = volume.healing
        self.found_differences = volume.found_differences
        self.suspect = volume.suspect
        self.moments = PinnedMoments(volume, history)
        self.differences = Differences(volume, self.point)
        self._bases = BasePlanner(volume, history, self.moments, self.point)

    @property
    def feed(self) -> Feed:
        return self._volume.feed

    @property
    def name(self) -> str:
        return self._volume.name

    @property
    def volume_id(self) -> bytes:
        return self._volume.volume_id

    @property
    def size(self) -> int:
        return self._volume.size

    @property
    def epoch(self) -> int:
        return self._volume.epoch

    @property
    def reign(self) -> bytes:
        return self._volume.log.appender.reign

    @property
    def log_blocks(self) -> tuple[int, int]:
        return self._volume.log.pool.segment_blocks, self._volume.log.appender.largest_blocks

    def end(self) -> End:
        """Where the log ends. An opening's first transfer is its own fact, so the end is of this epoch."""
        at = self._volume.log.appender
        return End(
            position=at.position,
            epoch=at.epoch,
            reign=at.reign,
            chain=at.chain,
            write=at.write,
            time_ns=at.time_ns,
        )

    def openings(self, position: Position) -> tuple[EpochEntry, ...]:
        """The openings that had begun when the log was at ``position``, oldest first."""
        epochs = self._volume.manifest.state.epochs
        return tuple(EpochEntry(e.number, e.reign, e.position, e.write) for e in epochs if e.position < position)

    def size_at(self, write: WriteNumber) -> int:
        """Bytes of the volume as of a write."""
        return self._volume.size_at(write)

    def point(self, number: int) -> Point | None:
        """A retained point, or the one that the image holds; None: it is not retained."""
        found = next((point for point in self._volume.points() if point.number == number), None)
        horizon = self._volume.folder.horizon
        return point_of(horizon) if found is None and number == horizon.point else found

    def _known(self, mirror: Mirror) -> Mirror:
        return self._volume.mirrors.get(mirror.name)

    def base_point(self, mirror: Mirror) -> Point | None:
        """The point that is held for the mirror's base, while that is not complete."""
        return self._bases.point(mirror)

    async def plan_base(self, mirror: Mirror, with_moments: bool = False) -> BasePlan:
        """What the mirror's base takes; its point is held from now on, until the mirror has joined.
        ``with_moments``: the mirror takes earlier pinned moments beside it."""
        return await self._bases.plan(mirror, with_moments)

    async def based(self, mirror: Mirror, with_moments: bool = False) -> None:
        """The base is complete, durably, and earlier pinned moments went ``with_moments`` before it."""
        await self._volume.mirrors.based(self._known(mirror), with_moments and self._history != History.NONE)

    async def unpin_base(self, mirror: Mirror) -> None:
        """The base is not begun: nothing is held for it any more."""
        await self._volume.mirrors.unpin_base(self._known(mirror))

    async def joined(self, mirror: Mirror, node: bytes, advertised: str = "") -> None:
        """The copy of this node has joined, durably. Refused: what was kept for it has just been given up."""
        await self._volume.mirrors.joined(self._known(mirror), node, advertised)

    def refuse_same_copy(self, mirror: Mirror, node: bytes) -> None:
        """Refused: the copy of this node has joined as another mirror."""
        for other in self._volume.mirrors:
            if other.name != mirror.name and other.joined and other.node == node:
                raise Refused(
                    "same-copy", f"The copy that answers is mirror {other.name} already.",
                    f"Give one of the two up: 'revolume mirror remove DIR {mirror.name}'.",
                )  # fmt: skip

    def connected(self, mirror: Mirror, there: Positions) -> None:
        """A session begins, and this is what the copy has now."""
        self._volume.mirrors.connected(self._known(mirror), there)

    def acknowledged(self, mirror: Mirror, now: Positions) -> None:
        """The mirror says that it has come so far."""
        self._volume.mirrors.acknowledged(self._known(mirror), now)

    async def advance_hold(self, mirror: Mirror) -> None:
        """Less of the log is kept for the mirror: it has agreed on a newer point, durably."""
        await self._volume.mirrors.advance_hold(self._known(mirror))

    def durable_wanted(self, mirror: Mirror) -> Position:
        """The newest position that somebody waits for to be durable at the mirror; 0: nobody waits."""
        return max((position for position, _ in self._known(mirror).waiting), default=Position(0))

    def kept_status(self, mirror: Mirror) -> KeptStatus:
        """What is kept for the mirror, now."""
        return kept_status(self._volume, self._known(mirror))

    async def open_point(self, point: Point) -> PointReader:
        """The point, opened for reading. NotFound: it is not retained."""
        return await open_point(self._volume, point)
