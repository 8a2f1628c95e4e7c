"""A volume open as primary in a service: the volume, its exports, and the links to its mirrors
(``mirror_links.py``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from revolume.chain.point import Point
from revolume.errors import Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.history.moments import Moment
from revolume.history.origin_view import OriginView
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.snapshot_room import snapshot_room
from revolume.host import Host
from revolume.host.clock import within
from revolume.host.error_text import error_text
from revolume.jobs.jobs import Jobs
from revolume.mirror.recovery.newest_opening import refuse_superseded
from revolume.mirror.recovery.recover_from_mirrors import MirrorAddress, fetch_longer_tail
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.target.primary_listener import PrimaryListener
from revolume.node.addresses import refuse_plaintext_links
from revolume.node.clone_status import origin_schema
from revolume.node.clones import Clones
from revolume.node.event_log import Observer
from revolume.node.fetch_jobs import FetchJobs
from revolume.node.mirror_links import MirrorLinks
from revolume.node.mirror_orders import MirrorOrders
from revolume.node.mirror_schemas import lacks, member_schemas
from revolume.node.mirror_to import MirrorTo, as_recorded
from revolume.node.resync_orders import ResyncOrders
from revolume.node.scrub_jobs import ScrubJobs
from revolume.node.service_options import ServiceOptions, listener_of, open_options
from revolume.node.tls_contexts import source_context, target_context
from revolume.node.verify_orders import VerifyJobs
from revolume.volume.metadata.former import Former
from revolume.volume.metadata.manifest_state import MirrorState
from revolume.volume.metadata.own_listener import record_listener
from revolume.volume.open.open import open_volume
from revolume.volume.primary import Volume
from revolume.volume.space.keep_order import KeepOrders
from revolume.volume.state.status import Snapshot, VolumeStatus
from revolume.volume.suspect.periods import SuspectPeriods

_LEVEL_S: Final = 5.0
Tell = Callable[[str], None]


async def open_primary(
    host: Host, options: ServiceOptions, tell: Tell, origin: OriginView | None = None
) -> PrimaryRole:
    """Open the volume, begin to feed its mirrors, and open its clones. ``origin``: of one that is a clone itself,
    its parent. Refused where that could lose what was answered."""
    mirrors = options.mirrors
    context = source_context(options) if mirrors else None
    opening = open_options(options, mirrors=tuple(mirror.name for mirror in mirrors), origin=origin)
    places = [MirrorAddress(mirror.name, mirror.address, mirror.peer) for mirror in mirrors]
    await refuse_superseded(host, options.directory, places, context)
    await fetch_longer_tail(host, options.directory, opening, places, context, options.alone, tell)
    volume = await open_volume(host, options.directory, opening)
    role = _role(host, options, volume, tell)
    try:
        before = volume.manifest.state.listener.address
        await role.listen(options.mirror_listen, insists=options.mirror_listen != before)
        await record_listener(volume.manifest, listener_of(options))
        volume.membership.changed()
        await role.feed(mirrors)
        await role.clones.open_all()
    except BaseException:
        await role.close()
        raise
    return role


async def open_promoted(
    host: Host, options: ServiceOptions, tell: Tell, former: Former | None = None
) -> PrimaryRole:
    """Open the mirror in the directory as primary, and go on mirroring to the others that it knows, if it is to be
    served as the directory says; to ``former`` too, who has handed over. Refused: it is no whole copy."""
    opening = open_options(options, promote=True, former=former)
    volume = await open_volume(host, options.directory, opening)
    role = _role(host, options, volume, tell)
    try:
        await role.listen(options.mirror_listen, insists=False)
        await role.clones.open_all()
        if options.as_recorded:
            await role.feed([as_recorded(m.state) for m in volume.mirrors if _reachable(m.state, options, tell)])
    except BaseException:
        await role.close()
        raise
    return role


def _reachable(mirror: MirrorState, options: ServiceOptions, tell: Tell) -> bool:
    """Whether it may be connected to; a sentence says why not. A promotion does not fail for that."""
    try:
        if mirror.address and not options.plain_links_allowed:
            refuse_plaintext_links([mirror.address], options.tls_dir)
    except Refused as error:
        tell(f"Mirror {mirror.name} is not mirrored to: {error}")
        return False
    return bool(mirror.address)


def _role(host: Host, options: ServiceOptions, volume: Volume, tell: Tell) -> PrimaryRole:
    context, end = source_context(options), VolumeSource(volume).end
    links = MirrorLinks(host, volume, context, tell, options.bulk)
    orders = MirrorOrders(host, volume, links, options, context, tell)
    listener = PrimaryListener(host, volume, end, target_context(options), tell)
    resync, jobs = ResyncOrders(host, volume, links, context), Jobs(host)
    verify = VerifyJobs(volume, links, jobs, options.verify_period_s)
    FetchJobs(host, volume, jobs, options, context, links.pacer)
    scrubs = ScrubJobs(host, jobs, lambda: volume.scrubber, links.pacer, options.scrub_period_s)
    exports = VolumeExports(volume, volume)
    clones = Clones(host, options, volume, exports, partial(_open_clone, host, tell))
    return PrimaryRole(
        host=host, volume=volume, links=links, orders=orders, resync=resync, listener=listener, jobs=jobs,
        scrubs=scrubs, verify=verify, exports=exports, clones=clones, tell=tell,
    )  # fmt: skip


async def _open_clone(host: Host, tell: Tell, options: ServiceOptions, origin: OriginView) -> PrimaryRole:
    return await open_primary(host, options, tell, origin)


class PrimaryRole:
    """A volume that clients may write to, and the links to its mirrors; a ``role.Role``."""

    def __init__(
        self,
        host: Host,
        volume: Volume,
        links: MirrorLinks,
        orders: MirrorOrders,
        resync: ResyncOrders,
        listener: PrimaryListener,
        jobs: Jobs,
        scrubs: ScrubJobs,
        verify: VerifyJobs,
        exports: VolumeExports,
        clones: Clones,
        tell: Tell,
    ) -> None:
        self._host = host
        self._listener = listener
        self.jobs = jobs
        self._scrubs = scrubs
        self._verify = verify
        self._tell = tell
        self.listening = ""
        self.volume = volume
        self.links = links
        self._exports = exports
        self.clones = clones
        self.pacer = links.pacer
        self.clone_exports = clones.exports
        self.make_clone = clones.make
        self.drop_clone = clones.drop
        self.name = volume.name
        self.points: Callable[[], list[Point]] = volume.open_points
        self.kept = volume.retention.kept
        self.retention: Callable[[], KeepOrders] = lambda: volume.retention
        self.snapshots: Callable[[], list[Snapshot]] = volume.snapshots
        self.cut = volume.cut
        self.snapshot = volume.snapshot
        self.drop_branch = volume.drop_branch
        self.grow = volume.grow
        self.replace_mirror = links.replace
        self.add_mirror = orders.add
        self.set_mirror = orders.set
        self.resync = resync.resync

    @property
    def size(self) -> int:
        """Bytes, now."""
        return self.volume.size

    @property
    def suspect_periods(self) -> SuspectPeriods:
        """Which of its moments are suspect, now."""
        return self.volume.suspect_periods

    @property
    def elsewhere(self) -> str:
        """Where the volume's other copies are, for a sentence."""
        return self.volume.elsewhere

    def status(self) -> VolumeStatus:
        """The volume's, with the first reason why clients' answers wait for a mirror."""
        waits = [status.waits for status in self.links.status() if status.waits]
        return self.volume.status(waits[0] if waits else "")

    def follow(self, observer: Observer) -> None:
        """Tell ``observer`` of the volume's events, also of those that have happened."""
        self.volume.events.follow(partial(observer.event, self.name))
        self.clones.follow(observer)

    @property
    def epoch(self) -> int:
        """This opening's number."""
        return self.volume.epoch

    def exports_now(self) -> VolumeExports:
        """The live volume, and views and overlays of its past."""
        return self._exports

    def resolve(self, moment: Moment) -> ResolvedMoment:
        """The write that ``moment`` means now. NotFound names the nearest moments."""
        return self._exports.resolver.resolve(moment)

    async def hold_snapshot(self, name: str, held: bool) -> None:
        """Nobody drops it while it is held. NotFound: there is none."""
        await self.volume.names.hold(name, held)

    async def snapshot_room(self) -> dict[str, int]:
        """What each snapshot alone keeps, in bytes."""
        return await snapshot_room(self.volume)

    async def drop_snapshot(self, name: str) -> None:
        """Forget a snapshot. NotFound: there is none; Refused: clones lie over it."""
        self.clones.refuse_snapshot(name)
        await self.volume.drop_snapshot(name)

    # Mirrors

    async def listen(self, address: str | None, *, insists: bool) -> None:
        """Answer other nodes at this address, if there is one. One that can't be had is an error only if it is
        insisted on: clients are served without it."""
        if address is None:
            return
        try:
            self.listening = (await self._listener.listen(address))[0]
        except (OSError, RevolumeError) as error:
            if insists:
                raise
            self._tell(f"Other nodes can't reach this one at {address}: {error_text(error)}")

    async def stop_listening(self) -> None:
        """Other nodes are not answered any more: what this one is changes."""
        await self._listener.stop()

    async def feed(self, mirrors: Sequence[MirrorTo]) -> None:
        """Connect to these mirrors, and go on doing so."""
        for mirror in mirrors:
            await self.links.begin(mirror)

    def mirroring(self) -> dict[str, Any]:
        """The role, the mirrors, and the snapshots that this copy does not hold."""
        state = self.volume.manifest.state
        return {
            "role": "primary", "listening": self.listening, "mirrors": self.links.status(),
            "members": member_schemas(state), "lacks": lacks(state), "clones": self.clones.listed(),
            "origin": origin_schema(state),
        }  # fmt: skip

    async def detach(self, name: str) -> None:
        """Give a mirror up, durably, and its link; or a former primary, which is no mirror. NotFound: there is
        none of that name."""
        if any(mirror.name == name for mirror in self.volume.mirrors):
            await self.links.detach(name)
        else:
            await self.volume.membership.forget(name)

    # The end

    async def close(self) -> None:
        """A clean stop. What was answered is at the mirrors; those that are connected get a last point."""
        self._exports.close()
        try:
            await self.clones.close()
            await self._scrubs.stop()
            await self._verify.stop()
            await self.jobs.close()
            await self._listener.stop()
            if self.links:
                await self._bring_mirrors_level()
        finally:
            await self.volume.close()

    @property
    def waits_in_vain(self) -> bool:
        """Whether answers wait for a required mirror from which nothing is heard."""
        return any(
            mirror.required and not self.links.hears(mirror.name)
            and (mirror.waiting or mirror.received < self.volume.position)
            for mirror in self.volume.mirrors
        )  # fmt: skip

    async def _bring_mirrors_level(self) -> None:
        with contextlib.suppress(RevolumeError, OSError, TimeoutError):
            await self.volume.cut()
            await within(self._host.clock, _LEVEL_S, self.links.all_level())
        await self.links.stop()
