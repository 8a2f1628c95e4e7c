"""A base map made while the volume is being opened, because what changed since the last one does not fit in
the memory given to the live map: less was given than before, or the base was lost.

Up to the last sealed point the helper merges it into a new base, in a file; what is behind that point is replayed
into memory and must fit. Nothing else changes: it is the same map that the running volume would have made.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from revolume.blocks.numbers import Address, Position
from revolume.blocks.overlay import bytes_for
from revolume.chain.map_builder import MapSpec, make_map
from revolume.chain.map_file import MapFile
from revolume.chain.point import Point
from revolume.chain.versions import LogRange, SegmentSpec, Span
from revolume.errors import Damaged, UsageError
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.log.format.columns import Columns, select
from revolume.volume.livemap.log_ranges import reach_of
from revolume.volume.livemap.point_records import Pieces, addresses, read_points
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Role, State
from revolume.volume.unread import Unread

U64 = npt.NDArray[np.uint64]
MAP_SLACK = 1 << 17
"""Entries that must always fit beside what is there: more than one batch of changes makes."""
MIB = 1 << 20


def check_memory(map_memory_bytes: int) -> None:
    """UsageError unless a live map can live in it."""
    least = bytes_for(2 * MAP_SLACK)
    if map_memory_bytes < least:
        raise UsageError(
            "map-memory-too-small",
            f"A live map can't work in {map_memory_bytes} bytes.",
            f"Give --map-memory {-(-least // MIB)}MiB or more.",
        )


def too_small(map_memory_bytes: int, pieces: Pieces, cut: Address) -> UsageError:
    """What was written since the last point, at ``cut``, does not fit."""
    parts = [_changed(columns, cut) for _, columns in pieces]
    blocks = len(np.unique(np.concatenate(parts))) if parts else 0
    needed = -(-bytes_for(blocks + MAP_SLACK) // MIB)
    return UsageError(
        "map-memory-too-small",
        f"{blocks} blocks were changed since the last consistency point: their map does not fit in "
        f"{map_memory_bytes} bytes.",
        f"Give --map-memory {needed}MiB or more; after the next point less will do.",
    )


def _changed(columns: Columns, cut: Address) -> U64:
    versions = select(columns, addresses(columns) >= np.uint64(cut)).versions()
    return np.concatenate([versions.blocks, versions.fragment_blocks])


class FirstBase:
    """Makes a base map while a volume is being opened. ``pieces``: the log as it stands, all of it durable."""

    def __init__(self, host: Host, log: Directory, maps: Directory, pieces: Pieces) -> None:
        self._host = host
        self._log = log
        self._maps = maps
        self._pieces = pieces

    async def make(
        self, state: State, base: MapFile | None, edit: int, upto: Position | None
    ) -> tuple[str | None, Address]:
        """The new base's file name, and the cut for which it stands; no name if none would be newer than
        ``base``. ``edit``: the manifest's last, for the name. ``upto``: see ``replay``."""
        unread: list[Unread] | None = None if state.role == Role.SECONDARY else []
        points, _ = await self._host.work.call(
            read_points, state.volume, self._pieces, state.horizon, upto, unread
        )
        begin = base.meta.address if base is not None else state.horizon.address
        if not points or points[-1].address <= begin:
            return None, begin
        point = points[-1]
        name = layout.base_map_name(point.number, edit)
        spec = MapSpec(
            log_path=self._log.path,
            maps_path=self._maps.path,
            volume=state.volume,
            log_range=self._log_range(state, base, points),
            base=state.base_map if base is not None else "",
            after=base.meta.write if base is not None else state.horizon.write,
            upto=point.write,
            folded=state.horizon.address,
            name=name,
            address=point.address,
            point=point.number,
        )
        made = await self._host.work.job(make_map, spec)
        if made.fragments:
            raise Damaged(
                "point-damaged",
                f"Point cp{point.number} does not carry every block that was partially modified before it.",
                "Run 'revolume check' on the stopped volume.",
            )
        return name, point.address

    def _log_range(self, state: State, base: MapFile | None, points: list[Point]) -> LogRange:
        begin = base.meta.address if base is not None else state.horizon.address
        after = state.horizon.position
        if base is not None:
            after = next((p.position for p in points if p.number == base.meta.point), after)
        reach = reach_of(points, points[-1].number)
        first, last = begin // state.segment_blocks, reach // state.segment_blocks
        specs = tuple(
            SegmentSpec(s.index, s.use, s.blocks, state.ends.get(s.use))
            for s, _ in self._pieces
            if first <= s.use <= last
        )
        agreed = None
        if state.role == Role.SECONDARY:
            agreed = Span(base.meta.point if base is not None else state.horizon.point, points[-1].number)
        return LogRange(specs, after, Address(reach + 1), agreed)
