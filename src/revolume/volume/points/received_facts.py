"""Facts in a mirror's log, taken over in the log's order: epochs, names, members and the points from which members
can be brought up to date are recorded in its manifest, steps of the clock are kept in memory.

A fact that the manifest has already changes nothing there: after a crash the last ones come again.
"""

from __future__ import annotations

from collections.abc import Callable

from revolume.blocks.numbers import Position, WriteNumber
from revolume.log.format.transfer import Transfer
from revolume.volume.clocks.label_clock import ClockStep
from revolume.volume.clocks.volume_clocks import VolumeClocks
from revolume.volume.members.received_log import bad_transfer
from revolume.volume.members.resync_points import PinnedResyncPoints
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.manifest_edits import EditKind, pack_number
from revolume.volume.metadata.manifest_state import Epoch, PinnedSnapshot
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.member_record import pack_membership
from revolume.volume.metadata.moment_edits import pack_epoch, pack_snapshot


class ReceivedFacts:
    """Of one mirror's copy."""

    def __init__(
        self,
        manifest: ManifestWriter,
        *,
        clocks: VolumeClocks,
        resync_points: PinnedResyncPoints,
        hold: Callable[[WriteNumber, str], Callable[[], None] | None],
    ) -> None:
        """``hold`` keeps a moment from being folded away until what it returns is called; None: it is gone."""
        self._manifest = manifest
        self._clocks = clocks
        self._resync_points = resync_points
        self._hold = hold

    async def record(self, transfer: Transfer) -> None:
        """Take over the fact that is this transfer's body; what of it belongs in the manifest is durable when this
        returns. RevolumeError: it is no fact that may stand there."""
        state, at = self._manifest.state, transfer.position
        match facts.unpack(transfer.body):
            case facts.EpochBegun(number, reign):
                if (number, reign) != (transfer.epoch, transfer.reign):
                    raise bad_transfer(f"the epoch begun at position {at} is not the transfer's own")
                if all(e.number != number for e in state.epochs):
                    epoch = Epoch(number, reign, Position(at - 1), transfer.write)
                    await self._manifest.record((EditKind.EPOCH, pack_epoch(epoch)), *self._no_mirrors())
            case facts.SnapshotTaken() | facts.SnapshotDropped() if at <= state.names_position:
                pass  # this copy was told what became of that name when it began
            case facts.SnapshotTaken(pin):
                if all(s.name != pin.name for s in (*state.snapshots, *state.lacking)):
                    await self._pin(pin)
            case facts.SnapshotDropped(name):
                await self._manifest.record((EditKind.DROP_SNAPSHOT, name.encode()))
            case facts.MemberStated() | facts.MemberGone() if at <= state.names_position:
                pass  # as with names
            case facts.MemberStated(member):
                if member not in state.members:
                    await self._manifest.record((EditKind.MEMBERSHIP, pack_membership(member)))
            case facts.MemberGone(name):
                own = any(member.name == name and member.node == state.node for member in state.members)
                detached = [(EditKind.DETACHED, pack_number(at))] if own else []
                await self._manifest.record((EditKind.DROP_MEMBERSHIP, name.encode()), *detached)
            case facts.ResyncPointStated(resync):
                await self._resync_points.stated(resync)
            case facts.ClockStepped(from_ns, to_ns):
                step = ClockStep(transfer.write, at, from_ns, to_ns)
                self._clocks.steps.append(step)
                self._clocks.source.stepped(step.by_ns)
            case _:
                raise bad_transfer(f"the fact at position {at} is not one that is known")

    def _no_mirrors(self) -> list[tuple[EditKind, bytes]]:
        """Another primary has been since this copy was one: its mirrors are that one's."""
        state = self._manifest.state
        dropped = [(EditKind.DROP_MIRROR, mirror.name.encode()) for mirror in state.mirrors]
        return [*dropped, (EditKind.HANDED_TO, b"")] if state.handed_to else dropped

    async def _pin(self, pin: PinnedSnapshot) -> None:
        """A fold that begins meanwhile does not know the name yet."""
        release = self._hold(pin.write, f"snapshot {pin.name} being recorded")
        kind = EditKind.LACKING if release is None else EditKind.SNAPSHOT
        try:
            await self._manifest.record((kind, pack_snapshot(pin)))
        finally:
            if release is not None:
                release()
