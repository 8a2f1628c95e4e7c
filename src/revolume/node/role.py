"""What a service serves: a volume in one of its two roles. The faces speak to either alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from revolume.api.clone_schemas import CloneOrder, CloneSchema
from revolume.api.moment_schemas import PointValues, SnapshotValues
from revolume.api.schemas import (
    AddedMirrorSchema,
    MirrorOrder,
    MirrorSetSchema,
    ResyncOrder,
    ResyncSchema,
)
from revolume.history.exports import VolumeExports
from revolume.history.moments import Moment
from revolume.history.resolved_moment import ResolvedMoment
from revolume.jobs.jobs import Jobs
from revolume.node.event_log import Observer
from revolume.volume.space.keep_order import KeepOrders
from revolume.volume.space.kept_history import KeptHistory
from revolume.volume.state.status import VolumeStatus
from revolume.volume.suspect.periods import SuspectPeriods


class Role(Protocol):
    """A volume, open as primary or as secondary."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def jobs(self) -> Jobs:
        """The long operations on this volume."""

    @property
    def listening(self) -> str:
        """Where other nodes find it; "" if it does not listen."""

    def exports_now(self) -> VolumeExports:
        """RevolumeError: there is nothing to be opened, and why."""

    def clone_exports(self) -> Mapping[str, VolumeExports]:
        """What its clones offer, by their names."""

    def status(self) -> VolumeStatus: ...
    def mirroring(self) -> dict[str, Any]:
        """What its status has beyond that: the role, and the other ends."""

    def points(self) -> Sequence[PointValues]: ...
    def snapshots(self) -> Sequence[SnapshotValues]: ...
    def resolve(self, moment: Moment) -> ResolvedMoment: ...
    @property
    def suspect_periods(self) -> SuspectPeriods: ...
    @property
    def elsewhere(self) -> str:
        """Where the volume's other copies are, for a sentence."""

    @property
    def waits_in_vain(self) -> bool:
        """Whether clients' answers wait for another node that is away."""

    def kept(self) -> KeptHistory: ...
    def retention(self) -> KeepOrders:
        """What is kept of the past, and orders about it. Refused: there is nothing yet."""

    async def cut(self) -> PointValues: ...
    async def snapshot(self, name: str, expires_s: float = 0.0) -> SnapshotValues: ...
    async def hold_snapshot(self, name: str, held: bool) -> None: ...
    async def snapshot_room(self) -> dict[str, int]: ...
    async def drop_snapshot(self, name: str) -> None: ...
    async def drop_branch(self, name: str) -> None: ...
    async def make_clone(self, order: CloneOrder) -> CloneSchema: ...
    async def drop_clone(self, name: str) -> None: ...
    async def grow(self, size: int) -> None: ...
    async def detach(self, name: str) -> None: ...
    async def replace_mirror(self, name: str, yes: bool) -> str: ...
    async def add_mirror(self, order: MirrorOrder) -> AddedMirrorSchema: ...
    async def set_mirror(self, order: MirrorOrder) -> MirrorSetSchema: ...
    async def resync(self, order: ResyncOrder) -> list[ResyncSchema]: ...
    def follow(self, observer: Observer) -> None:
        """Tell ``observer`` what happens to the volume, also what has happened already."""

    async def close(self) -> None:
        """Clients are gone: a clean stop."""
