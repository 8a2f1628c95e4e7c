"""What a volume that is open here says of itself to whoever asks with EXAMINE: values of now, and one look at the
log. It changes nothing, and no session notices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.mirror.storage_protocols import Feed
from revolume.mirror.wire.begin_messages import EpochEntry
from revolume.mirror.wire.codec import Identity
from revolume.mirror.wire.examine_messages import POINTS_MAX, Examined, PointEntry, Standing
from revolume.mirror.wire.tail_messages import Fetch
from revolume.mirror.wire.version import common
from revolume.volume.members.membership import reached_at
from revolume.volume.metadata.manifest_state import Member
from revolume.volume.open.log_identity import End
from revolume.volume.open_log import OpenLog


class ExaminedVolume(Protocol):
    """An open volume, as primary or as secondary."""

    @property
    def name(self) -> str: ...

    @property
    def volume_id(self) -> bytes: ...

    @property
    def feed(self) -> Feed: ...

    @property
    def log(self) -> OpenLog: ...

    def points(self) -> Sequence[Point]: ...


async def examine_volume(
    volume: ExaminedVolume,
    asked: Fetch,
    *,
    standing: Standing,
    end: End,
    agreed: tuple[int, Position],
    whole: bool,
    why_not: str,
    members: Sequence[Member] | None = None,
) -> Examined:
    """``end``: of its log; ``agreed``: number and position of the point at which it stands; ``why_not``: why it
    can't be promoted; ``members``: as its log has them to its end, if that is more than its manifest knows."""
    state, found = volume.log.manifest.state, None
    if asked.volume == volume.volume_id:
        found = await volume.feed.identity_at(asked.end.position)
    return Examined(
        standing=standing,
        whole=whole,
        node=state.node,
        volume=volume.volume_id,
        end=end,
        durable=volume.log.commit.durable,
        agreed_point=agreed[0],
        agreed_position=agreed[1],
        at_asked_end=Identity(*found) if found else None,
        segment_blocks=volume.log.pool.segment_blocks,
        name=volume.name,
        why_not=why_not,
        address=reached_at(state.listener),
        epochs=tuple(EpochEntry(e.number, e.reign, e.position, e.write) for e in state.epochs),
        points=tuple(_entry(point) for point in reversed(volume.points()[-POINTS_MAX:])),
        members=state.members if members is None else tuple(members),
        version=common(asked.versions),
    )


def _entry(point: Point) -> PointEntry:
    return PointEntry(point.number, point.position, point.write, point.epoch, point.digest, point.root)
