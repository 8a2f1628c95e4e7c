"""Where the history of a new mirror begins: at which retained point its base is taken. Pure.

A mirror holds what is behind its base's point, and nothing before it: names and moments that are older are not on
it, and a failover to it loses them.
"""

from __future__ import annotations

from collections.abc import Sequence

from revolume.chain.point import Point
from revolume.volume.base_history import History
from revolume.volume.manifest import Horizon, PinnedSnapshot


def point_of(h: Horizon) -> Point:
    """The point that the image holds."""
    root = (h.root_low, h.root_high)
    return Point(h.point, 0, h.position, h.write, h.time_ns, 0, 0, root, h.chain, 0, h.address, 0)


def base_start(
    history: History,
    points: Sequence[Point],
    horizon: Horizon,
    retired_write: int,
    snapshots: Sequence[PinnedSnapshot],
    first_address: int = 0,
) -> Point | None:
    """The retained point at which the base begins. None: a point that is made for it now. What lies before
    ``first_address`` must go so that the log has room for what is written while the base is sent; a snapshot keeps
    it all the same."""
    retained = [point for point in points if point.write >= retired_write]
    if horizon.write >= retired_write and all(point.number != horizon.point for point in retained):
        retained.insert(0, point_of(horizon))
    match history:
        case History.ALL:
            return next((point for point in retained if point.address >= first_address), None)
        case History.NAMED:
            named = {snapshot.point for snapshot in snapshots}
            return next((point for point in retained if point.number in named), None)
        case History.NONE:
            return None


def held_by(write: int, snapshots: Sequence[PinnedSnapshot]) -> tuple[list[PinnedSnapshot], list[PinnedSnapshot]]:
    """The snapshots that a copy holds whose history begins at ``write``, and those that it lacks; oldest first."""
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.write)
    return [s for s in ordered if s.write >= write], [s for s in ordered if s.write < write]
