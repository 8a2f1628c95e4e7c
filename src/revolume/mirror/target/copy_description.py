"""What a target has, as WELCOME says it: to a source that greets it, and to a peer that only asks."""

from __future__ import annotations

from revolume.blocks.numbers import Position
from revolume.mirror.copy_protocols import CopyDirectory, TargetVolume
from revolume.mirror.wire.codec import NOWHERE, PINS_MAX, Identity, Pin
from revolume.mirror.wire.greeting_messages import Hello, TargetState, Welcome
from revolume.mirror.wire.tail_messages import Fetch
from revolume.mirror.wire.version import COMPARISON, common


async def describe_copy(directory: CopyDirectory, asked: Hello | Fetch) -> Welcome:
    """``asked``: the greeting to be answered. An empty directory takes over the size of a source's segments."""
    volume = directory.secondary
    if volume is None:
        if isinstance(asked, Hello):
            directory.fit(asked.segment_blocks)
        return _empty(directory, common(asked.versions))
    found = None
    if asked.volume == volume.volume_id:
        found = await volume.feed.identity_at(asked.end.position)
    agreed, base = volume.agreed, volume.base
    # An unfinished base is nobody's state: the peer that has begun it keeps no other source away.
    epoch, reign = volume.known_epoch if base is None else (NOWHERE.epoch, NOWHERE.reign)
    return Welcome(
        state=TargetState.WHOLE if base is None else TargetState.BASE,
        segment_blocks=volume.segment_blocks,
        known_epoch=epoch,
        known_reign=reign,
        node=directory.node,
        volume=volume.volume_id,
        end=volume.end,
        durable=volume.durable,
        agreed_point=agreed.number,
        agreed_position=agreed.position,
        agreed_root=agreed.root,
        at_source_end=Identity(*found) if found else None,
        base=Pin(base.point, base.position, base.chain) if base else _of_difference(volume),
        next_block=_next_block(volume),
        room=directory.room(),
        advertised=directory.advertised,
        points=_points(volume, asked),
        yields=volume.bound.yields,
        seeded=directory.seeded and common(asked.versions) >= COMPARISON,
        differs=bool(volume.differs_since) and common(asked.versions) >= COMPARISON,
        version=common(asked.versions),
    )


def _points(volume: TargetVolume, asked: Hello | Fetch) -> tuple[Pin, ...]:
    """The agreed one, and those that the source names and this copy has as well."""
    agreed = volume.agreed
    stands = Pin(agreed.number, agreed.position, agreed.chain)
    if not isinstance(asked, Hello):
        return (stands,)
    held = (*volume.points(), *volume.isolated_points())
    own = {Pin(point.number, point.position, point.chain) for point in held}
    return (stands, *(pin for pin in asked.points[: PINS_MAX - 1] if pin in own and pin != stands))


def _of_difference(volume: TargetVolume) -> Pin | None:
    """The point of a difference that is partly there."""
    if volume.jump is None:
        return None
    point = volume.jump.target.point
    return Pin(point.point, point.position, point.chain)


def _next_block(volume: TargetVolume) -> int:
    if volume.base is not None:
        return volume.base.next_block
    return volume.jump.next_block if volume.jump is not None else 0


def _empty(directory: CopyDirectory, version: int) -> Welcome:
    return Welcome(
        state=TargetState.EMPTY,
        segment_blocks=directory.segment_blocks,
        known_epoch=NOWHERE.epoch,
        known_reign=NOWHERE.reign,
        node=directory.node,
        volume=bytes(16),
        end=NOWHERE,
        durable=Position(0),
        agreed_point=0,
        agreed_position=Position(0),
        agreed_root=(0, 0),
        at_source_end=None,
        base=None,
        next_block=0,
        room=directory.room(),
        advertised=directory.advertised,
        seeded=directory.seeded and version >= COMPARISON,
        version=version,
    )
