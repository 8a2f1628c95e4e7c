"""The points from which members can be brought up to date by whoever is promoted: stated by the primary, pinned by
each copy.

A primary states of each mirror that has joined a consistency point at which that durably stands, or that it has
passed. Every other copy pins the point as it pins snapshots: folds stop there, go on, and rescue what they
overwrite. So whichever copy is promoted knows what has changed since, however long the member was away.

A copy that has one for a member is never without: the edit that pins the next one lets go of the last, and where
the copy does not have the next point any more it keeps the last. A fold goes to an agreed point at most, and
records are dealt with in order: when a fold passes a point at which a member is stated to stand later on, the one
stated before is pinned, and the member has passed that one too.

The point that is stated follows the mirror in steps, so that it costs little: exactly while the link is lost, else
once it has fallen behind by a part of the log, or this node's horizon has left it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.volume.members.kept_points import standing
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import MirrorState, State
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.resync_point import ResyncPoint, pack_resync_point
from revolume.volume.open_log import OpenLog
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.space.holder import HolderKind
from revolume.volume.space.holders import Holders
from revolume.volume.state.events import EventKind, Events

Edit = tuple[EditKind, bytes]
STEPS: Final = 8
"""In a log that fills its budget a point is stated so many times while all of it is written anew, or oftener."""
STEP_BYTES_MAX: Final = 64 << 20


def resync_point_of(mirror: MirrorState) -> ResyncPoint | None:
    """Of a mirror, as its primary has it recorded; None: where it stands is not known."""
    if mirror.pin is not None:
        return ResyncPoint(mirror.name, mirror.node, mirror.pin.point, mirror.pin.write)
    if not mirror.joined or not mirror.kept or mirror.jump is not None:
        return None
    return ResyncPoint(mirror.name, mirror.node, mirror.point, mirror.write)


def resync_points_of(state: State, away: bool = False) -> list[ResyncPoint]:
    """Of a primary's mirrors, those that are known; ``away``: only of those that have not come back to where their
    link was lost."""
    mirrors = [m for m in state.mirrors if not away or m.cut is not None or m.pin is not None]
    return [resync for mirror in mirrors if (resync := resync_point_of(mirror)) is not None]


def pin_of_promoted(state: State, mirror: MirrorState) -> MirrorState:
    """A mirror of a copy that becomes the primary, with the point that this has pinned for it."""
    found = next((p for p in state.resync_points if (p.name, p.node) == (mirror.name, mirror.node)), None)
    pin = None if found is None else standing(state, Kept(found.point, found.write, 0))
    return mirror if pin is None else replace(mirror, pin=pin)


def edits_of_demoted(state: State) -> list[Edit]:
    """Of a primary that becomes a mirror's copy: what it has kept for its mirrors it keeps for them as members."""
    made: list[Edit] = [(EditKind.DROP_RESYNC_POINT, resync.name.encode()) for resync in state.resync_points]
    for mirror in state.mirrors:
        resync = resync_point_of(mirror)
        if resync is not None and standing(state, Kept(resync.point, resync.write, 0)) is not None:
            made.append((EditKind.RESYNC_POINT, pack_resync_point(resync)))
    return made


class StatedResyncPoints:
    """Of one open primary."""

    def __init__(self, log: OpenLog, retained: RetainedPoints) -> None:
        self._log = log
        self._retained = retained

    def due(self, state: State) -> Iterator[tuple[bytes, Edit]]:
        """Of members that are stated: what the log has to say, and what is noted of that."""
        stated = {resync.name: resync for resync in state.resync_points}
        members = {(member.name, member.node) for member in state.members}
        for mirror in state.mirrors:
            now, before = resync_point_of(mirror), stated.get(mirror.name)
            if now is None or (now.name, now.node) not in members or now == before:
                continue
            if before is None or before.node != now.node or mirror.cut is not None or self._far(before, now):
                edit = EditKind.RESYNC_POINT, pack_resync_point(now)
                yield facts.resync_point_stated(now), edit

    def _far(self, before: ResyncPoint, now: ResyncPoint) -> bool:
        """Whether it is worth a fact: so much log lies between the two, or the horizon has left the first."""
        first, last = self._retained.numbered(before.point), self._retained.numbered(now.point)
        if first is None or last is None or before.write < self._log.manifest.state.horizon.write:
            return True
        step = min(self._log.pool.limits.budget_bytes // STEPS, STEP_BYTES_MAX)
        return (last.address - first.address) * BLOCK >= step


class PinnedResyncPoints:
    """Of one mirror's copy. ``retired``: the write below which its log is being folded, or was."""

    def __init__(
        self,
        *,
        manifest: ManifestWriter,
        retained: RetainedPoints,
        holders: Holders,
        events: Events,
        retired: Callable[[], WriteNumber],
    ) -> None:
        self._manifest = manifest
        self._retained = retained
        self._holders = holders
        self._events = events
        self._retired = retired

    async def stated(self, resync: ResyncPoint) -> None:
        """The log states it: from now on this point is pinned for the member, if it is still here; else the last
        one stays. Of this copy itself it says nothing new."""
        state = self._manifest.state
        member = any((each.name, each.node) == (resync.name, resync.node) for each in state.members)
        told = resync.node == state.node or resync in state.resync_points
        if told or not member or not self._is_here(resync):
            return
        owner = f"resync point of {resync.name} being recorded"
        pinned = resync.write < self._retired()
        let_go = self._holders.lease(HolderKind.UNDER_WAY, owner, resync.write, pinned=pinned)
        try:
            await self._manifest.record((EditKind.RESYNC_POINT, pack_resync_point(resync)))
        finally:
            let_go()

    def _is_here(self, resync: ResyncPoint) -> bool:
        """Whether no fold has passed it, or it is pinned already."""
        state, retained = self._manifest.state, self._retained.numbered(resync.point)
        known = {(state.horizon.point, state.horizon.write)}
        known |= {(retained.number, retained.write)} if retained is not None else set()
        known = {(number, write) for number, write in known if write >= self._retired()}
        pinned = set(self._holders.pinned_writes())
        known |= {(r.moment.point, r.moment.write) for r in state.rescues if r.moment.write in pinned}
        return (resync.point, resync.write) in known

    async def give_up(self) -> frozenset[WriteNumber] | None:
        """The disk has no room for what is pinned: let go of the oldest one. The moment, if it is not pinned by
        the manifest any more; None: there is no resync point."""
        oldest = min(self._manifest.state.resync_points, key=lambda each: each.write, default=None)
        if oldest is None:
            return None
        self._events.tell(
            f"the disk has no more room for what has changed since cp{oldest.point}: if this copy is promoted, "
            f"{oldest.name} may have to be made anew",
            EventKind.TROUBLE,
        )
        await self._manifest.record((EditKind.DROP_RESYNC_POINT, oldest.name.encode()))
        return frozenset({oldest.write}) - self._manifest.state.pinned_writes()
