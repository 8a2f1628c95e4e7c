"""What a service serves: a volume in one of its two roles. The faces speak to either alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from revolume.api.shapes import PointValues, SnapshotValues
from revolume.cli.heard import Heard
from revolume.cli.serving import Serving
from revolume.history.exports import VolumeExports
from revolume.history.moments import Moment
from revolume.history.spot import Spot
from revolume.volume.options import OpenOptions
from revolume.volume.status import VolumeStatus


class Role(Protocol):
    """A volume, open as primary or as secondary."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def exports_now(self) -> VolumeExports:
        """RevolumeError: there is nothing to be opened, and why."""

    def status(self) -> VolumeStatus: ...
    def mirroring(self) -> dict[str, Any]:
        """What its status has beyond that: the role, and the other ends."""

    def points(self) -> Sequence[PointValues]: ...
    def snapshots(self) -> Sequence[SnapshotValues]: ...
    def resolve(self, moment: Moment) -> Spot: ...
    @property
    def waits_in_vain(self) -> bool:
        """Clients' answers wait for another node that is away."""

    async def cut(self) -> PointValues: ...
    async def snapshot(self, name: str) -> SnapshotValues: ...
    async def drop_snapshot(self, name: str) -> None: ...
    async def grow(self, size: int) -> None: ...
    async def detach(self, name: str) -> None: ...
    async def replace_mirror(self, name: str, yes: bool) -> str: ...
    def follow(self, heard: Heard) -> None:
        """Tell this one what happens to the volume, also what has happened already."""

    async def close(self) -> None:
        """Clients are gone: a clean stop."""


def open_options(asked: Serving, **more: Any) -> OpenOptions:
    """What was asked for; the volume's own defaults for the rest."""
    given = {
        "name": asked.name,
        "size": asked.size,
        "cp_interval_s": asked.cp_interval_s,
        "keep_s": asked.keep_s,
        "budget_bytes": asked.budget_bytes,
        "budget_once": asked.budget_once,
        "map_memory_bytes": asked.map_memory_bytes,
        "segment_bytes": asked.segment_bytes,
        "spare_bytes": asked.spare_bytes,
        "overlay_quota_bytes": asked.overlay_quota_bytes,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return OpenOptions(**chosen, **more)
