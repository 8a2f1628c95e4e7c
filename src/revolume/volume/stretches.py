"""The columns of a stretch of an open volume's log, wherever they are: in memory, in footers, in headers."""

from __future__ import annotations

from revolume.chain.versions import scanned_columns
from revolume.log.columns import Columns
from revolume.log.segment import Segment, read_footer
from revolume.volume.core import Core


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
    footer = read_footer(segment, core.volume_id)
    if footer is not None:
        return footer.columns
    return scanned_columns(segment, core.volume_id, core.manifest.state.ends.get(segment.use))
