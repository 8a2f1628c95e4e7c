"""One volume under control: what the HTTP face and the verbs can ask of it, in plain values.

A verb asks the running volume over HTTP or, when it is stopped, opens the directory and asks ``AdminApi``
itself; the answers are the same objects. Nothing is decided here: each method names the part of the
volume that does the work and gives the answer its shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from revolume.api.clone_schemas import CloneOrder, CloneSchema
from revolume.api.keep_schemas import KeepOrder, KeepSchema, keep_schema
from revolume.api.keep_text import parse_policy, with_when_full
from revolume.api.moment_schemas import (
    ChangeSchema,
    PointSchema,
    PointsSchema,
    PointValues,
    SnapshotSchema,
    SnapshotValues,
    change_schema,
    moment_schema,
    point_schema,
    snapshot_schema,
    suspect_schema,
)
from revolume.api.proof_schemas import ProofSchema, proof_schema
from revolume.api.schemas import (
    AddedMirrorSchema,
    DemotedSchema,
    JobSchema,
    MirrorOrder,
    MirrorSetSchema,
    PromotedSchema,
    RestoredSchema,
    RestoreOrder,
    ResyncOrder,
    ResyncSchema,
    SwitchedSchema,
    job_schema,
)
from revolume.blocks.numbers import WriteNumber
from revolume.errors import Refused, RevolumeError, UsageError
from revolume.history.changes import LIMIT_MAX
from revolume.history.exports import VolumeExports
from revolume.history.moments import AtSnapshot, Moment, check_snapshot_name, parse_moment
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.usage import Usage
from revolume.jobs.jobs import Jobs
from revolume.volume.metadata.proof_file import Verdict
from revolume.volume.space.keep_order import KeepOrders
from revolume.volume.space.kept_history import KeptHistory
from revolume.volume.suspect.periods import SuspectPeriods


class ReadVolume(Protocol):
    """What ReadApi needs of a volume, running or stopped."""

    @property
    def name(self) -> str: ...
    def status(self) -> Any: ...  # a dataclass of plain values
    def points(self) -> Sequence[PointValues]: ...
    def snapshots(self) -> Sequence[SnapshotValues]: ...
    def kept(self) -> KeptHistory: ...
    @property
    def suspect_periods(self) -> SuspectPeriods: ...
    @property
    def elsewhere(self) -> str: ...


class ControlledVolume(ReadVolume, Protocol):
    """What AdminApi needs of a running volume."""

    @property
    def size(self) -> int: ...
    @property
    def jobs(self) -> Jobs: ...
    def retention(self) -> KeepOrders: ...
    def exports_now(self) -> VolumeExports: ...
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


class RoleOrders(Protocol):
    """Changes of a running service's role."""

    async def promote(
        self, addresses: Sequence[str], others: Sequence[str] = (), yes: bool = False
    ) -> PromotedSchema: ...
    async def demote(self, listen: str | None, yes: bool) -> DemotedSchema: ...
    async def switch_over(self, name: str, listen: str | None) -> SwitchedSchema: ...
    async def restore(self, order: RestoreOrder) -> RestoredSchema: ...


# The write that a moment means in this volume now. Raises NotFound naming the nearest moments.
Resolve = Callable[[Moment], ResolvedMoment]


def plain(value: Any) -> Any:
    """A schema, or a list of schemas, as JSON values."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


class ReadApi:
    """The control calls that change nothing."""

    def __init__(self, volume: ReadVolume, resolve: Resolve, serving: Callable[[], dict[str, Any]] = dict) -> None:
        self._read = volume
        self._resolve = resolve
        self._serving = serving

    def status(self) -> dict[str, Any]:
        """The volume's status, its role and mirrors and, where it is being served, addresses and connections."""
        more = {name: plain(value) for name, value in self._serving().items()}
        with suppress(RevolumeError):  # an empty directory, which waits to be a mirror, keeps nothing
            more["keep"] = plain(self.kept())
        return {**dataclasses.asdict(self._read.status()), **more}

    def points(self, at: str | None = None) -> PointsSchema:
        """The retained points; with ``at``, also what that moment is. Raises UsageError, NotFound."""
        points = self._points()
        if at is None:
            return PointsSchema(points)
        resolved = self._resolve(parse_moment(at))
        return PointsSchema(points, moment_schema(self._read.name, at, resolved, points, self._read.elsewhere))

    def kept(self) -> KeepSchema:
        """What is kept by which policy, in how much room."""
        return keep_schema(self._read.kept())

    def snapshots(self) -> list[SnapshotSchema]:
        """The named moments."""
        if not self._read.suspect_periods.marks:
            return [snapshot_schema(self._read.name, snapshot) for snapshot in self._read.snapshots()]
        points = self._points()
        return [
            snapshot_schema(
                self._read.name,
                snapshot,
                suspect_schema(self._resolve(AtSnapshot(snapshot.name)).suspicion, points, self._read.elsewhere),
            )
            for snapshot in self._read.snapshots()
        ]

    def _points(self) -> list[PointSchema]:
        name, suspect = self._read.name, self._read.suspect_periods
        return [
            point_schema(name, point, suspect.within(WriteNumber(point.write))) for point in self._read.points()
        ]


