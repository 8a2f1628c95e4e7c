"""Which segments, and which points, hold the versions between a base map, or the horizon, and a later moment."""

from __future__ import annotations

from collections.abc import Iterable

from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.map_file import MapMeta
from revolume.chain.point import Point
from revolume.chain.versions import LogRange, SegmentSpec, Span
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata.manifest_state import Horizon, Role
from revolume.volume.open_log import OpenLog
from revolume.volume.points.retained_points import RetainedPoints


def position_below(points: Iterable[Point], horizon: Horizon, base: MapMeta | None) -> Position:
    """The position up to which a map knows everything; without one the horizon's."""
    number = base.point if base is not None else 0
    return next((point.position for point in points if point.number == number), horizon.position)


def agreed_span(horizon: Horizon, base: MapMeta | None, upto: int) -> Span:
    """The points behind a map (without one, the horizon), up to that number. At a mirror their records say what
    changed; at a primary its log does."""
    return Span(base.point if base is not None else horizon.point, upto)


def reach_of(points: Iterable[Point], upto: int) -> Address:
    """The address of the last transfer that belongs to the points up to a number. Blocks that a mirror was sent
    whole for one of them may lie behind the record of the next."""
    return max((p.record for p in points if p.number <= upto), default=Address(0))


def _behind(address: Address) -> Address:
    return Address(address + 1)


class LogRanges:
    """Stretches of an open volume's log, as jobs of the helper process read them. ``base``: what a map is of that
    knows everything before; None: the image does."""

    def __init__(self, log: OpenLog, retained: RetainedPoints, image: VolumeImage) -> None:
        self._log = log
        self._retained = retained
        self._image = image

    def up_to_point(self, base: MapMeta | None, point: Point) -> LogRange:
        """What changed between ``base`` (without one, the horizon) and the cut of ``point``: up to the point's
        record, which carries blocks as of its cut and lies behind the cut."""
        return self._log_range(base, _behind(reach_of(self._retained, point.number)), point.number)

    def up_to_write(self, base: MapMeta | None, write: WriteNumber) -> LogRange:
        """What changed between ``base`` (without one, the horizon) and a write, and a little more: up to the first
        point that is not older than the write, else up to the log's end."""
        end, upto = self._log.appender.address, 0
        for point in self._retained:
            if point.write <= write:
                upto = point.number
            if point.write >= write:
                end = _behind(reach_of(self._retained, point.number))
                break
        return self._log_range(base, end, upto)

    def _log_range(self, base: MapMeta | None, end: Address, upto: int) -> LogRange:
        state, horizon = self._log.manifest.state, self._image.horizon
        begin = base.address if base is not None else horizon.address
        specs = tuple(
            SegmentSpec(s.index, s.use, s.blocks, state.ends.get(s.use))
            for s in self._log.segments_between(begin, Address(end - 1))
        )
        agreed = agreed_span(horizon, base, upto) if state.role == Role.SECONDARY else None
        return LogRange(specs, position_below(self._retained, horizon, base), end, agreed)
