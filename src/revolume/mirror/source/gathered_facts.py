"""What a source looks up before and when it decides how a copy that has answered is brought up to date."""

from __future__ import annotations

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.errors import RevolumeError
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.catch_up_plan import SourceFacts
from revolume.mirror.storage_protocols import SourceVolume
from revolume.mirror.wire.begin_messages import BaseStart, Common
from revolume.mirror.wire.codec import Identity, Pin
from revolume.mirror.wire.frames import ProtocolError
from revolume.mirror.wire.greeting_messages import Hello, TargetState, Welcome
from revolume.mirror.wire.version import SOURCE, check_chosen
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.resync_order import ResyncOrder
from revolume.volume.open.log_identity import End


def greeting(volume: SourceVolume, mirror: Mirror, node: bytes, order: ResyncOrder) -> Hello:
    """What is said to the copy first, as it is now."""
    segment_blocks, largest_blocks = volume.log_blocks
    return Hello(
        mode=mirror.mode,
        segment_blocks=segment_blocks,
        largest_blocks=largest_blocks,
        volume=volume.volume_id,
        node=node,
        reign=volume.reign,
        epoch=volume.epoch,
        size=volume.size,
        oldest=volume.feed.oldest,
        end=volume.end(),
        name=volume.name,
        mirror=mirror.name,
        expected=mirror.node,
        acknowledged=mirror.acknowledged_durable if mirror.joined else Position(0),
        joined=mirror.joined,
        prefer=order.prefer,
        points=volume.differences.points(),
        take_back=order.take_back,
    )


async def gather_facts(volume: SourceVolume, mirror: Mirror, hello: Hello, welcome: Welcome) -> SourceFacts:
    """ProtocolError: the target says what can't be."""
    check_chosen(welcome.version, SOURCE)
    if welcome.durable > welcome.end.position:
        raise ProtocolError("It says that it is where it cannot be.")
    found = None
    if welcome.state != TargetState.EMPTY and welcome.volume == hello.volume:
        found = await volume.feed.identity_at(welcome.end.position)
    at_end = Identity(*found) if found else None
    pinned = volume.base_point(mirror)
    pin = Pin(pinned.number, pinned.position, pinned.chain) if pinned else None
    common = await _common(volume, mirror, hello, welcome) if welcome.volume == hello.volume else None
    return SourceFacts(hello, at_end, pin, common=common, openings=volume.openings(hello.end.position))


async def _common(volume: SourceVolume, mirror: Mirror, hello: Hello, welcome: Welcome) -> Common | None:
    """The point at which the target stands, or an earlier one, if what has changed since is known here. Of a copy
    that differs from it, what has changed is not all that it lacks."""
    if welcome.state != TargetState.WHOLE or not welcome.points or welcome.differs:
        return None
    stands, end = welcome.points[0], welcome.end.position
    return await volume.differences.common(mirror, stands, end, hello.prefer, welcome.base)


def _by_lineage(volume: SourceVolume, point: Point) -> tuple[int, bytes, bytes] | None:
    """The identity of the transfer at a point that the log has left, and that is pinned: its opening is the last
    that had begun before it."""
    openings = volume.openings(point.position)
    pinned = volume.differences.known(point.number) is not None
    return (openings[-1].number, openings[-1].reign, point.chain) if openings and pinned else None


async def base_start(volume: SourceVolume, plan: BasePlan) -> BaseStart:
    """What a new copy is told of the point at which its base begins. RevolumeError: the log there is gone."""
    point = plan.point
    found = await volume.feed.identity_at(point.position) or _by_lineage(volume, point)
    if found is None:
        raise RevolumeError("log-gone", f"The log at point cp{point.number} is not there.", "Try again.")
    return BaseStart(
        end=End(point.position, *found, point.write, point.time_ns),
        number=point.number,
        write=point.write,
        time_ns=point.time_ns,
        size=volume.size_at(point.write),
        root=point.root,
        epochs=volume.openings(volume.end().position),
        names=plan.names,
        names_position=plan.names_position,
        members=plan.members,
        resync_points=plan.resync_points,
    )


def standing(welcome: Welcome) -> Positions:
    """The copy has at least what is durable there."""
    durable = welcome.durable
    return Positions(durable, durable, welcome.agreed_point, min(welcome.agreed_position, durable))
