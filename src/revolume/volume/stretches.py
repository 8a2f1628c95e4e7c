"""The columns of a stretch of an open volume's log, wherever they are: in memory, in footers, in headers."""

from __future__ import annotations

from collections.abc import Sequence

from revolume.chain.mapfile import MapFile
from revolume.chain.point import Point
from revolume.chain.versions import Span, segment_columns
from revolume.log.columns import Columns
from revolume.log.segment import Segment
from revolume.volume.core import Core
from revolume.volume.manifest import Role


def position_below(core: Core, base: MapFile | None) -> int:
    """The position up to which ``base`` knows everything; without one the horizon's."""
    number = base.meta.point if base is not None else 0
    found = (p.position for p in core.points if p.number == number)
    return next(found, core.horizon.position)


def agreed_span(core: Core, base: MapFile | None, upto: int) -> Span | None:
    """At a mirror: the points behind ``base`` (without one, the horizon), up to that number, whose records say
    what changed. None at a primary, whose log says it."""
    if core.manifest.state.role != Role.SECONDARY:
        return None
    return Span(base.meta.point if base is not None else core.horizon.point, upto)


def reach_of(points: Sequence[Point], upto: int) -> int:
    """The address of the last transfer that belongs to the points up to a number. Blocks that a mirror was sent
    whole for one of them may lie behind the record of the next."""
    return max((p.record for p in points if p.number <= upto), default=0)


async def columns_between(core: Core, begin: int, end: int) -> list[Columns]:
    """Columns of the segments that overlap these addresses, oldest first."""
    await core.footers_written()
    size = core.pool.segment_blocks
    ready = {segment.use for segment in core.pool.ready}
    chosen = [
        s for s in core.pool.segments() if begin // size <= s.use <= end // size and s.use not in ready
    ]
    return [await _columns(core, segment) for segment in chosen]


async def _columns(core: Core, segment: Segment) -> Columns:
    appender = core.appender
    if appender.segment is not None and segment.use == appender.segment.use:
        return appender.columns.freeze()
    return await core.host.work.call(_read, core, segment)


def _read(core: Core, segment: Segment) -> Columns:
    return segment_columns(segment, core.volume_id, core.manifest.state.ends.get(segment.use))
