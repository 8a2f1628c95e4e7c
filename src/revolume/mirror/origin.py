"""An open volume as the source of its mirrors: what ``parts.Origin`` asks, answered by its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from revolume.chain.point import Point
from revolume.log.transfer import BLOCK
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.messages import Named, Need, Opening
from revolume.mirror.parts import Feed, Mirror, PointReader
from revolume.mirror.reading import open_point
from revolume.volume.base_history import History
from revolume.volume.base_start import held_by, point_of
from revolume.volume.end import End
from revolume.volume.manifest import PinnedSnapshot
from revolume.volume.mirrors import Mirror as Known
from revolume.volume.volume import Volume


class VolumeOrigin:
    """See the module's text."""

    def __init__(self, volume: Volume, history: History = History.NAMED) -> None:
        self._volume = volume
        self._history = history
        self._counted: tuple[int, int] | None = None
        """A point's number, and how many blocks of it hold anything."""

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
        return self._volume.core.appender.reign

    @property
    def segment_blocks(self) -> int:
        return self._volume.core.pool.segment_blocks

    @property
    def blocks(self) -> int:
        return -(-self._volume.size // BLOCK)

    def end(self) -> End:
        """See ``parts.Origin``. An opening's first transfer is its own fact, so the end is of this epoch."""
        at = self._volume.core.appender
        return End(at.position, at.epoch, at.reign, at.chain, at.write, at.time_ns)

    def openings(self, position: int) -> tuple[Opening, ...]:
        """See ``parts.Origin``."""
        epochs = self._volume.core.manifest.state.epochs
        return tuple(Opening(e.number, e.reign, e.position, e.write) for e in epochs if e.position < position)

    def size_at(self, write: int) -> int:
        """See ``parts.Origin``."""
        return self._volume.core.size_at(write)

    def point(self, number: int) -> Point | None:
        """See ``parts.Origin``."""
        found = next((point for point in self._volume.points() if point.number == number), None)
        horizon = self._volume.folder.horizon
        return point_of(horizon) if found is None and number == horizon.point else found

    def _known(self, mirror: Mirror) -> Known:
        return self._volume.mirrors.get(mirror.name)

    def base_point(self, mirror: Mirror) -> Point | None:
        """See ``parts.Origin``."""
        state = self._known(mirror).state
        moved = state.since is not None and state.write != state.since
        return None if state.joined or not state.kept or moved else self.point(state.point)

    async def plan_base(self, mirror: Mirror) -> BasePlan:
        """See ``parts.Origin``."""
        volume = self._volume
        point, known = self.base_point(mirror), self._known(mirror)
        if point is None or known.state.based:  # a copy that was whole is gone: what was kept for that one is not
            point = await volume.mirrors.pin_base(known, volume.base_start(self._history))
        snapshots, position = await volume.named()
        held, lacking = held_by(point.write, snapshots)
        names = [Named(s.name, s.write, s.point, s.time_ns, here) for s, here in _with(held, lacking)]
        need = Need(BLOCK * await self._count(point), self._log_behind(held[0].point) if held else 0)
        return BasePlan(point, tuple(names), position, need, self._log_behind(point.number))

    async def _count(self, point: Point) -> int:
        if self._counted is None or self._counted[0] != point.number:
            reader = await self.open_point(point)
            try:
                self._counted = point.number, await reader.count()
            finally:
                reader.close()
        return self._counted[1]

    def _log_behind(self, number: int) -> int:
        """Bytes of this node's log behind a point's cut."""
        point, end = self.point(number), self.feed.end_address
        if point is None:
            return 0
        return max(0, end - point.address - self._volume.core.pool.gap_between(point.address, end)) * BLOCK

    async def based(self, mirror: Mirror) -> None:
        """See ``parts.Origin``."""
        await self._volume.mirrors.based(self._known(mirror))

    async def unpin_base(self, mirror: Mirror) -> None:
        """See ``parts.Origin``."""
        await self._volume.mirrors.unpin_base(self._known(mirror))

    async def joined(self, mirror: Mirror, node: bytes) -> None:
        """See ``parts.Origin``."""
        await self._volume.mirrors.joined(self._known(mirror), node)

    def connected(
        self, mirror: Mirror, received: int, durable: int, agreed_point: int, agreed_position: int
    ) -> None:
        """See ``parts.Origin``."""
        known = self._known(mirror)
        self._volume.mirrors.connected(known, received, durable, agreed_point, agreed_position)

    def acknowledged(
        self, mirror: Mirror, received: int, durable: int, agreed_point: int, agreed_position: int
    ) -> None:
        """See ``parts.Origin``."""
        known = self._known(mirror)
        self._volume.mirrors.acknowledged(known, received, durable, agreed_point, agreed_position)

    async def passed(self, mirror: Mirror) -> None:
        """See ``parts.Origin``."""
        await self._volume.mirrors.passed(self._known(mirror))

    def durable_wanted(self, mirror: Mirror) -> int:
        """See ``parts.Origin``."""
        return max((position for position, _ in self._known(mirror).waiting), default=0)

    async def open_point(self, point: Point) -> PointReader:
        """See ``parts.Origin``."""
        return await open_point(self._volume, point)


def _with(
    held: Sequence[PinnedSnapshot], lacking: Sequence[PinnedSnapshot]
) -> Iterator[tuple[PinnedSnapshot, bool]]:
    """Each with whether it is held."""
    yield from ((snapshot, True) for snapshot in held)
    yield from ((snapshot, False) for snapshot in lacking)
