"""Snapshots of a primary: moments with a name, pinned until they are dropped.

A name is a fact in the log, for mirrors, and an edit of the manifest, which pins. Both change in one turn
(``_turn``), so that whoever asks for the names gets those up to one position of the log.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.errors import NotFound, Refused
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.members.kept_points import LOST_PREFIX
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.branch_edits import pack_together
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import PinnedSnapshot
from revolume.volume.metadata.moment_edits import pack_snapshot
from revolume.volume.metadata.retention_record import SnapshotTerms, pack_terms
from revolume.volume.open_log import OpenLog
from revolume.volume.points.point_maker import PointMaker
from revolume.volume.space.admission import Admission
from revolume.volume.space.holder import HolderKind
from revolume.volume.space.holders import Holders
from revolume.volume.space.policy_pins import PolicyPins
from revolume.volume.state.events import Events


class NamedMoments:
    """Of one volume. Once ``closed``, no name is made or dropped."""

    def __init__(
        self,
        volume_name: str,
        *,
        log: OpenLog,
        image: VolumeImage,
        holders: Holders,
        point_maker: PointMaker,
        admission: Admission,
        policy: PolicyPins,
        events: Events,
    ) -> None:
        self._volume_name = volume_name
        self._log = log
        self._manifest = log.manifest
        self._image = image
        self._holders = holders
        self._point_maker = point_maker
        self._admission = admission
        self._policy = policy
        self._events = events
        self.closed = False
        self._naming: set[str] = set()
        self._turn = asyncio.Lock()

    async def take(self, name: str, expires_s: float = 0.0) -> tuple[PinnedSnapshot, Position]:
        """Make a point and pin it; durable here. The snapshot, and the position of the log that has it. It is
        dropped after so many seconds of lived time, 0: never. Refused: the name is taken."""
        self._refuse_taken(name)
        self._naming.add(name)
        owner, write = f"snapshot {name} being made", self._log.appender.written
        release = self._holders.lease(HolderKind.UNDER_WAY, owner, write)
        try:
            point = await self._point_maker.cut() or self._image.horizon
            number = point.number if isinstance(point, Point) else point.point
            pin = PinnedSnapshot(name, point.write, number, point.time_ns)
            async with self._turn:
                position = await self._append_fact(facts.snapshot_taken(pin))
                await self._manifest.record((EditKind.SNAPSHOT, pack_snapshot(pin)), *self._end(name, expires_s))
                return pin, position
        finally:
            self._naming.discard(name)
            release()

    async def bring(self, pin: PinnedSnapshot, *edits: tuple[EditKind, bytes]) -> None:
        """Pin a moment of the past, which is here once ``edits`` stand; durable here. A name that the volume has
        given to that moment already is no news to the log. Refused: the name is taken."""
        self.refuse_taken(pin)
        self._naming.add(pin.name)
        try:
            async with self._turn:
                if pin not in self._manifest.state.lacking:
                    await self._append_fact(facts.snapshot_taken(pin))
                together = pack_together([*edits, (EditKind.SNAPSHOT, pack_snapshot(pin))])
                await self._manifest.record((EditKind.TOGETHER, together))
        finally:
            self._naming.discard(pin.name)

    def refuse_taken(self, pin: PinnedSnapshot) -> None:
        """Refused: another moment has that name, here or at the volume's other copies."""
        self._refuse_taken(pin.name)
        if any(each.name == pin.name and each.write != pin.write for each in self._manifest.state.lacking):
            raise Refused(
                "snapshot-exists", f"{pin.name} is another moment of {self._volume_name}, which is not here.",
                "Choose another name: --name.",
            )  # fmt: skip

    def _end(self, name: str, expires_s: float) -> list[tuple[EditKind, bytes]]:
        if not expires_s:
            return []
        terms = SnapshotTerms(name, self._policy.now_ms + max(1, int(expires_s * 1000)))
        return [(EditKind.TERMS, pack_terms(terms))]

    async def hold(self, name: str, held: bool) -> None:
        """While it is held nobody drops a snapshot, nor does its end of time; durable. NotFound: there is none."""
        self._refuse_unknown(name)
        terms = replace(self._manifest.state.retention.terms_of(name), held=held)
        await self._manifest.record((EditKind.TERMS, pack_terms(terms)))

    async def drop_expired(self) -> None:
        """Drop the snapshots whose time is over. One that is held, or that a clone lies over, stays until it is
        not."""
        state, now_ms = self._manifest.state, self._policy.now_ms
        if self._log.turn.taken:  # the next round will do: the volume's upkeep need not wait for it
            return
        over = {each.name for each in state.retention.terms if 0 < each.expires_ms <= now_ms and not each.held}
        for pin in state.snapshots:
            if pin.name in over and pin.write not in state.clones.writes() and not self.closed:
                self._events.tell(f"snapshot {pin.name} is dropped: the time for which it was to be kept is over")
                await self.drop(pin.name)

    async def drop(self, name: str) -> None:
        """Forget a snapshot: its moment is kept only as long as any other. NotFound: there is none; Refused: it is
        held."""
        if name.startswith(LOST_PREFIX):
            raise Refused(
                "kept-for-mirror",
                f"{name} is no snapshot: it is kept for a mirror until that stands there.",
                "It goes by itself, or with 'revolume mirror remove'.",
            )
        self._refuse_unknown(name)
        if self._manifest.state.retention.terms_of(name).held:
            cause = f"Snapshot {name} of {self._volume_name} is held."
            raise Refused("snapshot-held", cause, f"'revolume snapshot DIR {name} --release' lets go of it.")
        async with self._turn:
            await self._append_fact(facts.snapshot_dropped(name))
            await self._manifest.record((EditKind.DROP_SNAPSHOT, name.encode()))

    def _refuse_unknown(self, name: str) -> None:
        if all(s.name != name for s in self._manifest.state.snapshots):
            what = f"{self._volume_name} has no snapshot {name}."
            names = ", ".join(s.name for s in self._manifest.state.snapshots) or "none"
            raise NotFound("no-snapshot", what, f"It has: {names}.")

    async def listed(self) -> tuple[tuple[PinnedSnapshot, ...], Position]:
        """The snapshots, with all that the log says of names up to the position that comes with them. What it says
        behind that position is in none of them."""
        async with self._turn:
            return self._manifest.state.snapshots, self._log.commit.durable

    async def _append_fact(self, body: bytes) -> Position:
        """Append a fact to the log and make it durable; its position."""
        draft, log = facts.draft(body), self._log
        await log.turn.passed()
        while not log.appender.fits(draft) and not log.pool.ready:
            await self._admission.wait(1, True)
            await log.turn.passed()
        if self.closed:
            raise Refused("closing", f"{self._volume_name} is being closed.", "Open it again.")
        log.writer.emit(draft)
        position = log.appender.position
        await log.commit.wait_durable(position)
        return position

    def _refuse_taken(self, name: str) -> None:
        if name in {s.name for s in self._manifest.state.snapshots} | self._naming:
            raise Refused("snapshot-exists", f"{self._volume_name} has a snapshot {name}.", "Choose another name.")