class AdminApi(ReadApi):
    """All control calls of a running volume."""

    def __init__(
        self,
        volume: ControlledVolume,
        resolve: Resolve,
        serving: Callable[[], dict[str, Any]] = dict,
        roles: RoleOrders | None = None,
    ) -> None:
        """``roles``: None where the volume is only open for one verb."""
        super().__init__(volume, resolve, serving)
        self._volume = volume
        self._roles = roles

    def follow(self, volume: ControlledVolume, resolve: Resolve) -> None:
        """Answer for this volume from now on: it was opened anew, in another role."""
        self._read = self._volume = volume
        self._resolve = resolve

    async def keep(self, order: KeepOrder) -> KeepSchema:
        """Another policy or budget from now on, and what goes by that. UsageError: it makes no sense, and nothing
        was changed."""
        orders = self._volume.retention()
        before = orders.kept().policy
        policy = (
            before if order.policy is None else replace(parse_policy(order.policy), when_full=before.when_full)
        )
        policy = with_when_full(policy, order.when_full)
        if order.budget is not None:
            orders.check_budget(order.budget)
        going = orders.going(policy, order.budget)
        if not order.dry_run:
            await orders.set(policy, order.budget)
        return keep_schema(orders.kept(), going)

    def changes(self, start: int, end: int, limit: int) -> list[ChangeSchema]:
        """The newest writes, at most ``limit``, that changed the bytes [start, end). UsageError: no such range."""
        if not 0 <= start < end <= self._volume.size:
            what = f"{start} to {end} are no bytes of {self._volume.name}."
            raise UsageError("bad-range", what, f"It has {self._volume.size} bytes.")
        found = self._volume.exports_now().changes(start, end, max(1, min(limit, LIMIT_MAX)))
        return [change_schema(each) for each in found]

    def proofs(self) -> list[ProofSchema]:
        """What commands found of its moments, oldest first."""
        return [proof_schema(each) for each in self._volume.exports_now().proofs()]

    async def prove(self, write: int, verdict: str, duration_ms: int, command: str) -> ProofSchema:
        """Note what a command found of a moment. NotFound: it is not retained; UsageError: no such verdict."""
        try:
            known = Verdict[verdict.upper().replace("-", "_")]
        except KeyError:
            hint = "passed, failed or timed-out."
            raise UsageError("bad-verdict", f"{verdict[:64]!a} is no verdict.", hint) from None
        exports = self._volume.exports_now()
        return proof_schema(await exports.prove(WriteNumber(write), known, duration_ms, command))

    async def usage(self) -> Usage:
        """What the volume takes of its disk, and what dropping each holder would give back."""
        return await self._volume.exports_now().usage()

    async def cut(self) -> PointSchema:
        """A consistency point now. Idempotent while nothing changes."""
        return point_schema(self._volume.name, await self._volume.cut())

    async def snapshots_with_room(self) -> list[SnapshotSchema]:
        """The named moments, with what each snapshot alone keeps."""
        listed, room = self.snapshots(), await self._volume.snapshot_room()
        return [replace(each, exclusive_bytes=room.get(each.name)) for each in listed]

    async def snapshot(self, name: str, expires_s: float = 0.0) -> SnapshotSchema:
        """Name the present, for so many seconds that the volume is open (0: until it is dropped). Refused if the
        name is taken."""
        made = await self._volume.snapshot(check_snapshot_name(name), expires_s)
        return snapshot_schema(self._volume.name, made)

    async def hold_snapshot(self, name: str, held: bool) -> None:
        """Nobody drops it while it is held. NotFound if there is none."""
        await self._volume.hold_snapshot(check_snapshot_name(name), held)

    async def drop_snapshot(self, name: str) -> None:
        """Forget a name. NotFound if there is none."""
        await self._volume.drop_snapshot(check_snapshot_name(name))

    async def drop_branch(self, name: str) -> None:
        """Give up what this copy once wrote alone. NotFound if there is no such branch."""
        await self._volume.drop_branch(name)

    async def make_clone(self, order: CloneOrder) -> CloneSchema:
        """A writable volume over a moment of this one, which is served with it. UsageError: a name or moment that
        makes no sense; NotFound: the moment is not retained; Refused: the name is taken, the moment is suspect."""
        return await self._volume.make_clone(order)

    async def drop_clone(self, name: str) -> None:
        """Remove a clone with all that was written to it. NotFound if there is none."""
        await self._volume.drop_clone(name)

    async def grow(self, size: int) -> int:
        """The new size in bytes. Refused if it would shrink."""
        await self._volume.grow(size)
        return self._volume.size

    async def promote(
        self, addresses: Sequence[str] = (), others: Sequence[str] = (), yes: bool = False
    ) -> PromotedSchema:
        """Make a mirror a primary that listens at ``addresses`` too. Refused: its source is connected, its base is
        incomplete, or one of ``others`` has more, without ``yes``; or this is a primary already."""
        if self._roles is None:
            raise Refused(
                "is-primary", f"{self._volume.name} is a primary already.", "There is nothing to be done."
            )
        return await self._roles.promote(addresses, others, yes)

    async def demote(self, listen: str | None = None, yes: bool = False) -> DemotedSchema:
        """Make a primary a mirror's copy, which listens for a source at ``listen`` or where it is recorded.
        Refused without ``yes`` while clients may write; or it would listen nowhere; or this is a mirror."""
        return await self._running().demote(listen, yes)

    async def switch_over(self, name: str, listen: str | None = None) -> SwitchedSchema:
        """Hand over to the mirror ``name``, and go on as its mirror. NotFound: there is none; Refused: it, or this
        node, is not ready, and nothing has changed; TimedOut: it has not answered."""
        return await self._running().switch_over(name, listen)

    async def restore(self, order: RestoreOrder) -> RestoredSchema:
        """Bring a primary back to a retained moment, or say what that would change. NotFound: it is not retained;
        Refused: clients may write, a required mirror is away, the moment is suspect, or ``yes`` lacks."""
        return await self._running().restore(order)

    def _running(self) -> RoleOrders:
        if self._roles is None:
            raise Refused("not-running", f"{self._volume.name} is not being served.", "Serve it first.")
        return self._roles

    async def detach(self, name: str) -> None:
        """Give a mirror up. NotFound if there is none."""
        await self._volume.detach(name)

    async def replace_mirror(self, name: str, yes: bool) -> str:
        """Forget which copy a mirror is, so that another may become it; what was given up. NotFound if there is
        no such mirror; Refused without ``yes`` if answers rest on a copy that is away."""
        return await self._volume.replace_mirror(name, yes)

    async def add_mirror(self, order: MirrorOrder) -> AddedMirrorSchema:
        """One more mirror. UsageError: a name or mode that is none; Refused: the name or address is taken, or who
        answers at the address can't be the mirror."""
        return await self._volume.add_mirror(order)

    async def set_mirror(self, order: MirrorOrder) -> MirrorSetSchema:
        """Another mode or address for a mirror. NotFound if there is none; Refused: answers would wait for it at
        once, or who answers at the address is not the mirror."""
        return await self._volume.set_mirror(order)

    async def resync(self, order: ResyncOrder) -> list[ResyncSchema]:
        """How mirrors are brought up to date; unless it is a dry run, that begins. NotFound: there is no such
        mirror; UsageError: a preference that is none."""
        return await self._volume.resync(order)

    def start_job(self, kind: str, orders: Mapping[str, Any]) -> JobSchema:
        """Begin a long operation. UsageError: there is no such kind, or the orders make no sense; Refused: one of
        the kind runs already; what else its kind says."""
        return job_schema(self._volume.jobs.start(kind, orders))

    def jobs(self) -> list[JobSchema]:
        """Those that run, and those that have ended lately; oldest first."""
        return [job_schema(job) for job in self._volume.jobs.all()]

    def job(self, identity: str) -> JobSchema:
        """One of them. NotFound if there is none."""
        return job_schema(self._volume.jobs.get(identity))

    async def cancel_job(self, identity: str) -> JobSchema:
        """End it now. NotFound if there is none."""
        return job_schema(await self._volume.jobs.cancel(identity))
