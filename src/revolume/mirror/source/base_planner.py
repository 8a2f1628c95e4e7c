"""What the base of a new mirror takes, and the point that is held for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.source.moment_reader import PinnedMoments
from revolume.mirror.source.point_reader import open_point
from revolume.mirror.wire.begin_messages import BaseNeed, NamedSnapshot
from revolume.volume.members.base_start import held_by
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.resync_points import resync_points_of
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.manifest_state import PinnedSnapshot
from revolume.volume.primary import Volume


class BasePlanner:
    """Of ``volume``, for one mirror: ``history`` says how much of the past its base begins with, ``moments`` are
    the earlier pinned ones. ``point``: a point that is known here, by its number; None: it is not."""

    def __init__(
        self, volume: Volume, history: History, moments: PinnedMoments, point: Callable[[int], Point | None]
    ) -> None:
        self._volume = volume
        self._history = history
        self._moments = moments
        self._point = point
        self._counted: tuple[int, int] | None = None
        """A point's number, and how many blocks of it hold anything."""

    def point(self, mirror: Mirror) -> Point | None:
        """The point that is held for the mirror's base, while that is not complete."""
        state = self._volume.mirrors.get(mirror.name).state
        moved = state.since is not None and state.write != state.since
        return None if state.joined or not state.kept or moved else self._point(state.point)

    async def plan(self, mirror: Mirror, with_moments: bool = False) -> BasePlan:
        """What the mirror's base takes; its point is held from now on, until the mirror has joined.
        ``with_moments``: the mirror takes earlier pinned moments beside it."""
        volume = self._volume
        point, known = self.point(mirror), self._volume.mirrors.get(mirror.name)
        if point is None or known.state.based:  # a copy that was whole is gone: what was kept for that one is not
            point = await volume.mirrors.pin_base(known, volume.base_start(self._history))
        snapshots, position = await volume.names.listed()
        members = await volume.membership.listed()
        held, lacking = held_by(point.write, snapshots)
        following = {moment.write for moment in self._moments.before(point)} if with_moments else set()
        names = [
            NamedSnapshot(s.name, s.write, s.point, s.time_ns, here, not here and s.write in following)
            for s, here in _with(held, lacking)
        ]
        base = BLOCK * await self._count(point) + (self._moments.bytes_before(point) if with_moments else 0)
        need = BaseNeed(base, self._log_behind(held[0].point) if held else 0)
        return BasePlan(
            point=point,
            names=tuple(names),
            names_position=position,
            need=need,
            log=self._log_behind(point.number),
            oldest=volume.oldest.write,
            members=members,
            resync_points=tuple(
                each
                for each in resync_points_of(volume.manifest.state)
                if each.write >= point.write or each.write in following
            ),
        )

    async def _count(self, point: Point) -> int:
        if self._counted is None or self._counted[0] != point.number:
            reader = await open_point(self._volume, point)
            try:
                self._counted = point.number, await reader.count()
            finally:
                reader.close()
        return self._counted[1]

    def _log_behind(self, number: int) -> int:
        """Bytes of this node's log behind a point's cut."""
        point, end = self._point(number), self._volume.feed.end_address
        if point is None:
            return 0
        return max(0, end - point.address - self._volume.log.pool.gap_between(point.address, end)) * BLOCK


def _with(
    held: Sequence[PinnedSnapshot], lacking: Sequence[PinnedSnapshot]
) -> Iterator[tuple[PinnedSnapshot, bool]]:
    """Each with whether it is held."""
    yield from ((snapshot, True) for snapshot in held)
    yield from ((snapshot, False) for snapshot in lacking)
