"""A mirror in a service: the listener for its source, the copy that it keeps, and its exports.

The directory may be empty: then there is no volume until a source has come. Assembly: how a mirror receives is
``mirror/target/target.py``'s business, what it stores ``volume/secondary.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from revolume.api.clone_schemas import CloneOrder
from revolume.api.schemas import MirrorOrder, ResyncOrder
from revolume.chain.point import Point
from revolume.errors import NotFound, Refused
from revolume.history.exports import VolumeExports
from revolume.history.moments import Moment
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.snapshot_room import snapshot_room
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.jobs.jobs import Jobs
from revolume.mirror.recovery.newest_opening import refuse_taken_over
from revolume.mirror.recovery.promotion_proof import Proof, asked_votes, prove, with_finding, with_suspicion
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.mirror.target.target import Target
from revolume.mirror.target.target_session import TargetSession
from revolume.mirror.wire.begin_messages import BaseStart
from revolume.node.compare_mirrors import refuse_shorter
from revolume.node.event_log import Observer
from revolume.node.mirror_schemas import base_sentence, lacks, member_schemas, source_schema, why_not_promotable
from revolume.node.scrub_jobs import ScrubJobs, nothing_to_scrub
from revolume.node.service_options import ServiceOptions, listener_of, open_options
from revolume.node.tls_contexts import source_context, target_context
from revolume.pace.pacer import Pacer
from revolume.volume.metadata.former import Former
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.own_listener import record_listener
from revolume.volume.open.directory_state import claim_empty, holds_volume
from revolume.volume.open.open import open_secondary
from revolume.volume.points.record_processor import COPY_OUT
from revolume.volume.scrub.scrubber import Scrubber
from revolume.volume.secondary import Secondary
from revolume.volume.secondary_status import empty_status, secondary_status
from revolume.volume.space.keep_order import KeepOrders
from revolume.volume.space.kept_history import KeptHistory
from revolume.volume.state.status import Snapshot, VolumeStatus
from revolume.volume.suspect.periods import SuspectPeriods

Tell = Callable[[str], None]
LACKS_HINT = (
    "Let its source bring it up to date, or promote another mirror. With --yes or --force it is promoted as it "
    "is, and what was answered may be lost."
)


async def open_secondary_role(host: Host, options: ServiceOptions, tell: Tell) -> SecondaryRole:
    """The mirror in the directory, listening for its source. Refused: something else is there."""
    role = SecondaryRole(host, options, tell)
    try:
        await role.open()
    except BaseException:
        await role.close()
        raise
    return role


class SecondaryRole:
    """A mirror's copy, or the empty directory for it, and the listener for its source; a ``role.Role``. With
    ``failure`` it is not served, and says why.

    It has more methods than most classes because a role must have what only a primary can do: eight are
    refusals."""

    def __init__(self, host: Host, options: ServiceOptions, tell: Tell, failure: str = "") -> None:
        self._host = host
        self._options = options
        self._tell = tell
        self._failure = failure
        self.jobs = Jobs(host)
        pacer = Pacer(host.clock, options.bulk, self._asked)
        self._scrubs = ScrubJobs(host, self.jobs, self._scrubber, pacer, options.scrub_period_s)
        self.target: Target | None = None
        self._copy_directory: RealCopyDirectory | None = None
        self._exports: VolumeExports | None = None
        self._empty: Directory | None = None
        self._observer: Observer | None = None
        self._shown: VolumeStatus | None = None
        self.listening = ""

    async def open(self) -> None:
        """Open what is there, and listen."""
        options, directory, disk = self._options, self._options.directory, self._host.disk
        assert options.mirror_listen is not None
        opening, secondary = open_options(options, listener=listener_of(options)), None
        context = target_context(options)
        if holds_volume(disk, directory):
            secondary = await open_secondary(self._host, directory, opening)
        else:
            self._empty = claim_empty(disk, directory)
        self._copy_directory = _CopyDirectory(
            self._host, directory, opening, secondary, self._opened, self._release_empty
        )
        if secondary is not None:
            self._opened(secondary)
            if options.source_name is not None:
                await secondary.bound.name_source(options.source_name)
        self.target = Target(self._host, self._copy_directory, context, self._tell, options.source_name or "")
        self.listening = (await self.target.listen(options.mirror_listen))[0]
        if secondary is not None:
            await record_listener(secondary.manifest, listener_of(options))

    def _opened(self, secondary: Secondary) -> None:
        """This is the copy that is here from now on."""
        if self._exports is not None:
            self._exports.close()
        self._exports = VolumeExports(secondary, None)
        if self._observer is not None:
            secondary.events.follow(partial(self._observer.event, secondary.name))

    def follow(self, observer: Observer) -> None:
        """Tell ``observer`` of the events of the copy that is here, and of whichever comes later."""
        self._observer = observer
        if self.secondary is not None:
            self.secondary.events.follow(partial(observer.event, self.secondary.name))

    def _release_empty(self) -> None:
        if self._empty is not None:
            self._empty.close()
            self._empty = None

    @property
    def secondary(self) -> Secondary | None:
        """None: no source has come yet."""
        return self._copy_directory.secondary if self._copy_directory is not None else None

    @property
    def name(self) -> str:
        """Its source's; empty until one has come."""
        return self.secondary.name if self.secondary is not None else ""

    @property
    def size(self) -> int:
        """Bytes, as of the last agreed point."""
        return self.secondary.size if self.secondary is not None else 0

    # Looking

    def exports_now(self) -> VolumeExports:
        """Views of the agreed points. Refused: there is no copy yet, or it is not whole."""
        secondary = self._there()
        if secondary.base is not None:
            raise Refused("base-incomplete", base_sentence(secondary), "Wait until its source has sent the rest.")
        assert self._exports is not None
        return self._exports

    def _there(self) -> Secondary:
        if self._failure:
            raise Refused("not-served", self._failure, "Serve it again.")
        if self.secondary is None:
            raise Refused(
                "no-source", "No source has connected yet, so there is no volume.",
                f"Start it with --mirror-to {self.listening}.",
            )  # fmt: skip
        return self.secondary

    def status(self) -> VolumeStatus:
        """The copy's, as it was while it is being opened anew; of an empty directory, why nothing is there."""
        if self.secondary is not None:
            if self._shown is None or not self._between:
                self._shown = secondary_status(self.secondary)
            return self._shown
        return empty_status(self._options.directory, self._failure or "No source has connected yet.")

    @property
    def _between(self) -> bool:
        return self._copy_directory is not None and self._copy_directory.between

    def mirroring(self) -> dict[str, Any]:
        """The role, the source, and the snapshots that this copy does not hold."""
        state = self.secondary.manifest.state if self.secondary is not None else State()
        source = source_schema(self.target, self.secondary, self.listening)
        members = member_schemas(state, removed=bool(source.removed))
        return {"role": "secondary", "source": source, "members": members, "lacks": lacks(state)}

    def points(self) -> list[Point]:
        """The agreed ones that can be opened."""
        return self.secondary.open_points() if self.secondary is not None else []

    def kept(self) -> KeptHistory:
        """What is kept now, by this copy's own policy. Refused: there is no copy yet, or it is being opened
        anew."""
        return self.retention().kept()

    def retention(self) -> KeepOrders:
        """What is kept, by this copy's own policy. Refused: there is no copy yet, or it is being opened anew."""
        if self._between:
            raise Refused("opening", f"{self.name} is being opened anew.", "Try again in a moment.")
        return self._there().retention

    @property
    def suspect_periods(self) -> SuspectPeriods:
        """Which of its moments are suspect, now."""
        return self.secondary.suspect_periods if self.secondary is not None else SuspectPeriods()

    @property
    def elsewhere(self) -> str:
        """Where the volume's other copies are, for a sentence."""
        return self.secondary.elsewhere if self.secondary is not None else ""

    def snapshots(self) -> list[Snapshot]:
        """Its source's, as far as they have come."""
        return self.secondary.snapshots() if self.secondary is not None else []

    def resolve(self, moment: Moment) -> ResolvedMoment:
        """The write that ``moment`` means at the last agreed point. NotFound names the nearest moments."""
        return self.exports_now().resolver.resolve(moment)

    def _scrubber(self) -> Scrubber:
        copy = self._there()
        if copy.base is not None:
            raise nothing_to_scrub(base_sentence(copy))
        return copy.scrubber

    def _asked(self) -> int:
        """A number that grows with what its source sends: that is what a scrub must not delay."""
        return self.secondary.received if self.secondary is not None else 0

    # Changing: its source alone does that

    @property
    def waits_in_vain(self) -> bool:
        """Nobody's answer waits here."""
        return False

    async def cut(self) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def snapshot(self, name: str, expires_s: float = 0.0) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def hold_snapshot(self, name: str, held: bool) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def snapshot_room(self) -> dict[str, int]:
        """What each snapshot alone keeps here, in bytes."""
        return {} if self.secondary is None else await snapshot_room(self.secondary)

    async def drop_snapshot(self, name: str) -> NoReturn:
        """Refused."""
        raise self._refusal()

    def clone_exports(self) -> dict[str, VolumeExports]:
        """A mirror has no clones."""
        return {}

    async def make_clone(self, order: CloneOrder) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def drop_clone(self, name: str) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def drop_branch(self, name: str) -> None:
        """Give up what this copy wrote alone. NotFound: there is no such branch."""
        if self.secondary is None:
            raise self._refusal()
        await self.secondary.drop_branch(name)

    async def grow(self, size: int) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def detach(self, name: str) -> NoReturn:
        """NotFound: a mirror has none itself."""
        raise NotFound("no-mirror", f"This is a mirror; it has no mirror {name}.", "Ask its source.")

    async def replace_mirror(self, name: str, yes: bool) -> NoReturn:
        """NotFound: a mirror has none itself."""
        await self.detach(name)

    async def add_mirror(self, order: MirrorOrder) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def resync(self, order: ResyncOrder) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def set_mirror(self, order: MirrorOrder) -> NoReturn:
        """NotFound: a mirror has none itself."""
        await self.detach(order.name)

    def _refusal(self) -> Refused:
        return Refused(
            "is-mirror", "This is a mirror: only its source changes it.", "Ask its source, or promote the mirror."
        )

    # Becoming a primary

    def refuse_promotion(self, yes: bool = False) -> None:
        """Refused while its source is connected, or while it is no whole copy; without ``yes``, if it holds less
        than it had acknowledged."""
        owes = self.secondary.bound.why_no_proof if self.secondary is not None else ""
        reason = self._failure or why_not_promotable(self.secondary)
        if not reason and self.target is not None and self.target.removed:
            owes = reason = self.target.removed
        if owes and reason == owes:
            if not yes:
                raise Refused("not-proved" if self.detached else "lacks-acknowledged", owes, LACKS_HINT)
            reason = ""
        if reason:
            stuck = self.secondary is not None and self.secondary.failure is not None
            hint = COPY_OUT if stuck else "Promote another mirror, or let the source finish this one."
            raise Refused("not-promotable", reason, hint)
        current = self.target.current if self.target is not None else None
        if current is not None and current.hello is not None and not self._given_up(current):
            raise Refused(
                "source-alive",
                f"Its source is connected and alive: {current.hello.name}, opening {current.hello.epoch}, "
                f"from {current.link.peer.address}.",
                "Stop the source first: two primaries of one volume would diverge.",
            )

    @property
    def detached(self) -> bool:
        """Whether a source has said that this is its mirror no more."""
        removed = self.target is not None and self.target.removed != ""
        return removed or (self.secondary is not None and self.secondary.manifest.state.detached > 0)

    def _given_up(self, source: TargetSession) -> bool:
        """A copy with a lease does not wait until the link of a source is lost that says nothing any more."""
        leased = self.secondary is not None and self.secondary.bound.may_be_detached
        return leased and source.link.silent

    async def proof(self) -> Proof:
        """What a promotion loses, now; others are asked."""
        secondary, target = self.secondary, self.target
        assert secondary is not None
        assert target is not None
        node, members = secondary.manifest.state.node, await secondary.records.members()
        votes = await asked_votes(
            self._host, secondary.volume_id, node, members, source_context(self._options)
        )  # fmt: skip
        end = secondary.end
        proof = prove(node, members, (end.write, end.time_ns), target.lease.left_s, votes)
        proof = with_finding(proof, secondary.differs_since)
        return with_suspicion(proof, secondary.suspect.periods.at(secondary.agreed.write))

    async def refuse_taken_over(self) -> None:
        """Refused if this copy was the primary, and another one may be it by now."""
        if self.secondary is not None:
            state = self.secondary.manifest.state
            await refuse_taken_over(self._host, state, source_context(self._options))

    def on_handover(self, take_over: Callable[[Former], None]) -> None:
        """``take_over`` makes this node the primary when its source hands over."""
        if self.target is not None:
            self.target.on_handover = take_over

    async def refuse_shorter(self, others: Sequence[str]) -> None:
        """Refused if a mirror at one of these addresses has more than this one, or can't be asked."""
        assert self.secondary is not None
        assert self._copy_directory is not None
        context = source_context(self._options)
        await refuse_shorter(self._host, self.secondary, self._copy_directory.node, others, context)

    async def close(self) -> None:
        """A clean stop. The source's connection is ended first, so that nothing more comes."""
        try:
            await self._scrubs.stop()
            await self.jobs.close()
            if self.target is not None:
                await self.target.stop()
        finally:
            if self._exports is not None:
                self._exports.close()
            if self.secondary is not None:
                await self.secondary.close()
            self._release_empty()


class _CopyDirectory(RealCopyDirectory):
    """An empty directory is held by us until it becomes a volume's."""

    def __init__(
        self, host: Host, path: str, options: Any, secondary: Secondary | None, opened: Any, let_go: Any
    ) -> None:
        super().__init__(host, path, options, secondary, opened)
        self._let_go = let_go

    async def create(self, volume: bytes, name: str, start: BaseStart, seeded: bool = False) -> Secondary:
        """Release the directory, and make the copy in it."""
        self._let_go()
        return await super().create(volume, name, start, seeded)
