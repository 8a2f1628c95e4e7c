"""An open volume as the source of its mirrors: what ``parts.Origin`` asks, answered by its parts."""

from __future__ import annotations

from revolume.chain.point import Point
from revolume.log.transfer import BLOCK
from revolume.mirror.messages import Opening
from revolume.mirror.parts import Feed, Mirror, PointReader
from revolume.mirror.reading import open_point
from revolume.volume.end import End
from revolume.volume.mirrors import Mirror as Known
from revolume.volume.volume import Volume


class VolumeOrigin:
    """See the module's text."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

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
        return next((point for point in self._volume.points() if point.number == number), None)

    def _known(self, mirror: Mirror) -> Known:
        return self._volume.mirrors.get(mirror.name)

    def base_point(self, mirror: Mirror) -> Point | None:
        """See ``parts.Origin``."""
        known = self._known(mirror)
        return None if known.joined or not known.state.point else self.point(known.state.point)

    async def pin_base(self, mirror: Mirror) -> Point:
        """See ``parts.Origin``."""
        return await self._volume.mirrors.pin_base(self._known(mirror))

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
