"""Where the history of a new mirror begins: at which retained point its base is taken. Pure.

A mirror holds what is behind its base's point, and nothing before it: names and moments that are older are not on
it, and a failover to it loses them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.point import Point
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.manifest_state import Horizon, PinnedSnapshot


def point_of(h: Horizon) -> Point:
    """The point that the image holds."""
    return Point(
        number=h.point, previous=0, position=h.position, write=h.write, time_ns=h.time_ns, epoch=0, digest=0,
        root=(h.root_low, h.root_high), chain=h.chain, changed_blocks=0, address=h.address, record=Address(0),
    )  # fmt: skip


def base_start(
    history: History,
    points: Sequence[Point],
    horizon: Horizon,
    retired_write: WriteNumber,
    snapshots: Sequence[PinnedSnapshot],
    first_address: Address = Address(0),
    away: Collection[WriteNumber] = (),
) -> Point | None:
    """The retained point at which the base begins. None: a point that is made for it now. What lies before
    ``first_address`` must go so that the log has room for what is written while the base is sent, unless a
    snapshot keeps it all the same. ``away``: where members stand that are away; the copy shall know what has
    changed since."""
    retained = [point for point in points if point.write >= retired_write]
    if horizon.write >= retired_write and all(point.number != horizon.point for point in retained):
        retained.insert(0, point_of(horizon))
    named = {snapshot.write for snapshot in snapshots}
    match history:
        case History.ALL:
            return next(
                (point for point in retained if point.address >= first_address or point.write in named), None
            )
        case History.NAMED:
            members = {p.write for p in retained if p.write in away and p.address >= first_address}
            return next((point for point in retained if point.write in named | members), None)
        case History.NONE:
            return None


def held_by(
    write: WriteNumber, snapshots: Sequence[PinnedSnapshot]
) -> tuple[list[PinnedSnapshot], list[PinnedSnapshot]]:
    """The snapshots that a copy holds whose history begins at ``write``, and those that it lacks; oldest first."""
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.write)
    return [s for s in ordered if s.write >= write], [s for s in ordered if s.write < write]
